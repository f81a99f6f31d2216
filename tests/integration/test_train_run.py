"""`run_recipe` on a tiny random model: what comes out, that it repeats to the byte, and that a stopped run goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from fslm_core.adapter import inspect
from fslm_core.backends.protocol import Generation, ModelRef, Request
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.errors import AdapterError, TrainError, TrainInterrupted
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import TorchSettings, load
from fslm_core.stage import SLM, Stage
from fslm_core.train import Estimated, Event, Judged, Noted, Saved, Stepped, TrainResult, load_recipe, run_recipe
from fslm_core.train.rows import Problems, read_rows, split

pytestmark = pytest.mark.torch

RECIPE = """
stage = "demo.topic"
output = "out"
epochs = 2
seed = 3
languages = ["en"]
notes = "Made by a test."
[data]
train = "rows.jsonl"
fraction = 0.2
[lora]
rank = 4
dropout = 0.1
layers = 1
[optim]
lr = 2e-2
batch_rows = 8
[licences]
"the test's rows" = "Apache-2.0"
"""


class Note(BaseModel):
    """What someone wrote."""

    text: str


class Topic(BaseModel):
    """What it is about."""

    topic: Literal["ORDER", "REFUND"]


class Demo:
    """A plugin with one stage."""

    def __init__(self, base: Path, prompt: str = "{% block user %}Topic of: {{ text }}{% endblock %}") -> None:
        self.stage: Stage[Note, Topic] = Stage(
            "demo.topic", input=Note, output=Topic, prompt=prompt, model=SLM(base=str(base))
        )

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        """Offer it."""
        return [self.stage]


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Half of them order, half want their money back."""
    wants = [("an order of chair", "ORDER"), ("money back for", "REFUND")]
    return [
        {"input": {"text": f"{wants[i % 2][0]} {'x' * (i % 7)}{i}"}, "output": {"topic": wants[i % 2][1]}}
        for i in range(count)
    ]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a recipe and its rows."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write(tmp_path / "rows.jsonl", rows())
    return tmp_path


def write(path: Path, data: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))


def train(place: Path, base: Path, **more: Any) -> TrainResult:
    settings = load(files=())
    host = PluginHost(settings, plugins={"demo": Demo(base)}, installed=False)
    return run_recipe(place / "recipe.toml", settings=settings, host=host, **more)


def weights(result: TrainResult) -> bytes:
    return (result.adapter / "adapter_model.safetensors").read_bytes()


