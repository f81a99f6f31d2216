"""Reductions: the tree, its order and its depth, lists of one and of none, and what cannot be folded."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core import Engine, Reduce, Stack, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CheckError, DeadlineExceeded, RunFailed, StackError, StageFailedError, ToolError
from fslm_core.message import Message, plain_path


class Parts(BaseModel):
    parts: list[str]
    glue: str = ""


class Whole(BaseModel):
    whole: str


@tool("t.join", version="1")
async def join(group: Parts) -> Whole:
    for _ in range(len(group.parts[0]) % 3):
        await asyncio.sleep(0)
    if "boom" in group.parts:
        raise ValueError("it broke")
    return Whole(whole=group.glue.join(group.parts))


def joined(step: Any = join, **more: Any) -> Reduce[Any, Any]:
    arguments = {"over": "parts", "into": "whole", "pick": "whole", "input": Parts, "output": Whole, **more}
    return Reduce("joined", step, **arguments)


def run_of(shape: Reduce[Any, Any], value: Any, **more: Any) -> Any:
    stack = Stack("t", input=shape.input, output=shape.output, steps=[shape], bind={"whole": "joined.whole"})
    with Engine(trace=False, backend=ScriptedBackend()) as engine:
        return engine.run(stack, value, **more)


def failure(shape: Reduce[Any, Any], value: Any, **more: Any) -> Any:
    with pytest.raises(RunFailed) as caught:
        run_of(shape, value, **more)
    return caught.value.error


# -- the tree ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(parts=st.lists(st.text(max_size=4), min_size=1, max_size=70), fan=st.integers(2, 9), at_once=st.integers(1, 5))
def test_the_order_is_kept_in_as_few_levels_as_can_be(parts: list[str], fan: int, at_once: int) -> None:
    run = run_of(joined(fan=fan, concurrency=at_once), {"parts": [p.replace("boom", "") for p in parts]})
    assert run.output.whole == "".join(p.replace("boom", "") for p in parts)
    folds = [name for name in run.messages if name != "joined"]
    levels = {int(name.partition("[")[2].partition("]")[0]) for name in folds}
    assert len(levels) == (math.ceil(round(math.log(len(parts), fan), 9)) if len(parts) > 1 else 0)
    assert all(plain_path(name) == "joined.join" for name in folds)


def test_groups_are_even_and_paths_say_level_and_group() -> None:
    run = run_of(joined(fan=4), {"parts": list("abcde"), "glue": "-"})
    assert {name: m.content.whole for name, m in run.messages.items()} == {
        "joined.join[0][0]": "a-b-c",
        "joined.join[0][1]": "d-e",
        "joined.join[1][0]": "a-b-c-d-e",
        "joined": "a-b-c-d-e",
    }


def test_parents_follow_the_tree() -> None:
    run = run_of(joined(fan=2), {"parts": list("abc")})
    top, left = run.messages["joined.join[1][0]"], run.messages["joined.join[0][0]"]
    assert isinstance(top, Message)
    assert isinstance(left, Message)
    assert [p.split("/")[1] for p in left.parents] == ["input"]
    assert [p.split("/")[1] for p in top.parents] == ["joined.join[0][0]", "input"]  # c itself came from the input


def test_a_list_of_one_passes_and_nothing_runs() -> None:
    run = run_of(joined(), {"parts": ["boom"]})
    assert (run.output.whole, list(run.messages)) == ("boom", ["joined"])


class Count(BaseModel):
    n: int


class Counts(BaseModel):
    counts: list[Count]


class CountOut(BaseModel):
    whole: Count


@tool("t.add", version="1")
def add(group: Counts) -> Count:
    return Count(n=sum(count.n for count in group.counts))


def test_items_may_be_models_and_the_whole_output_one() -> None:
    shape = Reduce("joined", add, over="counts", into="whole", fan=3, input=Counts, output=CountOut)
    run = run_of(shape, {"counts": [{"n": n} for n in range(100)]})
    assert run.output.whole.n == sum(range(100))


def test_thousands_of_items() -> None:
    shape = Reduce("joined", add, over="counts", into="whole", fan=10, input=Counts, output=CountOut)
    run = run_of(shape, {"counts": [{"n": 1}] * 2000})
    assert run.output.whole.n == 2000
    assert len(run.messages) == 200 + 20 + 2 + 1 + 1


# -- none at all -------------------------------------------------------------------------------------------------------


def test_an_empty_list_is_an_error_that_says_what_to_do() -> None:
    error = failure(joined(), {"parts": []})
    assert isinstance(error, StageFailedError)
    assert "parts is empty" in error.what
    assert error.hint is not None
    assert "default=" in error.hint


def test_an_empty_list_gives_the_default() -> None:
    run = run_of(joined(default="nothing"), {"parts": []})
    assert (run.output.whole, list(run.messages)) == ("nothing", ["joined"])
    shape = Reduce("joined", add, over="counts", into="whole", default={"n": 7}, input=Counts, output=CountOut)
    assert run_of(shape, {"counts": []}).output.whole == Count(n=7)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fan": 1}, "fan is out of range"),
        ({"concurrency": 0}, "concurrency is out of range"),
        ({"over": "glue"}, "over names a field that is no list"),
        ({"over": "pieces"}, "over names no field"),
        ({"into": "pieces"}, "into names no field"),
        ({"pick": "pieces"}, "pick names no field"),
        ({"default": 3}, "the default is not what an item is"),
        ({"default": None}, "the default is not what an item is"),
        ({"step": Step(join, on_error="skip")}, "cannot reduce"),
        ({"step": Step(join, when="input.glue")}, "cannot reduce"),
        ({"step": Step(join, name="group")}, "itself says something"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        joined(**more)


def test_what_is_made_of_a_group_has_to_be_an_item() -> None:
    with pytest.raises(CheckError, match=r"has to be an item of parts, which is str, but join is Whole"):
        _ = joined(pick=None).wiring


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_group_that_fails_ends_the_reduction() -> None:
    error = failure(joined(fan=2), {"parts": ["a", "b", "boom", "d"]})
    assert isinstance(error, ToolError)
    assert error.where == "stack t, step joined.join[0][1]"


def test_a_longer_list_than_is_let_in_is_an_error_before_any_work() -> None:
    assert "at most 3" in failure(joined(most=3), {"parts": ["boom"] * 4}).what


def test_what_runs_is_stopped_with_it() -> None:
    started, stopped = [], []

    @tool("t.held", version="1")
    async def held(group: Parts) -> Whole:
        started.append(group.parts[0])
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(group.parts[0])
        return Whole(whole="")

    error = failure(joined(held, concurrency=2, fan=2), {"parts": list("abcdefgh")}, timeout=0.2)
    assert isinstance(error, DeadlineExceeded)
    assert sorted(started) == sorted(stopped) == ["a", "c"]
