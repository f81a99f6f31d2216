"""Votes, best-ofs, loops, fallbacks and repairs within each other and in routes: stopping, seeds, order, errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import (
    SLM,
    Again,
    Ask,
    BestOf,
    Cascade,
    Decoding,
    Engine,
    Fallback,
    Instead,
    Repair,
    Repeat,
    Route,
    Scored,
    Stack,
    Stage,
    Step,
    Vote,
    tool,
)
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import check_stack
from fslm_core.errors import DeadlineExceeded, RunFailed
from fslm_core.explain.graph import graph_of
from fslm_core.message import Message, Skipped, plain_path
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.stack import Node, places


class Given(BaseModel):
    text: str
    problems: list[str] = []


class Said(BaseModel):
    answer: Literal["a", "b", "c"]
    note: str = Field(max_length=20)


class Judged(BaseModel):
    points: int


class Same(BaseModel):
    text: str


MODEL = SLM("smollm2-135m", tuned=True)
say = Stage(
    "t.say",
    input=Given,
    output=Said,
    prompt="{{ text }}{{ problems }}",
    model=MODEL,
    decoding=Decoding(temperature=0.7),
)
judge = Stage("t.judge", input=Said, output=Judged, prompt="{{ answer }}{{ note }}", model=MODEL)


@tool("t.fails", version="1")
def fails(given: Same) -> Said:
    raise ValueError("always")


@tool("t.plain", version="1")
def plain(given: Same) -> Said:
    return Said(answer="a", note="plain")


def vote(node: Node) -> Node:
    return Vote("t.vote", Step(node, name="one"), n=3, by="answer", input=Same, output=Said)


def best(node: Node) -> Node:
    return BestOf("t.best", Step(node, name="one"), n=2, scorer=judge, input=Same, output=Said)


def repeat(node: Node) -> Node:
    return Repeat("t.repeat", Step(node, name="one"), until="last.answer == 'a'", most=3, exhausted="keep", input=Same)


def fallback(node: Node) -> Node:
    return Fallback("t.fallback", [fails, Step(node, name="one")], input=Same, output=Said)


def repair(node: Node) -> Node:
    return Repair("t.repair", Step(fails, name="broken"), remedies=[Instead(Step(node, name="one"))], input=Same)


def route(node: Node) -> Node:
    return Route("t.route", by="input.text", cases={"go": Step(node, name="one")}, default=plain, input=Same)


KINDS: dict[str, Callable[[Node], Node]] = {
    "vote": vote,
    "best": best,
    "repeat": repeat,
    "fallback": fallback,
    "repair": repair,
    "route": route,
}


class Jittery(ScriptedBackend):
    """What it says is decided by the seed and the prompt; when it says it, by chance."""

    def __init__(self, chance: int) -> None:
        super().__init__({"t.say": self._said, "t.judge": self._judged})
        self._chance = random.Random(chance)

    @staticmethod
    def _said(request: Request) -> str:
        drawn = random.Random(request.seed)
        if drawn.random() < 0.1:
            return "nonsense"
        return f'{{"answer":"{drawn.choice("abc")}","note":"{drawn.randrange(1000)}"}}'

    @staticmethod
    def _judged(request: Request) -> str:
        return f'{{"points":{sum(map(ord, str(request.prompt))) % 97}}}'

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        async for piece in super().open(request):
            yield piece


def stack(node: Node) -> Stack[Any, Any]:
    return Stack("t", input=Same, output=Said, steps=[Step(node, name="it")])


def opened(backend: Any) -> Engine:
    return Engine(trace=False, host=PluginHost(Settings(), installed=False), backend=backend)


def outcome(made: Stack[Any, Any], chance: int, seed: int) -> Any:
    """All that a run came to, but for its id and times."""
    with opened(Jittery(chance)) as engine:
        try:
            run, error = engine.run(made, {"text": "go"}, seed=seed), None
        except RunFailed as failed:
            run, error = failed.run, str(failed).replace(failed.run.id, "RUN")
    said = {
        step: (
            message.content.model_dump_json(),
            dict(message.confidence or {}),
            [parent.replace(run.id, "RUN") for parent in message.parents],
        )
        if isinstance(message, Message)
        else message.when
        for step, message in run.messages.items()
    }
    return run.status, error, None if error else run.output.model_dump(), said, (run.usage.prompt, run.usage.output)


@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_each_within_each_gives_the_same_for_the_same_seed_whatever_the_interleaving(outer: str, inner: str) -> None:
    made = stack(KINDS[outer](KINDS[inner](say)))
    found = [outcome(made, chance, seed=11) for chance in (1, 2)]
    assert found[0] == found[1]
    known = {path for path, _ in places(made)}
    decided = {f"{path}.{name}" for path, step in places(made) for name in getattr(step.node, "decisions", ())}
    assert {plain_path(step) for step in found[0][3]} <= known | decided


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_something_else(kind: str) -> None:
    made = stack(KINDS[kind](say))
    found = outcome(made, 1, seed=11)
    assert any(outcome(made, 1, seed) != found for seed in range(3))


def test_three_levels_and_a_stack_between() -> None:
    inner = Stack("t.inner", input=Same, output=Said, steps=[Step(vote(say), name="panel")])
    made = stack(route(repeat(fallback(inner))))
    assert outcome(made, 1, seed=4) == outcome(made, 9, seed=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_stack_draws_no_finding_and_no_warning(kind: str) -> None:
    report = check_stack(stack(KINDS[kind](say)), host=PluginHost(Settings(), installed=False), settings=Settings())
    assert not report.errors
    assert [warning for warning in report.warnings if "never" in warning or "nothing uses" in warning] == []


cold = Stage("t.cold", input=Same, output=Said, prompt="{{ text }}", model=MODEL)


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (Vote("t.vote", cold, n=3, temperature=0.7), "vote"),
        (BestOf("t.best", cold, n=3, scorer=judge, temperature=0.7), "best of"),
        (Repair("t.repair", cold, remedies=[Again(1)]), "repair"),
    ],
)
def test_what_samples_needs_a_backend_that_can(node: Node, kind: str) -> None:
    host = PluginHost(Settings(), installed=False)
    report = check_stack(stack(node), host=host, settings=Settings(), capabilities=Capabilities(sampling=False))
    assert f"step it: the backend cannot sample, which this {kind} asks for" in report.errors
    assert not check_stack(stack(node), host=host, settings=Settings()).errors


# -- stopping ----------------------------------------------------------------------------------------------------------


class Held(ScriptedBackend):
    """Answers until a request's id holds a certain text: those never end."""

    def __init__(self, at: str, answers: dict[str, Any]) -> None:
        super().__init__(answers, gate=asyncio.Event())
        self._at = at
        self.held: list[str] = []

    async def _wait(self, request: Request) -> None:
        if self._at in request.id:
            self.held.append(request.id)
            await super()._wait(request)


