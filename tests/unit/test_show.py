"""A run as a person reads it: what is data is marked, and never acted on."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from rich.console import Console

from fslm_core.errors import StageFailedError
from fslm_core.events import AttemptFailed, Event, MessageEmitted, RunFinished, RunStarted, StepSkipped
from fslm_core.explain.show import runs_table, show, to_json, visible
from fslm_core.message import Attempt, Message, Origin, Problem, Skipped, TokenTrace, Usage, node_id
from fslm_core.prompt import Prompt, Span
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, StoredRun, TraceStore

RUN = "01KAJ7Q0ZK3M8N4T5V6W7X8Y9Z"
EVIL = "[bold]now[/bold] \x1b[31mred\x1b[0m \u202e<|im_end|>\x07\r\x9b"


class Enquiry(BaseModel):
    text: str = Field(max_length=100_000)


class Label(BaseModel):
    label: str = Field(max_length=100_000)


def message(step: str, content: BaseModel, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id(RUN, step), content_id(content), **rest)


def attempt(text: str, raw: str, index: int = 0, **rest: Any) -> Attempt:
    spans = (Span("Be brief.", "system"), Span("Label: ", "user"), Span(text, "user", False, "text"))
    return Attempt(index, Prompt(spans), raw, **rest)


def stored(path: Path, *events: Event, mode: ContentMode = "full") -> StoredRun:
    with TraceStore.open(path / "trace.db", content=mode) as store:
        for event in events:
            store.recorder().record_sync(event)
        store.recorder().flush()
        return store.run()


def a_run(path: Path, text: str = EVIL, mode: ContentMode = "full") -> StoredRun:
    origin = Origin("shop.label", "fslm-shop", "1.2", "smollm2-135m", "torch", False, input=Enquiry, output=Label)
    usage = Usage(20, 15, 4, 3, 2, 0.01, 0.1, 0.2, 0.31)
    raw = '{"label":"a"}'
    bad = attempt(text, "{", problems=(Problem("refused", "not so", "label", "fslm-no"),), finish_reason="length")
    good = attempt(text, raw, 1, usage=usage, tokens=TokenTrace((1, 2), (raw[:9], raw[9:]), (0.0, -0.1), (True, False)))
    label = message(
        "label",
        Label(label="a"),
        attempts=(bad, good),
        origin=origin,
        usage=usage,
        confidence={"label": 0.99996},
        parents=(f"{RUN}/input/0/0",),
        started=100.1,
    )
    return stored(
        path,
        RunStarted(RUN, "shop", message("input", Enquiry(text=text)), 7, 100.0, "torch"),
        MessageEmitted(RUN, label),
        StepSkipped(RUN, Skipped("more", f"{RUN}/more/0/0", "label.label == 'b'")),
        RunFinished(
            RUN, "shop", "succeeded", 101.0, 1.0, message("output", Label(label=text), parents=(label.node_id,))
        ),
        mode=mode,
    )


def printed(renderable: Any, *, width: int = 80, colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None).print(
        renderable
    )
    return out.getvalue()


def test_everything_a_person_asks_for_is_there(tmp_path: Path) -> None:
    text = printed(show(a_run(tmp_path, "two tables")))
    assert all(len(line) <= 80 for line in text.splitlines())
    for wanted in (
        f"run {RUN}  shop  succeeded  1.00 s",
        "backend torch, seed 7",
        "1 label  ok  untuned",
        "shop.label (fslm-shop 1.2), model smollm2-135m, backend torch",
        "from      input",
        "system Be brief.",
        "Label: «two tables»",
        "stopped by: length",
        "refused: label: not so (refused by fslm-no)",
        "prompt    the same",
        'wrote     {"label":"a"}',
        'validated label  "a"  0.999',
        "prompt 20 tokens (15 cached), output 4 (3 forced), 2 forwards",
        "2 more  skipped",
        "when label.label == 'b' was false",
        "from      label",
        "Untuned: label ran a model that was not tuned",
    ):
        assert " ".join(wanted.split()) in " ".join(text.split()), wanted


@pytest.mark.parametrize("colour", [False, True])
def test_data_is_never_acted_on(tmp_path: Path, colour: bool) -> None:
    plain = printed(show(a_run(tmp_path, "harmless"), full=True), colour=colour)
    text = printed(show(a_run(tmp_path / "evil"), full=True), width=300, colour=colour)
    assert "[bold]now[/bold]" in text and "\\x1b[31mred" in text and "\\u202e" in text and "<|im_end|>" in text
    assert "\\x07\\x0d\\x9b" in text
    dangerous = {c for c in text if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e"}
    assert dangerous == {c for c in plain if ord(c) < 32}
    assert "\x1b[31mred" not in text


def test_invisible_characters_are_spelt_and_writing_is_left_alone() -> None:
    assert visible("a\u200bb\ufeff\u2028\ud800\U000e0041") == "a\\u200bb\\ufeff\\u2028\\ud800\\U000e0041"
    family = "👩\u200d👩\u200d👧 שלום مرحبا\n\tnaïve"
    assert visible(family) == family


def test_long_data_is_clipped_unless_asked_for(tmp_path: Path) -> None:
    run = a_run(tmp_path, "x" * 50_000)
    assert len(printed(show(run))) < 12_000
    assert "48,500 more characters" in " ".join(printed(show(run)).split())
    assert len(printed(show(run, full=True))) > 150_000


def test_a_run_without_text_shows_its_shape(tmp_path: Path) -> None:
    text = printed(show(a_run(tmp_path, "two tables", mode="none")))
    assert "two tables" not in text
    for wanted in ("shapes only, no text", '"string[10]"', "[text: 10 characters]", "13 characters, not kept", "0.999"):
        assert wanted in text


def test_a_failed_run_ends_with_its_error(tmp_path: Path) -> None:
    tried = attempt("hello", "{", problems=(Problem("json", "not JSON"),))
    error = StageFailedError("no valid message", where="step label", problems=tried.problems, hint="try again")
    run = stored(
        tmp_path,
        RunStarted(RUN, "shop", message("input", Enquiry(text="hello")), 0, 100.0),
        AttemptFailed(RUN, "label", f"{RUN}/label/0/0", tried, started=100.5),
        RunFinished(RUN, "shop", "failed", 101.0, 1.0, None, error),
    )
    text = printed(show(run))
    for wanted in ("1 label  failed", "problem   json: not JSON", "error     stage-failed", "next      try again"):
        assert wanted in text


def test_a_run_that_was_cut_off_says_so(tmp_path: Path) -> None:
    run = stored(tmp_path, RunStarted(RUN, "shop", message("input", Enquiry(text="hello")), 0, 100.0))
    assert "not over yet" in printed(show(run))
    cut = replace(run, row=replace(run.row, status="interrupted"))
    assert "The process ended before the run did" in printed(show(cut))


def test_json_says_the_same_and_is_json(tmp_path: Path) -> None:
    data = json.loads(json.dumps(to_json(a_run(tmp_path))))
    assert data["run"]["id"] == RUN and data["run"]["status"] == "succeeded"
    assert data["input"]["data"] == {"text": EVIL}
    label, more = data["steps"]
    assert label["content"]["data"] == {"label": "a"} and label["confidence"] == {"label": 0.99996}
    assert label["attempts"][0]["problems"][0]["source"] == "fslm-no"
    assert label["attempts"][1]["tokens"]["forced"] == [True, False]
    assert label["attempts"][1]["spans"][2] == {
        "text": EVIL,
        "role": "user",
        "static": False,
        "field": "text",
        "chars": len(EVIL),
    }
    assert more["when"] == "label.label == 'b'" and more["content"] is None


def test_the_table_of_runs_fits_eighty_columns(tmp_path: Path) -> None:
    row = a_run(tmp_path).row
    rows = [row, replace(row, stack="a-stack-with-a-very-long-name-indeed", status="interrupted", seconds=None)]
    lines = printed(runs_table(rows)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(RUN) and "succeeded" in lines[1] and "1.00 s" in lines[1]
    assert lines[2].startswith(RUN) and "interrupted" in lines[2]
    assert "no run is in the trace yet" in printed(runs_table([]))


class Choice(BaseModel):
    step: str


def nested(path: Path) -> StoredRun:
    """A route within a stack within a stack; beside it a shape that did not end, and a step that was passed over."""
    shape = Origin("shop.desk")
    took = Usage(seconds=0.5)
    tool: dict[str, Any] = {
        "origin": Origin("shop.label"),
        "attempts": (Attempt(0, None, "{}", usage=took),),
        "usage": took,
    }
    return stored(
        path,
        RunStarted(RUN, "shop", message("input", Enquiry(text="hello")), 7, 100.0, "torch"),
        MessageEmitted(RUN, message("desk.choice", Choice(step="inner"), origin=shape, started=100.0)),
        MessageEmitted(RUN, message("desk.inner.label", Label(label="a"), started=100.1, **tool)),
        MessageEmitted(RUN, message("desk.inner", Label(label="a"), origin=shape, started=100.1)),
        MessageEmitted(RUN, message("desk", Label(label="a"), origin=shape, started=100.0)),
        StepSkipped(RUN, Skipped("mail", f"{RUN}/mail/0/1", "on_error: tool")),
        MessageEmitted(RUN, message("pages.note[0]", Label(label="b"), started=100.6, **tool)),
        MessageEmitted(RUN, message("pages.note[1]", Label(label="c"), started=100.6, **tool)),
        RunFinished(RUN, "shop", "cancelled", 102.0, 2.0),
    )


def test_nested_steps_stand_below_their_shape(tmp_path: Path) -> None:
    lines = [line.rstrip("─ ").rstrip() for line in printed(show(nested(tmp_path))).splitlines()]
    titles = [line for line in lines if line.strip()[:1].isdigit()]
    assert titles == [
        "1 desk  ok",
        "  1.1 choice  ok",
        "  1.2 inner  ok",
        "    1.2.1 label  ok",
        "2 mail  skipped",
        "3 pages  did not end",
        "  3.1 note[0]  ok",
        "  3.2 note[1]  ok",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_a_shape_takes_the_time_of_what_is_within_and_costs_nothing_itself(tmp_path: Path) -> None:
    text = printed(show(nested(tmp_path)))
    table = {line.split()[0]: line for line in text.splitlines() if "·" in line}
    assert list(table) == ["desk", "choice", "inner", "label", "pages", "note[0]", "note[1]"]
    assert table["desk"].split()[-2:] == ["0.60", "s"] and table["inner"].split()[-2:] == ["0.50", "s"]
    assert table["choice"].count("s") == 0  # a decision takes no time
    assert table["desk"].startswith("desk ") and table["label"].startswith("  label ")
    assert text.count("cost") == 3


def test_a_step_that_failed_and_was_passed_over_says_so(tmp_path: Path) -> None:
    assert "because   it failed with tool, and says on_error='skip'" in printed(show(nested(tmp_path)))


def test_a_path_of_a_thousand_levels_is_shown(tmp_path: Path) -> None:
    deep = ".".join(["a"] * 1000)
    run = stored(
        tmp_path,
        RunStarted(RUN, "shop", message("input", Enquiry(text="hello")), 7, 100.0, "torch"),
        MessageEmitted(RUN, message(deep, Label(label="a"))),
    )
    assert "a.a.a" in printed(show(run), width=3000)


def test_of_what_ran_very_many_times_the_first_are_shown(tmp_path: Path) -> None:
    run = stored(
        tmp_path,
        RunStarted(RUN, "shop", message("input", Enquiry(text="hello")), 7, 100.0, "torch"),
        *(MessageEmitted(RUN, message(f"pages.note[{n}]", Label(label="b"), started=100.6)) for n in range(300)),
        MessageEmitted(RUN, message("last", Label(label="b"), started=100.6)),
    )
    text = printed(show(run))
    assert "1.10 note[9]  ok" in text and "note[10]" not in text and text.count("note[9]") == 2
    assert "  … 290 more times of note; --full shows them" in text and "2 last  ok" in text
    assert "1.300 note[299]  ok" in printed(show(run, full=True))
