"""Which step's errors cost the answers, on stacks whose errors are known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core import SLM, Engine, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.evaluate import Blame, blame
from fslm_core.evaluate.blaming import ELSEWHERE, SEVERAL

CALLS: Counter[str] = Counter()
Kind = Literal["bug", "praise", "other"]


class Said(BaseModel):
    text: str


class Kinded(BaseModel):
    kind: Kind


class Detail(BaseModel):
    detail: Literal["screen", "button", "none"]


class Both(BaseModel):
    kind: Kind
    detail: str | None


class Reply(BaseModel):
    reply: str


class Ticket(BaseModel):
    kind: Kind
    reply: str


def asking(name: str, output: type[BaseModel]) -> Stage[Any, Any]:
    return Stage(f"desk.{name}", input=Said, output=output, prompt="{{ text }}", model=SLM("smollm2-135m"))


@tool("desk.reply", version="1")
def reply(both: Both) -> Reply:
    """An answer that is wrong of its own where the kind is `other`; of praise the detail makes no difference."""
    CALLS["reply"] += 1
    return Reply(reply="?" if both.kind == "other" else "ok" if both.kind == "praise" else f"bug in {both.detail}")


def desk() -> Stack[Any, Any]:
    kind, detail = asking("kind", Kinded), asking("detail", Detail)
    steps: list[Any] = [kind, Step(detail, when="kind.kind != 'praise'"), reply]
    return Stack("desk", input=Said, output=Ticket, steps=steps, bind={"kind": "kind.kind", "reply": "reply.reply"})


def backend() -> ScriptedBackend:
    """A text is what the two stages say: ``bug/screen``; a detail that is no label fails."""

    def word(place: int, field: str) -> Callable[[Any], str]:
        return lambda request: json.dumps({field: text_of(request).split("/")[place]})

    return ScriptedBackend({"desk.kind": word(0, "kind"), "desk.detail": word(1, "detail")})


def text_of(request: Any) -> str:
    return "".join(span.text for span in request.prompt.spans).strip()


def row(text: str, kind: str, detail: str | None, answer: str) -> dict[str, Any]:
    steps = {"kind": {"kind": kind}, "detail": None if detail is None else {"detail": detail}}
    return {"input": {"text": text}, "output": {"kind": kind, "reply": answer}, "steps": steps}


RIGHT = row("bug/screen", "bug", "screen", "bug in screen")
BY_KIND = row("praise/screen", "bug", "screen", "bug in screen")
BY_DETAIL = row("bug/button", "bug", "screen", "bug in screen")
BY_BOTH = row("other/button", "bug", "screen", "bug in screen")
BY_FAILURE = row("bug/nothing", "bug", "screen", "bug in screen")
BY_REPLY = row("other/screen", "other", "screen", "we will see")
UNKNOWN = row("bug/button", "bug", "screen", "bug in screen")
del UNKNOWN["steps"]["detail"]
UNKNOWN["steps"]["reply"] = {"reply": "bug in button"}


def blamed(*rows: dict[str, Any]) -> Blame:
    with Engine(backend=backend(), trace=False) as engine:
        return blame(desk(), rows, engine=engine)


@pytest.mark.parametrize(
    ("given", "whom", "own"),
    [
        (BY_KIND, "kind", {"kind"}),
        (BY_DETAIL, "detail", {"detail"}),
        (BY_BOTH, SEVERAL, {"kind", "detail"}),
        (BY_FAILURE, "detail", {"detail"}),
        (BY_REPLY, "reply", {"reply"}),
        (UNKNOWN, ELSEWHERE, set()),
    ],
)
def test_what_is_to_blame_for_one_row(given: dict[str, Any], whom: str, own: set[str]) -> None:
    found = blamed(given)
    assert [one.blamed for one in found.wrong] == [whom] and found.right.rows == 0
    assert {step.step for step in found.steps if step.own.rows} == own


def test_a_step_that_was_passed_over_by_an_earlier_error_is_run_then() -> None:
    """With its kind put right the detail is asked for, and says `screen`."""
    found = blamed(BY_KIND)
    assert next(step for step in found.steps if step.step == "kind").fields == {"kind": 1}


def test_a_set_is_counted_with_intervals() -> None:
    found = blamed(RIGHT, RIGHT, BY_KIND, BY_DETAIL, BY_DETAIL, BY_BOTH, BY_REPLY)
    kind, detail, answer = found.steps
    assert (found.rows, found.right.rows) == (7, 2) and found.unknown == []
    assert (kind.blamed.rows, detail.blamed.rows, answer.blamed.rows) == (1, 2, 1)
    assert (found.several.rows, found.elsewhere.rows) == (1, 0) and answer.wrong.rows == 5
    assert (kind.known, kind.wrong.rows, detail.known, detail.wrong.rows) == (7, 2, 7, 3)
    assert kind.right_then.rows == 3 and detail.right_then.rows == 4
    low, value, high = detail.blamed.low, detail.blamed.value, detail.blamed.high
    assert low is not None and high is not None and low < value == 0.4 < high  # type: ignore[operator]
    assert all(one.replays for one in found.wrong if one.blamed not in (ELSEWHERE,))


def test_nothing_wrong_blames_nobody() -> None:
    found = blamed(RIGHT)
    assert found.wrong == [] and found.right.value == 1 and found.steps[0].blamed.value is None


def test_gold_that_the_output_says_is_enough() -> None:
    given = {key: value for key, value in BY_KIND.items() if key != "steps"}
    found = blamed(given)
    assert found.wrong[0].blamed == "kind" and found.unknown == ["detail"]


def test_replays_are_in_the_trace(tmp_path: Path) -> None:
    from fslm_core.settings import load
    from fslm_core.store import TraceStore

    configured = load(data_dir=tmp_path)
    with Engine(backend=backend(), settings=configured, content="full") as engine:
        found = blame(desk(), [BY_DETAIL], engine=engine)
    (one,) = found.wrong
    with TraceStore.open(configured.trace_path, readonly=True) as store:
        assert store.run(one.replays["detail"]).row.parent == one.run


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([RIGHT, BY_KIND, BY_DETAIL, BY_BOTH, BY_FAILURE, BY_REPLY]), max_size=8))
def test_every_wrong_row_is_blamed_on_one_thing(rows: list[dict[str, Any]]) -> None:
    found = blamed(*rows)
    parts = [step.blamed.rows for step in found.steps] + [found.several.rows, found.elsewhere.rows]
    assert sum(parts) == len(found.wrong) == found.rows - found.right.rows
    for step in found.steps:
        assert step.own.rows >= step.right_then.rows - found.right.rows >= step.blamed.rows