def test_an_adapter_folder_comes_out_and_serves(place: Path, tiny_model: Callable[..., Path]) -> None:
    told: list[Event] = []
    base = tiny_model("llama")
    result = train(place, base, progress=told.append)

    info = inspect(place / "out")
    assert info.record is not None and info.sha256 == result.sha256
    assert info.record.sha256 == info.sha256
    record = info.record.model_dump()
    assert info.config["base_model_name_or_path"] == str(base)
    assert (record["stage"], record["base"], record["seed"]) == ("demo.topic", str(base), 3)
    assert record["scores"]["exact"] == pytest.approx(result.scores["exact"], abs=1e-6)
    assert record["scores"]["valid"] == 1.0
    assert record["recipe"]["data"]["train"] == "rows.jsonl"
    assert record["licences"]["the test's rows"] == "Apache-2.0"
    assert (place / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
    steps = [json.loads(line) for line in (place / "out" / "loss.jsonl").read_text().splitlines()]
    assert len(steps) == len([e for e in told if isinstance(e, Stepped)]) == record["training"]["steps"]
    card = (place / "out" / "README.md").read_text()
    assert "Apache-2.0" in card and result.sha256 in card and "Made by a test." in card
    assert [e.epoch for e in told if isinstance(e, Judged)] == [1, 2]
    assert result.scores["exact"] == max(s["exact"] for s in record["epoch_scores"])


def test_it_learns(place: Path, tiny_model: Callable[..., Path]) -> None:
    result = train(place, tiny_model("llama"), overrides=["epochs=12", "lora.layers=2", "lora.dropout=0.0"])
    losses = [json.loads(line)["loss"] for line in (result.work / "loss.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < sum(losses[:5]) / 4
    assert result.scores["exact"] >= 0.9


def test_the_score_is_that_of_the_serving_backend(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    result = train(place, base, overrides=["optim.lr=2e-3"])
    stage = Demo(base).stage
    _, select = split(read_rows(place / "rows.jsonl", stage, Problems()), load_recipe(place / "recipe.toml").data)
    model = ModelRef(checkpoint=str(base), path=base, adapter=result.adapter, adapter_sha256=result.sha256)

    async def serve() -> list[str]:
        backend = TorchBackend(TorchSettings())
        texts = []
        for row in select:
            assert isinstance(row.input, Note)
            request = Request(str(row.number), stage.render(row.input), model, row.schema.text, stage.max_tokens)
            texts += [part.text async for part in backend.open(request) if isinstance(part, Generation)]
        await backend.aclose()
        return texts

    right = sum(text == row.target for text, row in zip(asyncio.run(serve()), select, strict=True))
    assert right / len(select) == pytest.approx(result.scores["exact"])


def test_the_same_seed_gives_the_same_bytes(
    place: Path, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tiny_model("llama")
    one = weights(train(place, base))
    assert weights(train(place, base)) == one
    assert weights(train(place, base, overrides=["seed=4"])) != one


def test_training_begins_with_an_adapter(place: Path, tiny_model: Callable[..., Path]) -> None:
    """No step and no rate: what comes out is what went in, and the record says what that was."""
    base = tiny_model("llama")
    first = train(place, base, overrides=["epochs=8", "lora.dropout=0.0"])
    still = [f"lora.start={first.adapter}", f"output={place / 'second'}", "optim.lr=1e-30", "epochs=1"]
    second = train(place, base, overrides=still)
    assert weights(second) == weights(first) and second.scores["exact"] == first.scores["exact"]
    record = inspect(second.adapter).record
    assert record is not None and record.model_dump()["training"]["started_from"] == first.sha256
    assert record.recipe["lora"]["start"] == "out"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (["lora.rank=2"], "of (4, "),
        (["lora.alpha=8"], "lora_alpha = 16"),
        (["lora.layers=2"], "of no shape"),
        (['lora.targets=["q_proj"]'], "down_proj"),
    ],
)
def test_an_adapter_of_another_shape_is_no_beginning(
    place: Path, tiny_model: Callable[..., Path], changes: list[str], found: str
) -> None:
    base = tiny_model("llama")
    first = train(place, base, overrides=["epochs=1"])
    with pytest.raises(TrainError, match="another shape") as caught:
        train(place, base, overrides=[f"lora.start={first.adapter}", *changes])
    assert found in str(caught.value)


def test_an_adapter_of_another_base_is_no_beginning(place: Path, tiny_model: Callable[..., Path]) -> None:
    first = train(place, tiny_model("llama"), overrides=["epochs=1"])
    with pytest.raises(TrainError, match="another base"):
        train(place, tiny_model("mistral"), overrides=[f"lora.start={first.adapter}"])
    with pytest.raises(AdapterError, match="not complete"):
        train(place, tiny_model("llama"), overrides=["lora.start=nowhere"])


class Halt(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_stopped_run_goes_on_exactly(place: Path, tiny_model: Callable[..., Path], kind: str) -> None:
    base = tiny_model(kind)
    often = ["checkpoint_minutes=1e-9"]
    whole = weights(train(place, base, overrides=often))
    stop_at = iter([2, 9])

    def halt(event: Event) -> None:
        if isinstance(event, Saved) and event.step == limit:
            raise Halt

    for limit in stop_at:
        with pytest.raises(Halt):
            train(place, base, overrides=often, resume=limit > 2, progress=halt)
    told: list[Event] = []
    assert weights(train(place, base, overrides=often, resume=True, progress=told.append)) == whole
    assert min(e.step for e in told if isinstance(e, Stepped)) == 10


def test_a_run_stopped_while_an_epoch_was_scored_scores_it_later(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    whole = train(place, base)

    def halt(event: Event) -> None:
        if getattr(event, "what", "") == "scoring" and len(told) == limit:
            raise Halt
        if isinstance(event, Judged):
            told.append(event)

    for limit in (0, 1):
        told: list[Event] = []
        with pytest.raises(Halt):
            train(place, base, resume=limit > 0, progress=halt)
    result = train(place, base, resume=True)
    assert weights(result) == weights(whole)
    assert result.scores == whole.scores and result.epoch == whole.epoch


def test_half_a_checkpoint_is_not_used(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    whole = weights(train(place, base))

    def halt(event: Event) -> None:
        if isinstance(event, Saved):
            raise Halt

    with pytest.raises(Halt):
        train(place, base, overrides=["checkpoint_minutes=1e-9"], progress=halt)
    half = place / "runs" / "recipe" / "checkpoint-99"
    half.mkdir()
    (half / "optimizer.pt").write_bytes(b"cut sh")
    assert weights(train(place, base, overrides=["checkpoint_minutes=1e-9"], resume=True)) == whole


def test_a_checkpoint_of_another_recipe_is_refused(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    train(place, base)
    with pytest.raises(TrainError, match="another recipe"):
        train(place, base, overrides=["optim.lr=1e-3"], resume=True)
    write(place / "rows.jsonl", rows(61))
    with pytest.raises(TrainError, match="another recipe"):
        train(place, base, resume=True)


def test_what_leaves_the_weights_alone_may_change_between(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    whole = weights(train(place, base))
    (place / "rows.jsonl").rename(place / "moved.jsonl")
    more = ["notes=other words", f"data.train={place / 'moved.jsonl'}", f"output={place / 'elsewhere'}"]
    result = train(place, base, overrides=more, resume=True)
    assert result.adapter == place / "elsewhere" and weights(result) == whole


def test_resume_without_a_checkpoint_says_so(place: Path, tiny_model: Callable[..., Path]) -> None:
    told: list[Event] = []
    train(place, tiny_model("llama"), overrides=["epochs=1"], resume=True, progress=told.append)
    assert any(isinstance(e, Noted) and "afresh" in e.text for e in told)


def test_ctrl_c_saves_and_says_how_to_go_on(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    whole = weights(train(place, base))

    def press(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainInterrupted, match="step 3 stands") as caught:
        train(place, base, progress=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert caught.value.exit_code == 130 and "--resume" in str(caught.value)
    assert weights(train(place, base, resume=True)) == whole


def test_a_killed_process_leaves_a_run_that_goes_on(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    whole = weights(train(place, base, overrides=["checkpoint_minutes=1e-9"]))
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from {Path(__file__).stem} import Saved, train
        def die(event):
            if isinstance(event, Saved) and event.step == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        train(Path({str(place)!r}), Path({str(base)!r}), overrides=["checkpoint_minutes=1e-9"], progress=die)
        """
    )
    code = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode
    assert code == -signal.SIGKILL
    assert (place / "out" / "fslm.json").exists(), (
        "the adapter of the run before stays until a whole one takes its place"
    )
    assert weights(train(place, base, overrides=["checkpoint_minutes=1e-9"], resume=True)) == whole


def test_nothing_else_is_overwritten(place: Path, tiny_model: Callable[..., Path]) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainError, match="taken by something else"):
        train(place, tiny_model("llama"))
    assert (place / "out" / "thesis.txt").read_text() == "years of work"


def test_rows_the_stage_refuses_are_counted_before_anything_starts(
    place: Path, tiny_model: Callable[..., Path]
) -> None:
    bad = rows(12)
    bad[3]["output"] = {"topic": "WEATHER"}
    bad[7] = {"input": {"text": 5}, "output": {"topic": "ORDER"}}
    write(place / "rows.jsonl", bad)
    with pytest.raises(TrainError, match="2 rows cannot be trained on") as caught:
        train(place, tiny_model("llama"))
    assert "line 4" in str(caught.value) and "line 8" in str(caught.value)
    assert not (place / "runs").exists() and not (place / "out").exists()


def test_a_row_over_the_context_is_named(place: Path, tiny_model: Callable[..., Path]) -> None:
    write(place / "rows.jsonl", [*rows(12), {"input": {"text": "long " * 600}, "output": {"topic": "ORDER"}}])
    with pytest.raises(TrainError, match="1 row cannot be trained on") as caught:
        train(place, tiny_model("llama"))
    assert "line 13" in str(caught.value) and "context" in str(caught.value)


def test_a_target_module_the_base_lacks_is_named(place: Path, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(TrainError, match="modules the base does not have"):
        train(place, tiny_model("llama"), overrides=['lora.targets=["c_attn"]'])


@pytest.mark.parametrize("balance", ["sampling", "weights"])
def test_balance(place: Path, tiny_model: Callable[..., Path], balance: str) -> None:
    result = train(
        place,
        tiny_model("llama"),
        overrides=[f"data.balance={balance}", "data.balance_by=topic", "epochs=1", "optim.schedule=cosine"],
    )
    assert result.scores["valid"] == 1.0


def test_ctrl_c_before_the_first_step_says_that_nothing_is_there(place: Path, tiny_model: Callable[..., Path]) -> None:
    def press(event: Event) -> None:
        if isinstance(event, Estimated):
            raise KeyboardInterrupt

    with pytest.raises(TrainInterrupted, match="before its first checkpoint"):
        train(place, tiny_model("llama"), progress=press)


def test_two_processes_do_not_share_a_run(place: Path, tiny_model: Callable[..., Path]) -> None:
    def intrude(event: Event) -> None:
        if isinstance(event, Estimated):
            with pytest.raises(TrainError, match="another process"):
                train(place, tiny_model("llama"))

    assert train(place, tiny_model("llama"), overrides=["epochs=1"], progress=intrude).epoch == 1
