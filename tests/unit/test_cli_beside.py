"""What ``fslm chat`` shows of a turn: each step on a line, beside the reply or above it, as it is written."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from rich.console import Console

from fslm_core.cli.beside import Board, Steps
from fslm_core.events import AttemptFailed, MessageEmitted, RunEvent, StepSkipped, StepStarted, TextWritten
from fslm_core.message import Attempt, Message, Problem, Skipped


class Reply(BaseModel):
    reply: str
    note: str | None = None


def said(path: str, reply: str) -> MessageEmitted:
    return MessageEmitted("r", Message(path, Reply(reply=reply), node_id="n", content_id="c"))


def written(path: str, *pieces: str, attempt: int = 0) -> Iterator[RunEvent]:
    kept = list(pieces)
    for count, piece in enumerate(pieces, 1):
        yield TextWritten("r", path, piece, attempt, kept, count)


def lines(steps: Steps) -> list[str]:
    """Each step's line, its time left out."""
    for seen in steps.seen:
        seen.seconds = None
    return [seen.line for seen in steps.seen]


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_a_step_is_shown_from_its_beginning_to_its_end(steps: Steps) -> None:
    assert steps.see(StepStarted("r", "answer", "n")) is None
    assert lines(steps) == ["… answer"]
    for event in written("answer", '{"reply":"go', "od day"):
        assert steps.see(event) is None
    assert lines(steps) == ['… answer  reply="good day"']
    ended = steps.see(said("answer", "good day"))
    assert ended is not None and ended.seconds is not None and ended.seconds >= 0
    assert lines(steps) == ['· answer  reply="good day"']
    assert steps.over() == []


def test_attempts_skips_and_decisions_have_lines_of_their_own(steps: Steps) -> None:
    attempt = Attempt(0, None, "{", (Problem("json", "cut"), Problem("json", "cut again"), Problem("rule", "rude")))
    for event in (
        StepStarted("r", "desk.answer", "n"),
        AttemptFailed("r", "desk.answer", "n", attempt),
        StepSkipped("r", Skipped("desk.other", "n", "false")),
        said("desk.choice", "answer"),
        said("session", "hidden"),
        said("session.turn", "hidden"),
        said("desk.answer", "yes"),
    ):
        steps.see(event)
    assert lines(steps) == [
        "! desk.answer  attempt 1: json, rule",
        '· desk.answer  reply="yes"',
        "- desk.other  skipped",
        '· desk.choice  reply="answer"',
    ]


def test_a_try_that_was_refused_within_a_shape_is_over_when_the_shape_is(steps: Steps) -> None:
    attempt = Attempt(0, None, "{", (Problem("refused", "rude"),))
    for event in (
        StepStarted("r", "reply", "n"),
        StepStarted("r", "reply.reply[0]", "n"),
        AttemptFailed("r", "reply.reply[0]", "n", attempt),
        StepStarted("r", "reply.plain[1]", "n"),
        said("reply.plain[1]", "so"),
        said("reply", "so"),
    ):
        steps.see(event)
    shown = ["! reply.reply[0]  attempt 1: refused", '· reply.plain[1]  reply="so"', '· reply  reply="so"']
    assert sorted(lines(steps)) == sorted(shown)
    assert steps.over() == []


def test_what_has_not_ended_was_stopped(steps: Steps) -> None:
    for event in (StepStarted("r", "answer", "n"), *written("answer", '{"reply":"go')):
        steps.see(event)
    assert [seen.line for seen in steps.over()] == ["x answer  stopped"] == lines(steps)


def test_where_they_may_not_be_quoted_only_names_are_shown() -> None:
    steps = Steps(quotes=False)
    for event in (StepStarted("r", "answer", "n"), *written("answer", '{"reply":"canary'), said("answer", "canary")):
        steps.see(event)
        assert "canary" not in "".join(lines(steps))


def test_long_values_are_cut_and_nothing_is_obeyed(steps: Steps) -> None:
    steps.see(StepStarted("r", "answer", "n"))
    steps.see(said("answer", "\x1b[31m[bold]" + "x" * 500))
    (line,) = lines(steps)
    assert len(line) < 200 and "\x1b" not in line and "\\u001b[31m[bold]" in line and line.endswith("…")


def drawn(board: Board, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False, emoji=False).print(board)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_reply_grows_beside_the_steps_and_above_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(Steps(), ("answer", "reply"))
    board.see(StepStarted("r", "answer", "n"))
    for event in written("answer", '{"reply":"good'):
        board.see(event)
    (line,) = drawn(board, 120)
    assert line.startswith("good ") and line.endswith('… answer  reply="good"')
    board.see(said("answer", "good day \x1b"))
    board.reply("good day \x1b")
    (line,) = drawn(board, 120)
    assert line.startswith("good day \\x1b") and "· answer" in line
    assert drawn(board, 60)[-1] == "good day \\x1b" and drawn(board, 60)[0].startswith("· answer")
    alone = Board(None)
    alone.reply("good day")
    assert drawn(alone, 120) == ["good day"]
    out, err = capsys.readouterr()  # no terminal: the reply, and a line for the step that ended
    assert out == "good day \\x1b\ngood day\n" and err.startswith("  · answer  reply=")
