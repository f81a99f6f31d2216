"""The model a stage runs here: its adapter must be the one promised and recorded, and the check tells of doubts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Stack, Stage, check_stack
from fslm_core.backends.protocol import Capabilities
from fslm_core.engine.models import disagreements, model_of
from fslm_core.errors import AdapterError
from fslm_core.plugins import PluginHost
from fslm_core.schema import schema_id_of
from fslm_core.settings import Settings, load

from ..wheels import PROMPT, adapter_files


class Text(BaseModel):
    text: str = Field(max_length=100)


class Label(BaseModel):
    label: Literal["good", "bad"]


def adapter(folder: Path, **record: object) -> Path:
    """Write an adapter folder that was made for :func:`stage`."""
    known = {"input_schema": schema_id_of(Text), "output_schema": schema_id_of(Label)}
    folder.mkdir()
    for name, data in adapter_files("a.label", **{**known, **record}).items():  # type: ignore[arg-type]
        (folder / name).write_bytes(data)
    return folder


def stage(folder: Path) -> Stage[Text, Label]:
    return Stage("a.label", input=Text, output=Label, prompt=PROMPT, model=SLM("smollm2-135m", adapter=folder))


def settings(**override: Any) -> Settings:
    return load(files=(), stages={"a.label": override} if override else {})


def doubts(folder: Path, **override: Any) -> tuple[list[str], list[str]]:
    chosen, made = settings(**override), stage(folder)
    return disagreements(made, model_of(made, PluginHost(chosen, installed=False), chosen, Capabilities()), None)


def test_an_adapter_that_agrees_with_its_record_and_its_stage_is_not_spoken_of(tmp_path: Path) -> None:
    assert doubts(adapter(tmp_path / "own")) == ([], [])


def test_weights_that_are_not_those_of_the_record_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "own")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(AdapterError, match=r"not those that its fslm\.json was written for") as caught:
        doubts(folder)
    assert caught.value.found == f"SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()}"
    report = check_stack(
        Stack("a", input=Text, output=Label, steps=[stage(folder)]),
        host=PluginHost(settings(), installed=False),
        settings=settings(),
    )
    assert any("not those that its fslm.json was written for" in error for error in report.errors)


def test_a_record_without_the_hash_vouches_for_less(tmp_path: Path) -> None:
    assert doubts(adapter(tmp_path / "own", sha256=None)) == ([], [])


@pytest.mark.parametrize(
    ("key", "where", "text"),
    [
        ("output_schema", 0, "the output schema of Label changed since the adapter was trained"),
        ("input_schema", 1, "the input schema of Text changed since the adapter was trained"),
        ("template", 1, "the prompt template changed since the adapter was trained"),
    ],
)
def test_what_changed_since_the_training_is_told(tmp_path: Path, key: str, where: int, text: str) -> None:
    found = doubts(adapter(tmp_path / "own", **{key: "another"}))
    assert found[where][0].startswith(text)
    assert found[1 - where] == []


def test_an_adapter_of_the_settings_without_its_hash_is_warned_of_with_the_line_to_write(tmp_path: Path) -> None:
    own, other = adapter(tmp_path / "own"), adapter(tmp_path / "other")
    sha256 = hashlib.sha256((other / "adapter_model.safetensors").read_bytes()).hexdigest()
    errors, (warning,) = doubts(own, adapter=other)
    assert errors == []
    assert f"whatever lies in {other} is run" in warning and warning.endswith(f'write sha256 = "{sha256}"')
    assert doubts(own, adapter=other, sha256=sha256) == ([], [])
    with pytest.raises(AdapterError, match="not the ones promised"):
        doubts(own, adapter=other, sha256="0" * 64)
