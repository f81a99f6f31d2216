"""Two processes, as torchrun starts them, train what one does; what only one process can do is refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fslm_core.errors import TrainError
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.train import Saved, Stepped, TrainResult, run_recipe
from fslm_core.train.processes import Processes

from ..tuning import Demo, place, rows, tune, write

pytestmark = pytest.mark.torch

RECIPE = """
stage = "demo.topic"
output = "out"
epochs = 2
seed = 3
[data]
train = "train.jsonl"
fraction = 0.2
[lora]
rank = 2
layers = 1
[optim]
lr = 2e-2
batch_rows = 5
"""


def main(base: str, recipe: str, stop: str) -> None:
    """What each of two processes does, and writes down in a file of its own; see :func:`together`."""
    told: list[str] = []

    def note(event: Any) -> None:
        told.append(type(event).__name__)
        if isinstance(event, Saved) and event.step == int(stop):
            os._exit(9)  # as if it had been killed

    settings = load(files=())
    host = PluginHost(settings, plugins={"demo": Demo(Path(base))}, installed=False)
    ways: Any = {"overrides": ["checkpoint_minutes=1e-9"], "resume": not int(stop), "progress": note}
    try:
        came = run_recipe(Path(recipe), settings=settings, host=host, **ways).sha256
    except TrainError as error:
        came = error.what
    place = Path(recipe).with_name(f"told-{os.environ['RANK']}.json")
    place.write_text(json.dumps([came, sorted(set(told))]))
    sys.exit(came.startswith("another"))


def together(base: Path, recipe: Path, stop: int = 0) -> list[int]:
    """Run :func:`main` in two processes that find each other by the variables that torchrun sets; their exits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    script += "from tests.integration.test_train_processes import main; main(*sys.argv[1:])"
    started = []
    for rank in ("0", "1"):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", script, str(base), str(recipe), str(stop)]
        started.append(subprocess.Popen(command, env={**os.environ, **env}))
    return [one.wait() for one in started]


def prepared(folder: Path) -> Path:
    data = [{"input": row["input"], "output": row["steps"]["topic"]} for row in rows(43)]
    folder.mkdir()
    write(folder / "train.jsonl", data)
    (folder / "topic.toml").write_text(RECIPE)
    return folder / "topic.toml"


def alone(base: Path, recipe: Path) -> TrainResult:
    settings = load(files=())
    return run_recipe(
        recipe, settings=settings, host=PluginHost(settings, plugins={"demo": Demo(base)}, installed=False)
    )


def assert_alike(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=2e-2, atol=2e-4)


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_does_also_when_they_are_killed(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Batches of five rows, so shares of three and two; ended after three steps, then gone on with."""
    base = tiny_model("llama")
    one, two = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    made = alone(base, one)
    assert together(base, two, stop=3) == [9, 1]
    assert json.loads((two.parent / "told-1.json").read_text()) == ["another of the processes has ended", []]
    assert sorted(path.name for path in two.parent.glob("runs/topic/checkpoint-*")) == ["checkpoint-3"]
    assert together(base, two) == [0, 0]
    assert_alike(made.adapter, two.parent / "out")
    assert curve(two.parent / "out") == pytest.approx(curve(made.adapter), abs=1e-4)
    (said, main_told), (same, other_told) = (
        json.loads((two.parent / f"told-{rank}.json").read_text()) for rank in (0, 1)
    )
    assert said == same and Stepped.__name__ in main_told and not other_told


def test_a_share_of_a_small_batch_may_be_empty() -> None:
    assert [list(Processes(index, 3).share([7, 8])) for index in range(3)] == [[7], [8], []]


@pytest.mark.parametrize(
    "section", ["[select]\nshare = 0.5", '[distill]\nbase = "teacher"', '[preference]\npairs = "pairs.jsonl"']
)
def test_what_one_process_does_is_refused_to_several(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    recipe = prepared(tmp_path / "a")
    recipe.write_text(f"{RECIPE}{section}\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="by one process"):
        alone(tiny_model("llama"), recipe)


def test_a_stack_is_tuned_by_one_process(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="by one process"):
        tune(place(tmp_path, rows(24)), Demo(tiny_model("llama")))
