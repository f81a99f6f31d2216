"""Small wheels, made by hand: real ones, with a RECORD that pip accepts and real entry points."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

TINY = '''
from pydantic import BaseModel
from fslm_core import Stack, hookimpl, tool


class Said(BaseModel):
    text: str


class Heard(BaseModel):
    heard: str


@tool("{name}.hear", version="{version}", pure=True)
def hear(message: Said) -> Heard:
    """Say which version heard it."""
    return Heard(heard="{version}: " + message.text)


@hookimpl
def fslm_stages():
    return [hear]


@hookimpl
def fslm_stacks():
    return [Stack("{name}", input=Said, output=Heard, steps=[hear], description="Hears.")]
'''
"""A plugin of one tool stage."""

LABELS = """
from typing import Literal

from pydantic import BaseModel, Field
from fslm_core import SLM, Stack, Stage, files, hookimpl

here = files(__name__)


class Text(BaseModel):
    text: str = Field(max_length=100)


class Label(BaseModel):
    label: Literal["good", "bad"]


label = Stage(
    "{name}.label",
    input=Text,
    output=Label,
    prompt=here / "prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "adapter"),
    description="Good or bad.",
)


@hookimpl
def fslm_stages():
    return [label]


@hookimpl
def fslm_stacks():
    return [Stack("{name}", input=Text, output=Label, steps=[label])]
"""
"""A plugin of one stage with an adapter; ``prompt.jinja`` and ``adapter/`` go with it."""

PROMPT = "Text: {{ text }}"


def make_wheel(
    folder: Path,
    distribution: str,
    version: str,
    files: Mapping[str, str | bytes],
    *,
    points: Mapping[str, str],
    requires: Sequence[str] = ("fslm-core>=0.1,<0.2",),
    headers: Sequence[str] = (),
) -> Path:
    """Write a wheel into ``folder``.

    Args:
        files: name to content.
        points: the entry points in group ``fslm``, name to module.
        headers: more lines of METADATA.
    """
    stem = f"{distribution.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    needs = [f"Requires-Dist: {text}" for text in requires]
    metadata = ["Metadata-Version: 2.4", f"Name: {distribution}", f"Version: {version}", *headers, *needs]
    contents = {
        **files,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[fslm]\n" + "".join(f"{name} = {module}\n" for name, module in points.items()),
    }
    raw = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
    lines = [f"{name},sha256={_encoded(data)},{len(data)}" for name, data in raw.items()]
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in raw.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return wheel


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def tiny_wheel(folder: Path, version: str, *, name: str = "tiny", requires: Sequence[str] | None = None) -> Path:
    """A plugin ``fslm-NAME`` with the stack NAME, which says its version."""
    module = f"fslm_{name}"
    return make_wheel(
        folder,
        f"fslm-{name}",
        version,
        {f"{module}/__init__.py": TINY.format(name=name, version=version)},
        points={name: module},
        requires=("fslm-core>=0.1,<0.2",) if requires is None else requires,
        headers=("Summary: A tiny plugin", "License-Expression: MIT"),
    )


def adapter_files(stage: str, *, input_schema: str, output_schema: str, **record: object) -> dict[str, bytes]:
    """The files of a whole, tiny adapter, and an ``fslm.json`` that was written for it."""
    header = {"x.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    raw = json.dumps(header).encode()
    weights = struct.pack("<Q", len(raw)) + raw + bytes(24)
    known = {
        "stage": stage,
        "base": "smollm2-135m",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "template": hashlib.sha256(PROMPT.encode()).hexdigest(),
        "input_schema": input_schema,
        "output_schema": output_schema,
        "data_sha256": "d" * 64,
        "languages": ["en"],
        "licences": {"rows": "CC0-1.0"},
        "scores": {"exact": 0.75},
        "recipe": {"epochs": 2, "lora": {"rank": 2}},
    }
    return {
        "adapter_config.json": b'{"peft_type": "LORA", "r": 2}',
        "adapter_model.safetensors": weights,
        "fslm.json": json.dumps({**known, **record}).encode(),
    }


def unpack(wheel: Path, site: Path) -> None:
    """Install a wheel as pip does, into a folder that is on the path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


__all__ = ["LABELS", "PROMPT", "TINY", "adapter_files", "make_wheel", "tiny_wheel", "unpack"]
