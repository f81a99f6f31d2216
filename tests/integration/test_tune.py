"""`tune_stack` on a tiny random model: what comes out, that it goes on wherever it was stopped, and what it refuses."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fslm_core.adapter import inspect
from fslm_core.engine import Engine
from fslm_core.errors import CheckpointUnavailableError, TrainError
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.train import Saved, Stepped, Working
from fslm_core.tune import Event, Part, TuneReport, TuneResult

from ..tuning import RECIPE, TEACHER, Demo, place, plan, rows, topic_of, tune, write

pytestmark = pytest.mark.torch

TAUGHT = {"teacher.demo.topic": topic_of}
STAGES = ("demo.topic", "demo.reply")
OFTEN = ["train.checkpoint_minutes=1e-9"]


class Halt(Exception):
    """Stands for whatever ends a process."""


def weights(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "adapters" / name / "adapter_model.safetensors").read_bytes() for name in STAGES}


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """A whole tuning, its messages written by a teacher."""
    recipe = place(tmp_path_factory.mktemp("finished"), rows(24, topics=False), RECIPE + TEACHER)
    return tune(recipe, Demo(base, TAUGHT), overrides=OFTEN)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The same, not begun."""
    return place(tmp_path, rows(24, topics=False), RECIPE + TEACHER)


def test_adapters_and_a_report_come_out(finished: TuneResult, base: Path) -> None:
    for name in STAGES:
        record = inspect(finished.adapters[name]).record
        assert record is not None and record.stage == name and finished.adapters[name].parent.name == "adapters"
    report = TuneReport.model_validate_json((finished.work / "report.json").read_text())
    assert report == finished.report
    topic, reply = report.messages
    assert (topic.written, topic.given, topic.calls, reply.given) == (24, 0, 24, 24)
    assert report.dev_written == {"topic": report.plan.dev, "reply": 0}
    assert [scores.when for scores in report.scores] == ["before", "after round 1", "after round 2"]
    for scores in report.scores:
        for step in scores.steps:
            for figure in (step.gold_fed, step.predicted_fed):
                assert figure is not None and figure.n == report.plan.dev
                assert figure.low is not None and figure.low <= (figure.value or 0) <= (figure.high or 0)
    page = (finished.work / "report.md").read_text()
    assert "## Scores" in page and "topic, fed with gold" in page and 'adapter = "adapters/demo.topic"' in page


def test_the_second_round_is_about_what_the_first_step_really_says(finished: TuneResult) -> None:
    stages = {(stage.round, stage.stage): stage for stage in finished.report.stages}
    assert not stages[2, "demo.topic"].again, "nobody comes before it"
    assert stages[2, "demo.topic"].sha256 == stages[1, "demo.topic"].sha256
    first, second = stages[1, "demo.reply"], stages[2, "demo.reply"]
    assert second.fed > 0 and second.rows == first.rows + second.fed
    lines = (finished.work / "round-2" / "demo.reply" / "rows.jsonl").read_text().splitlines()
    truth = {row["input"]["text"]: topic_for(row) for row in rows(24)}
    new = [json.loads(line) for line in lines[first.rows :]]
    assert len(new) == second.fed and all(row["input"]["topic"] != truth[row["input"]["text"]] for row in new)


def topic_for(row: dict[str, Any]) -> str:
    topic: str = row["steps"]["topic"]["topic"]
    return topic


def test_the_adapters_run_by_the_settings_it_tells(finished: TuneResult, base: Path, tmp_path: Path) -> None:
    (tmp_path / "fslm.toml").write_text(finished.report.to_settings(finished.work))
    settings = load(files=[tmp_path / "fslm.toml"])
    demo = Demo(base)
    host = PluginHost(settings, plugins={"demo": demo}, installed=False)
    with Engine([demo.stack], settings=settings, host=host, trace=False) as engine:
        run = engine.run(demo.stack, {"text": "chair x0"})
        assert not [w for w in engine.check(demo.stack).warnings if "untuned" in w]
    assert run.output.action in ("ship", "pay")


