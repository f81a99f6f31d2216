"""A tiny plugin as pip would install it: a stage, a tool, a stack, and tests of its own. Each part can be broken."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

import fslm_core.testing.plugin  # noqa: F401  (pytester forgets what is first imported in a run of its own)
from fslm_core.schema import schema_id_of

with contextlib.suppress(ImportError):
    import llguidance  # noqa: F401  (likewise)

PLUGIN = '''\
"""What does a reviewer think?"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from fslm_core import SLM, Decoding, Stack, Stage, Step, files, hookimpl, tool

here = files(__name__)


class Review(BaseModel):
    text: Annotated[str, Field(min_length=1)]


class Opinion(BaseModel):
    sentiment: Literal["good", "bad"]
    stars: Annotated[int, Field(ge=1, le=5)]


class Reply(BaseModel):
    reply: Annotated[str, Field(max_length=40)]


class Handled(BaseModel):
    sentiment: Literal["good", "bad"]
    reply: str


opinion = Stage(
    "demo.opinion",
    input=Review,
    output=Opinion,
    prompt=here / "prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "adapter"),
    description="What a reviewer thinks.",
)


@tool("demo.reply", version="1", pure=True)
def reply(message: Opinion) -> Reply:
    """Draft a reply."""
    return Reply(reply="We are sorry." if message.sentiment == "bad" else "Thank you.")


demo = Stack("demo", input=Review, output=Handled, steps=[opinion, reply], description="Handle a review.")


@hookimpl
def fslm_stages():
    return [opinion, reply]


@hookimpl
def fslm_stacks():
    return [demo]
'''
PROMPT = "{% block system %}opinion{% endblock %}{% block user %}{{ text }}{% endblock %}\n"
CONFTEST = 'pytest_plugins = ["fslm_core.testing.plugin"]\n'
CONTRACTS = """\
import fslm_demo
import pytest
from fslm_core.testing import PluginContract, StackContract, StageContract, ToolContract


class TestPlugin(PluginContract):
    @pytest.fixture
    def plugin(self):
        return fslm_demo


class TestOpinion(StageContract):
    max_examples = 10

    @pytest.fixture
    def stage(self):
        return fslm_demo.opinion


class TestReply(ToolContract):
    max_examples = 5

    @pytest.fixture
    def stage(self):
        return fslm_demo.reply


class TestDemo(StackContract):
    @pytest.fixture
    def stack(self):
        return fslm_demo.demo
"""
METADATA = """\
Metadata-Version: 2.1
Name: fslm-demo
Version: 1.0
Requires-Dist: fslm-core[torch]>=0.1
"""
WEIGHTS = {"x.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


class Review(BaseModel):
    """As the plugin defines it, for the ids of its schemas."""

    text: Annotated[str, Field(min_length=1)]


class Opinion(BaseModel):
    """As the plugin defines it."""

    sentiment: Literal["good", "bad"]
    stars: Annotated[int, Field(ge=1, le=5)]


def weights() -> bytes:
    """A safetensors file of one small tensor."""
    raw = json.dumps(WEIGHTS).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * 24


def record(**changes: object) -> str:
    """``fslm.json`` of the plugin's adapter."""
    told: dict[str, object] = {
        "stage": "demo.opinion",
        "base": "smollm2-135m",
        "template": hashlib.sha256(PROMPT.encode()).hexdigest(),
        "input_schema": schema_id_of(Review),
        "output_schema": schema_id_of(Opinion),
        "sha256": hashlib.sha256(weights()).hexdigest(),
    }
    return json.dumps({**told, **changes})


def install(site: Path, changes: Mapping[str, str | bytes | None] | None = None) -> None:
    """Put the plugin into ``site`` as pip would, and its tests beside it into ``tests``.

    Args:
        changes: file to what it holds instead; None leaves it out. RECORD is made of what the files hold;
            ``unrecorded:FILE`` changes one after that.
    """
    info = "fslm_demo-1.0.dist-info"
    package: dict[str, str | bytes | None] = {
        "fslm_demo/__init__.py": PLUGIN,
        "fslm_demo/prompt.jinja": PROMPT,
        "fslm_demo/adapter/adapter_config.json": '{"peft_type": "LORA", "r": 2}',
        "fslm_demo/adapter/adapter_model.safetensors": weights(),
        "fslm_demo/adapter/fslm.json": record(),
        f"{info}/METADATA": METADATA,
        f"{info}/entry_points.txt": "[fslm]\ndemo = fslm_demo\n",
    }
    tests: dict[str, str | bytes | None] = {"tests/conftest.py": CONFTEST, "tests/test_contracts.py": CONTRACTS}
    given = dict(changes or {})
    later = {name.partition(":")[2]: given.pop(name) for name in list(given) if name.startswith("unrecorded:")}
    tests |= {name: given.pop(name) for name in list(given) if name.startswith("tests/")}
    package |= given
    lines = [f"{name},{_recorded(text)}" for name, text in package.items() if text is not None]
    package |= {f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n", **later}
    for home, files in ((site, package), (site.parent, tests)):
        for name, text in files.items():
            if text is not None:
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def _recorded(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    encoded = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()
    return f"sha256={encoded},{len(raw)}"


__all__ = ["CONTRACTS", "METADATA", "PLUGIN", "PROMPT", "install", "record", "weights"]
