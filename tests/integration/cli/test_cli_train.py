"""``fslm train`` on a tiny random model: the adapter it prints, Ctrl-C, ``--resume``, and the stack that runs it."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, install, wait_for

pytestmark = pytest.mark.torch

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]

PLUGIN = """
import os
from pathlib import Path
from typing import Literal
from pydantic import BaseModel
from fslm_core import SLM, Stack, Stage, hookimpl

class Note(BaseModel):
    text: str

class Topic(BaseModel):
    topic: Literal["ORDER", "REFUND"]

topic = Stage(
    "tiny.topic", input=Note, output=Topic, prompt="Topic of: {{ text }}",
    model=SLM(base=os.environ["TINY_BASE"], adapter=Path(os.environ["TINY_BASE"]) / "../adapter"),
)

@hookimpl
def fslm_stages():
    return [topic]

@hookimpl
def fslm_stacks():
    return [Stack("tiny", input=Note, output=Topic, steps=[topic])]
"""

RECIPE = """
stage = "tiny.topic"
output = "made"
epochs = 1
languages = ["en"]
[data]
train = "rows.jsonl"
fraction = 0.2
[lora]
rank = 2
layers = 1
[optim]
batch_rows = 4
"""


@pytest.fixture
def recipe(
    environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> Path:
    """A recipe for the tiny plugin's stage, and its rows."""
    install(installed, "tiny", PLUGIN)
    monkeypatch.setenv("TINY_BASE", str(tiny_model("llama")))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,tiny")
    monkeypatch.setenv("FSLM_BACKEND", "torch")
    rows = [
        {"input": {"text": f"{'order' if n % 2 else 'money'} {n}"}, "output": {"topic": "ORDER" if n % 2 else "REFUND"}}
        for n in range(80)
    ]
    (environment / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (environment / "recipe.toml").write_text(RECIPE)
    return environment / "recipe.toml"


def test_it_prints_the_adapter_and_the_stack_runs_it(fslm: Fslm, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = fslm("train", str(recipe), "--set", "optim.lr=1e-3")
    assert trained.code == 0, trained.err
    adapter = Path(trained.out.strip())
    assert adapter == recipe.parent / "made" and (adapter / "adapter_model.safetensors").is_file()
    for part in ("estimate: ", "loss ", "tokens/s", "epoch 1: exact", "best epoch 1"):
        assert part in trained.err
    refused = fslm("run", "tiny", "an order")
    assert refused.code == 3 and "adapter" in refused.err
    (recipe.parent / "fslm.toml").write_text(f'[stages."tiny.topic"]\nadapter = "{adapter}"\n')
    ran = fslm("run", "tiny", "an order")
    assert ran.code == 0 and ran.data["topic"] in ("ORDER", "REFUND")
    shown = fslm("check", "tiny")
    assert "static tokens" in shown.out and "adapter replaced by the settings" in shown.out


def test_it_tells_how_far_the_stage_is_from_its_teacher(fslm: Fslm, recipe: Path, tiny_model: Any) -> None:
    taught = fslm("train", str(recipe), "--set", f"distill.base={tiny_model('llama')}", "--set", "distill.weight=0.5")
    assert taught.code == 0, taught.err
    assert ", divergence 0." in taught.err and "the teacher, tiny-llama0, takes 0.0 MB of memory" in taught.err
    refused = fslm("train", str(recipe), "--set", "distill.base=x", "--preferences", "pairs.jsonl")
    assert refused.code == 2 and "distill does not go with preference" in refused.err


def test_what_is_wrong_with_a_recipe_is_told(fslm: Fslm, recipe: Path) -> None:
    result = fslm("train", str(recipe), "--set", "stage=tiny.topik")
    assert result.code == 2 and "tiny.topic" in result.err
    result = fslm("train", str(recipe), "--set", "epochs=many")
    assert result.code == 2 and "epochs" in result.err
    (recipe.parent / "rows.jsonl").write_text('{"input": {"text": 5}, "output": {"topic": "ORDER"}}\n')
    result = fslm("train", str(recipe))
    assert result.code == 2 and "rows.jsonl" in result.err


def test_ctrl_c_saves_and_resume_goes_on(spawn: Spawn, fslm: Fslm, recipe: Path) -> None:
    process = spawn("train", str(recipe), "--set", "epochs=6")
    wait_for(process, "step ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "--resume" in err and "Traceback" not in err
    resumed = fslm("train", str(recipe), "--set", "epochs=6", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert Path(resumed.data["adapter"]) == recipe.parent / "made" and Path(resumed.data["work"]).is_dir()
    weights = (recipe.parent / "made/adapter_model.safetensors").read_bytes()
    assert resumed.data["sha256"] == hashlib.sha256(weights).hexdigest() and 1 <= resumed.data["epoch"] <= 6