B = '{"answer":"b","note":""}'
ANSWERS = {"t.say": B, "t.judge": '{"points":1}'}
BAD = {"t.say": "nonsense", "t.judge": "nonsense"}
asked = Repair("t.repair", say, remedies=[Again(1), Ask()], input=Same)
instead = Repair("t.repair", say, remedies=[Instead(Step(say, name="other"))], input=Same, seconds=60)
STOPPED: dict[str, tuple[Node, str, dict[str, Any], int]] = {
    "members of a vote": (vote(say), "it.one", ANSWERS, 3),
    "candidates": (best(say), "it.one", ANSWERS, 2),
    "a scorer": (best(say), "it.judge", ANSWERS, 2),
    "the first round": (repeat(say), "it.one[0]", ANSWERS, 1),
    "a later round": (repeat(say), "it.one[2]", ANSWERS, 1),
    "what stands in": (fallback(say), "it.one", ANSWERS, 1),
    "a first try": (asked, "it.say[0]", BAD, 1),
    "a try with the problems": (asked, "it.say[2]", BAD, 1),
    "another step, within a budget of time": (instead, "it.other[1]", BAD, 1),
    "all of it, nested": (vote(best(repeat(fallback(say)))), "one", ANSWERS, 6),
}


@pytest.mark.parametrize("what", STOPPED)
def test_cancelling_leaves_nothing_at_work(what: str) -> None:
    node, at, answers, count = STOPPED[what]
    backend = Held(at, answers)

    async def main() -> None:
        async with opened(backend) as engine:
            task = asyncio.create_task(engine.arun(stack(node), {"text": "go"}))
            while len(backend.held) < count:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(main(), 30))
    assert len(backend.held) == count
    assert sorted(backend.closed_early) == sorted(backend.held)


@pytest.mark.parametrize("what", STOPPED)
def test_a_deadline_stops_all_of_it_and_no_policy_answers_it(what: str) -> None:
    node, at, answers, _ = STOPPED[what]
    backend = Held(at, answers)
    with opened(backend) as engine, pytest.raises(RunFailed) as failed:
        engine.run(stack(node), {"text": "go"}, timeout=0.3)
    assert isinstance(failed.value.error, DeadlineExceeded) and failed.value.run.status == "failed"
    assert set(backend.held) <= set(backend.closed_early)
    assert "it" not in failed.value.run.messages