def test_a_finished_tuning_is_not_done_again(finished: TuneResult, base: Path) -> None:
    told: list[Event] = []
    before = weights(finished.work)

    def silenced(request: object) -> str:
        raise AssertionError("asked again")

    again = tune(
        finished.work.parent.parent / "tune.toml",
        Demo(base, {"teacher.demo.topic": silenced}),
        overrides=OFTEN,
        progress=told.append,
    )
    assert not any(isinstance(event, Stepped) for event in told)
    assert again.report == finished.report and weights(again.work) == before


def test_a_killed_tuning_goes_on_in_another_place(
    recipe: Path, base: Path, finished: TuneResult, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is killed while the second stage trains, moved, and ends with the same weights; nothing is paid for twice."""
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        from fslm_core.train import Saved
        from fslm_core.tune import Part
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from tuning import Demo, topic_of, tune
        part = ""
        def die(event):
            global part
            part = event.what if isinstance(event, Part) else part
            if part == "training demo.reply" and isinstance(event, Saved):
                os.kill(os.getpid(), signal.SIGKILL)
        demo = Demo(Path({str(base)!r}), {{"teacher.demo.topic": topic_of}})
        tune(Path({str(recipe)!r}), demo, overrides={OFTEN!r}, progress=die)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(recipe.parent, moved)
    told: list[Event] = []

    def silenced(request: object) -> str:
        raise AssertionError("asked again")

    demo = Demo(base, {"teacher.demo.topic": silenced})
    result = tune(moved / "tune.toml", demo, overrides=OFTEN, progress=told.append)
    assert weights(result.work) == weights(finished.work)
    assert next(event.step for event in told if isinstance(event, Stepped)) > 1, "it went on from the checkpoint"


@pytest.mark.parametrize("part", ["messages", "scores after round 1", "round 2, demo.reply"])
def test_it_goes_on_from_every_part(recipe: Path, base: Path, finished: TuneResult, part: str) -> None:
    def halt(event: Event) -> None:
        if isinstance(event, Part) and event.what == part:
            raise Halt

    with pytest.raises(Halt):
        tune(recipe, Demo(base, TAUGHT), overrides=OFTEN, progress=halt)
    result = tune(recipe, Demo(base, TAUGHT), overrides=OFTEN)
    assert weights(result.work) == weights(finished.work)


def test_a_plan_says_what_it_would_take_and_makes_no_adapter(recipe: Path, base: Path, finished: TuneResult) -> None:
    asked: list[str] = []

    def counted(request: Any) -> str:
        asked.append(request.id)
        return topic_of(request)

    made = plan(recipe, Demo(base, {"teacher.demo.topic": counted}))
    assert len(asked) == 4 and not list(recipe.parent.glob("runs/tune/round-*"))
    (teaching,) = made.teaching
    assert (teaching.step, teaching.missing, teaching.calls) == ("topic", 24, 20) and teaching.tokens == 100
    assert made.train + made.select + made.dev == 24
    topic, reply = made.training
    known = {stage.stage: stage for stage in finished.report.stages if stage.round == 1}
    assert (topic.stage, topic.rows, topic.exposed) == ("demo.topic", known["demo.topic"].rows, 0)
    assert reply.rows == known["demo.reply"].rows and reply.exposed > reply.seconds > 0
    assert reply.tokens == pytest.approx(known["demo.reply"].tokens, rel=0.1)
    assert made.seconds == pytest.approx(teaching.seconds + topic.seconds + reply.seconds + reply.exposed)
    tune(recipe, Demo(base, {"teacher.demo.topic": counted}), overrides=["exposure.rounds=0"])
    assert len(asked) == 24, "what the probe had written was not asked for again"


def test_exposure_in_place_of_gold(tmp_path: Path, base: Path) -> None:
    recipe = place(tmp_path, rows(24))
    result = tune(recipe, Demo(base), overrides=["exposure.rows=instead"])
    stages = {(stage.round, stage.stage): stage for stage in result.report.stages}
    assert 0 < stages[2, "demo.reply"].fed < stages[2, "demo.reply"].rows == stages[1, "demo.reply"].rows


PREFERENCES = ["exposure.rounds=0", "preference.rounds=2", "preference.samples=4", "preference.lr=1e-3", *OFTEN]


def test_rounds_of_preferences_train_each_stage_on_its_own_right_and_wrong_answers(tmp_path: Path, base: Path) -> None:
    recipe = quick(tmp_path)
    result = tune(recipe, Demo(base), overrides=PREFERENCES)
    assert [scores.when for scores in result.report.scores][-2:] == ["after round 2", "after round 3"]
    before = {stage.stage: stage for stage in result.report.stages if stage.round == 1}
    kept = 0
    for stage in result.report.stages[len(STAGES) :]:
        lines = (result.work / f"round-{stage.round}" / stage.stage / "pairs.jsonl").read_text().splitlines()
        gold = {json.dumps(row["input"], sort_keys=True): row["output"] for row in trained_on(result, stage.stage)}
        assert stage.pairs == len(lines)
        for pair in map(json.loads, lines):
            assert json.loads(pair["chosen"]) == gold[json.dumps(pair["input"], sort_keys=True)]
            assert json.loads(pair["rejected"]) != json.loads(pair["chosen"])
        last = before[stage.stage]
        worse = stage.select_scores["exact"] < last.select_scores["exact"]
        assert not worse and (stage.sha256 != last.sha256) == stage.again
        kept += stage.again
        before[stage.stage] = stage
    assert kept, "a model of random weights has wrong answers to learn from"
    for name, stage in before.items():
        assert inspect(result.adapters[name]).sha256 == stage.sha256
    told: list[Event] = []
    again = tune(recipe, Demo(base), overrides=PREFERENCES, progress=told.append)
    assert again.report == result.report and not any(isinstance(event, Stepped) for event in told)


def trained_on(result: TuneResult, stage: str) -> list[Any]:
    lines = (result.work / "round-1" / stage / "rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_killed_round_of_preferences_goes_on(tmp_path: Path, base: Path) -> None:
    """The answers are not drawn again, and training goes on from its checkpoint, to the same weights."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = tune(quick(tmp_path / "whole"), Demo(base), overrides=PREFERENCES)
    recipe, part = quick(tmp_path / "killed"), ""

    def halt(event: Event) -> None:
        nonlocal part
        part = event.what if isinstance(event, Part) else part
        if part == "round 2, preferences of demo.topic" and isinstance(event, Saved):
            raise Halt

    with pytest.raises(Halt):
        tune(recipe, Demo(base), overrides=PREFERENCES, progress=halt)
    told: list[Event] = []
    result = tune(recipe, Demo(base), overrides=PREFERENCES, progress=told.append)
    assert weights(result.work) == weights(whole.work)
    first = next(place for place, event in enumerate(told) if isinstance(event, Stepped))
    assert not [e for e in told[:first] if isinstance(e, Working) and e.what == "answers of demo.topic"]


# -- bad input -------------------------------------------------------------------------------------------------------


def quick(tmp_path: Path, **changes: Any) -> Path:
    return place(tmp_path, [{**row, **changes} for row in rows(24)], RECIPE)


def test_a_target_longer_than_the_context_is_found_before_anything_is_trained(tmp_path: Path, base: Path) -> None:
    recipe = quick(tmp_path)
    config = json.loads((base / "config.json").read_text())
    small = tmp_path / "small"
    shutil.copytree(base, small)
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 50}))
    data = rows(24)
    data[5]["input"]["text"] = "refund " + "long " * 14
    write(tmp_path / "rows.jsonl", data)
    with pytest.raises(TrainError, match="cannot be trained on") as caught:
        tune(recipe, Demo(small))
    assert "context" in str(caught.value) and not list(tmp_path.glob("runs/tune/round-*"))


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, base: Path, epochs: int) -> None:
    """It shows in the next step, or where there is none, when the epoch is scored."""
    recipe = quick(tmp_path)
    with pytest.raises(TrainError, match="no number") as caught:
        tune(recipe, Demo(base), overrides=["train.optim.lr=1e30", f"train.epochs={epochs}"])
    assert "optim.lr" in str(caught.value)


