"""What a message is worth: taken away in each way, on stacks that use it or do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Engine, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import UsageError
from fslm_core.evaluate import Ablated, Ablation, ablate

pytestmark = pytest.mark.torch  # where numpy comes along


class Said(BaseModel):
    text: str


class Kinded(BaseModel):
    kind: Literal["bug", "praise"]


class Note(BaseModel):
    note: str = Field(max_length=40)


class Hint(BaseModel):
    hint: str


class Allowed(BaseModel):
    text: str
    allowed: list[str]


class Places(BaseModel):
    allowed: list[str]


class Part(BaseModel):
    part: Literal["screen", "button", "none"]


class Heard(BaseModel):
    kind: str
    note: str
    part: str | None
    hint: str


class Reply(BaseModel):
    reply: str


class Long(BaseModel):
    reply: str
    more: int = 0


@tool("desk.hint", version="1", pure=True)
def hint(said: Said) -> Hint:
    """What it says is given to the reply, which makes nothing of it."""
    return Hint(hint=said.text[::-1])


@tool("desk.allowed", version="1", pure=True)
def allowed(said: Said) -> Places:
    return Places(allowed=["screen", "none"] if "screen" in said.text else ["button", "none"])


@tool("desk.reply", version="1", pure=True)
def reply(heard: Heard) -> Reply:
    return Reply(reply=f"{heard.kind} {heard.note} {heard.part}")


@tool("desk.single", version="1", pure=True)
def single(said: Said) -> Long:
    """One model for all, say: right where there is no screen."""
    return Long(reply="?" if "screen" in said.text else f"{said.text.split()[0]} {said.text} button")


def stage(name: str, given: type[BaseModel], output: type[BaseModel], **rest: Any) -> Stage[Any, Any]:
    return Stage(f"desk.{name}", input=given, output=output, prompt="{{ text }}", model=SLM("smollm2-135m"), **rest)


def desk() -> Stack[Any, Any]:
    kind, note = stage("kind", Said, Kinded), stage("note", Said, Note)
    part = stage("part", Allowed, Part, narrow={"part": "allowed"})
    steps: list[Any] = [hint, kind, note, allowed, Step(part, when="kind.kind == 'bug'"), reply]
    return Stack("desk", input=Said, output=Reply, steps=steps)


def word(field: str, place: int | None) -> Callable[[Any], str]:
    def said(request: Any) -> str:
        text = "".join(span.text for span in request.prompt.spans).strip()
        return json.dumps({field: text if place is None else text.split()[place]})

    return said


BACKEND = {"desk.kind": word("kind", 0), "desk.note": word("note", None), "desk.part": word("part", -1)}
TEXTS = ["bug in screen", "bug in button", "praise for screen", "praise for button"] * 3
ROWS = [
    {
        "input": {"text": text},
        "output": {"reply": f"{text.split()[0]} {text} {text.split()[-1] if text[0] == 'b' else None}"},
        "team": text.split()[-1],
    }
    for text in TEXTS
]


def ablated(**arguments: Any) -> Ablation:
    with Engine(backend=ScriptedBackend(BACKEND), trace=False) as engine:
        return ablate(desk(), ROWS, engine=engine, **arguments)


def of(found: Ablation, step: str, way: str) -> Ablated:
    return next(one for one in found.ablated if (one.step, one.way) == (step, way))


def test_a_message_that_nobody_uses_costs_nothing() -> None:
    found = ablated(steps=["hint"])
    assert found.right.value == 1
    for way in ("constant", "shuffle", "copy"):
        one = of(found, "hint", way)
        assert (one.right.value, one.cost.value, one.changed.value, one.rows) == (1, 0, 0, len(ROWS))
        assert one.heard.value == 0
    assert {one.way for one in found.ablated} == {"constant", "shuffle", "copy"}  # it may never be left out


def test_a_message_that_is_used_costs_what_depends_on_it() -> None:
    found = ablated(steps=["kind", "part"])
    kind = of(found, "kind", "constant")
    assert (kind.right.value, kind.cost.value, kind.before.value) == (0.5, 0.5, 1.0)
    assert kind.cost.low is not None and 0 < kind.cost.low < 0.5 < kind.cost.high  # type: ignore[operator]
    assert "copy" not in {one.way for one in found.ablated}  # neither has a text
    out = of(found, "part", "leave-out")
    assert (out.rows, out.right.value, out.changed.value) == (6, 0.0, 1.0)
    assert kind.heard.value == 0.5 and out.heard.value == 1.0


def test_a_step_that_hands_on_its_input_is_seen() -> None:
    copied = of(ablated(steps=["note"]), "note", "copy")
    assert (copied.cost.value, copied.changed.value) == (0, 0)


def test_what_the_step_could_not_have_said_is_not_forced_on_it() -> None:
    """`screen` is not allowed where the text has a button: another row's message fits only with the same part."""
    shuffled = of(ablated(steps=["part"], ways=["shuffle"]), "part", "shuffle")
    assert shuffled.right.value == 1 and shuffled.rows + shuffled.unfit == 6


def test_another_stack_beside() -> None:
    one = Stack(
        "desk.single", input=Said, output=Long, steps=[single], bind={"reply": "single.reply", "more": "single.more"}
    )
    found = ablated(ways=["constant"], beside=[one])
    assert found.beside["desk.single"].value == pytest.approx(0.25)
    difference = found.difference["desk.single"]
    assert difference.value == pytest.approx(0.75) and difference.low is not None and difference.low > 0
    assert [each.step for each in found.ablated] == ["hint", "kind", "note", "allowed", "part"]


def test_rows_of_one_group_are_drawn_together() -> None:
    narrow = of(ablated(steps=["kind"], ways=["constant"]), "kind", "constant").cost
    wide = of(ablated(steps=["kind"], ways=["constant"], group="team"), "kind", "constant").cost
    assert wide.low == wide.high == 0.5 and narrow.low != narrow.high  # both teams lose a half


@pytest.mark.parametrize("arguments", [{"steps": ["nothing"]}, {"ways": ["nothing"]}])
def test_what_is_not_there_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="there is no such"):
        ablated(**arguments)


def test_no_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="no row fits"):
        ablate(desk(), [{"input": {}}])


def test_the_same_seed_shuffles_the_same() -> None:
    first, again = (ablated(steps=["kind"], ways=["shuffle"]) for _ in range(2))
    assert first == again