def test_an_engine_can_be_closed_while_they_are_at_work() -> None:
    backend = Held("one", ANSWERS)

    async def main() -> BaseException | None:
        engine = opened(backend)
        async with engine:
            task = asyncio.create_task(engine.arun(stack(vote(say)), {"text": "go"}))
            while len(backend.held) < 3:
                await asyncio.sleep(0.001)
        done, _ = await asyncio.wait([task])
        (ended,) = done
        return None if ended.cancelled() else ended.exception()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert sorted(backend.closed_early) == sorted(backend.held)


def test_what_a_drawing_shows_of_them() -> None:
    def arrows(node: Any) -> set[tuple[str, str, str]]:
        return {(arrow.source, arrow.target, arrow.label) for arrow in node.arrows()}

    assert arrows(vote(say)) == {("one", "ballot", "3 times"), ("ballot", "output", "the most")}
    assert arrows(best(say)) == {
        ("one", "candidate", "2 times"),
        ("judge", "scores", "judge.points"),
        ("scores", "output", "the most"),
    }
    assert ("rounds", "one", "not (last.answer == 'a')") in arrows(repeat(say))
    carried = Repeat("t.loop", say, until="last.answer == 'a'", most=2, carry={"text": "note"})
    assert ("rounds", "last", "not (last.answer == 'a')") in arrows(carried)
    assert arrows(fallback(say)) == {("fails", "one", "if it fails")}
    assert arrows(asked) == {
        ("say", "refused", "problems"),
        ("say", "say", "refused: again at 0.7"),
        ("say", "say", "refused: ask with problems"),
    }
    assert arrows(instead) == {("say", "other", "refused: other instead")}
    for node in (vote(say), best(say), repeat(say), fallback(say), asked, instead):
        assert graph_of(stack(node)).parts[1].inner is not None


# -- error policy ------------------------------------------------------------------------------------------------------


class Maybe(BaseModel):
    answer: Literal["a", "b", "c"] | None


@tool("t.unsure", version="1")
def unsure(given: Same) -> Scored[Said]:
    return Scored(Said(answer="a", note=""), {"answer": 0.1})


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_for_a_person_ends_the_run_and_no_policy_answers_it(kind: str) -> None:
    person: Node = Cascade("t.person", [unsure], abstain_below={"answer": 0.5})
    with opened(ScriptedBackend()) as engine:
        run = engine.run(stack(KINDS[kind](person)), {"text": "go"})
    assert run.status == "review" and "it" not in run.messages


FAILING: dict[str, Node] = {
    "vote": Vote("t.vote", Step(fails, name="one"), n=3, by="answer"),
    "best": BestOf("t.best", Step(fails, name="one"), n=3, scorer=judge),
    "repeat": Repeat("t.repeat", Step(fails, name="one"), until="last.answer == 'a'", most=3),
    "fallback": Fallback("t.fallback", [fails, Step(fails, name="one")]),
    "repair": Repair("t.repair", Step(fails, name="one"), remedies=[Instead(Step(fails, name="other"))]),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_shape_that_fails_fails_the_run_and_says_where(kind: str) -> None:
    with opened(ScriptedBackend()) as engine, pytest.raises(RunFailed) as failed:
        engine.run(stack(FAILING[kind]), {"text": "go"})
    assert failed.value.error.code in ("stage-failed", "tool")
    assert str(failed.value).startswith("stack t, step it")
    assert "it" not in failed.value.run.messages


@pytest.mark.parametrize("kind", FAILING)
def test_or_is_passed_over_where_it_may_be(kind: str) -> None:
    step = Step(FAILING[kind], name="it", on_error="skip")
    made = Stack("t", input=Same, output=Maybe, steps=[step])
    with opened(ScriptedBackend()) as engine:
        run = engine.run(made, {"text": "go"})
    passed = run.messages["it"]
    assert run.output.answer is None
    assert isinstance(passed, Skipped) and passed.when.startswith("on_error: ")


@pytest.mark.parametrize("kind", FAILING)
def test_or_is_answered_by_a_fallback(kind: str) -> None:
    made = stack(Fallback("t.any", [Step(FAILING[kind], name="it"), plain]))
    with opened(ScriptedBackend()) as engine:
        run = engine.run(made, {"text": "go"})
    assert run.output.note == "plain"
    answer = run.messages["it.answer"]
    assert isinstance(answer, Message) and answer.content.failed[0].step == "it"