def test_a_base_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    recipe = place(tmp_path, rows(24), RECIPE + TEACHER)
    with pytest.raises(CheckpointUnavailableError, match="nowhere"):
        tune(recipe, Demo(tmp_path / "nowhere", TAUGHT))
    assert not (tmp_path / "runs").exists()


def test_an_adapter_for_a_base_that_is_not_there(tmp_path: Path, base: Path, finished: TuneResult) -> None:
    """Neither a teacher's adapter for another base is run, nor one for a base that has gone."""
    recipe = place(tmp_path, rows(24, topics=False), RECIPE)
    adapter, other, gone = tmp_path / "adapter", tmp_path / "other", tmp_path / "gone"
    shutil.copytree(finished.adapters["demo.topic"], adapter)
    shutil.copytree(base, other)
    with pytest.raises(TrainError, match="teacher cannot write") as caught:
        tune(recipe, Demo(base), overrides=[f'teacher.model="{other}"', f'teacher.adapter="{adapter}"'])
    assert "was made for the base" in str(caught.value)
    record = (adapter / "fslm.json").read_text().replace(str(base), str(gone))
    (adapter / "fslm.json").write_text(record)
    with pytest.raises(CheckpointUnavailableError, match="gone"):
        tune(recipe, Demo(base), overrides=[f'teacher.model="{gone}"', f'teacher.adapter="{adapter}"'])
    assert not list(recipe.parent.glob("runs/tune/round-*"))


def test_two_tunings_of_one_folder(tmp_path: Path, base: Path) -> None:
    recipe = quick(tmp_path)

    def intrude(event: Event) -> None:
        if isinstance(event, Part) and event.number == 1:
            with pytest.raises(TrainError, match="another process is at work"):
                tune(recipe, Demo(base))
            raise Halt

    with pytest.raises(Halt):
        tune(recipe, Demo(base), progress=intrude)


def test_a_stack_that_has_nothing_to_train_on_says_why(tmp_path: Path, base: Path) -> None:
    recipe = place(tmp_path, rows(24, topics=False))
    with pytest.raises(TrainError, match="nothing to be trained on") as caught:
        tune(recipe, Demo(base))
    assert "demo.topic" in str(caught.value) and "[teacher]" in str(caught.value)


def test_held_out_rows_among_the_training_rows_are_refused(tmp_path: Path, base: Path) -> None:
    recipe = quick(tmp_path)
    write(tmp_path / "dev.jsonl", [rows(24)[7]])
    with pytest.raises(TrainError, match="held-out row") as caught:
        tune(recipe, Demo(base), overrides=[f"data.dev={tmp_path / 'dev.jsonl'}"])
    assert "dev.jsonl, line 1" in str(caught.value) and "rows.jsonl, line 8" in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_fills_in_a_checkpoint_leaves_the_one_before(
    recipe: Path, base: Path, finished: TuneResult
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))

    try:
        with pytest.raises(TrainError, match="checkpoint cannot be written") as caught:
            tune(recipe, Demo(base, TAUGHT), overrides=OFTEN, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free space" in str(caught.value) and "--resume" not in str(caught.value)
    steps = recipe.parent / "runs" / "tune" / "round-1" / "demo.topic" / "steps"
    assert [place.name for place in steps.glob("checkpoint-*")] == ["checkpoint-1"]
    told: list[Event] = []
    result = tune(recipe, Demo(base, TAUGHT), overrides=OFTEN, progress=told.append)
    assert next(event.step for event in told if isinstance(event, Stepped)) == 2
    assert weights(result.work) == weights(finished.work)
