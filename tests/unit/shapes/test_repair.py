"""Repairs: what a refused message leads to, how each try is recorded, and that budgets hold over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from fslm_core import SLM, Again, Ask, Decoding, Engine, Instead, Problem, Repair, Stack, Stage, Step, hookimpl, tool
from fslm_core.backends.protocol import Chunk, Generation, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import BackendError, CheckError, RunFailed, StackError, StageFailedError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.shapes import Repaired
from fslm_core.store import TraceStore


class Order(BaseModel):
    text: str
    problems: list[str] = []
    before: str | None = None


class Code(BaseModel):
    code: str = Field(max_length=400)

    @field_validator("code")
    @classmethod
    def _known(cls, code: str) -> str:
        if not code.startswith("A"):
            raise ValueError(f"{code} does not begin with an A")
        return code


class Input(BaseModel):
    text: str


PROMPT = (
    "Code of: {{ text }}{% for p in problems %} Mind: {{ p }}.{% endfor %}{% if before %} Not {{ before }}{% endif %}"
)
MODEL = SLM("smollm2-135m", tuned=True)
code = Stage("t.code", input=Order, output=Code, prompt=PROMPT, model=MODEL)
thrice = Stage(
    "t.thrice", input=Order, output=Code, prompt=PROMPT, model=MODEL, decoding=Decoding(temperature=0.4, attempts=3)
)
deaf = Stage("t.deaf", input=Order, output=Code, prompt="{{ text }}", model=MODEL)
GOOD, BAD = '{"code":"A1"}', '{"code":"B1"}'


@tool("t.lookup", version="1")
def lookup(order: Input) -> Code:
    return Code(code="A-looked-up")


@tool("t.breaks", version="1")
def breaks(order: Input) -> Code:
    raise ValueError("it broke")


def fix(step: Any = code, *remedies: Any, **more: Any) -> Repair[Any, Any]:
    return Repair("t.fix", step, remedies=remedies, **{"input": Input, **more})


def stack(node: Any) -> Stack[Any, Any]:
    return Stack("t", input=Input, output=Code, steps=[Step(node, name="fix")])


def script(*answers: Any, stage: str = "t.code") -> ScriptedBackend:
    return ScriptedBackend({stage: list(answers)})


def run(node: Any, backend: Any = None, **more: Any) -> Any:
    host = PluginHost(Settings(), installed=False)
    with Engine(trace=False, host=host, backend=backend or ScriptedBackend()) as engine:
        return engine.run(stack(node), {"text": "an A1"}, **more)


def failure(node: Any, backend: Any = None, **more: Any) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        run(node, backend, **more)
    return failed.value


def repaired(found: Any) -> Repaired:
    content: Repaired = found.messages["fix.repair"].content
    return content


def tries(found: Any) -> list[tuple[str, str, str | None]]:
    return [(one.step, one.remedy, one.code) for one in repaired(found).tries]


# -- remedies ----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_accepted_needs_no_remedy() -> None:
    backend = script(GOOD)
    found = run(fix(code, Again(2)), backend)
    assert found.output.code == "A1" and len(backend.requests) == 1
    assert tries(found) == [("code[0]", "first", None)]
    assert backend.requests[0].sampling.temperature == 0


def test_the_same_prompt_is_sampled_again_with_another_seed() -> None:
    backend = script(BAD, "no JSON", GOOD)
    found = run(fix(code, Again(3, temperature=0.9)), backend)
    assert found.output.code == "A1" and len(backend.requests) == 3
    assert tries(found) == [
        ("code[0]", "first", "stage-failed"),
        ("code[1]", "again", "stage-failed"),
        ("code[2]", "again", None),
    ]
    assert [one.kinds for one in repaired(found).tries] == [["validator"], ["json"], []]
    assert [r.sampling.temperature for r in backend.requests] == [0, 0.9, 0.9]
    assert len({r.seed for r in backend.requests}) == 3 and len({r.prompt for r in backend.requests}) == 1
    assert found.messages["fix"].parents == (f"{found.id}/fix.code[2]/0/0",)


def test_it_is_asked_again_with_the_problems_in_the_prompt() -> None:
    backend = script(BAD, '{"code":"C"}', GOOD)
    found = run(fix(code, Ask("problems", times=2)), backend)
    assert found.output.code == "A1"
    first, second, third = (str(r.prompt) for r in backend.requests)
    assert "Mind" not in first
    assert "B1 does not begin with an A" in second and "C does not" not in second
    assert "C does not begin with an A" in third and "B1 does not" not in third
    assert [one[1] for one in tries(found)] == ["first", "ask", "ask"]


def test_sampling_again_does_not_tell_of_problems() -> None:
    backend = script(BAD, BAD, BAD, GOOD)
    run(fix(code, Again(1), Ask(), Again(1)), backend)
    assert ["Mind" in str(r.prompt) for r in backend.requests] == [False, False, True, False]


def test_what_was_written_may_be_shown_too() -> None:
    backend = script(BAD, GOOD)
    run(fix(Step(code, bind={"before": "refused.written"}), Ask()), backend)
    assert ["Not" in str(r.prompt) for r in backend.requests] == [False, True]
    assert "B1" in str(backend.requests[1].prompt)


def test_what_a_step_is_told_is_bounded() -> None:
    backend = script('{"code":"' + "x" * 390 + '"}', GOOD)
    run(fix(code, Ask()), backend)
    told = str(backend.requests[1].prompt)
    assert "Mind" in told and len(told) < 1000


def test_another_step_does_it_instead() -> None:
    found = run(fix(code, Again(1), Instead(lookup)), script(BAD))
    assert found.output.code == "A-looked-up"
    assert tries(found)[-1] == ("lookup[2]", "instead", None)
    assert found.messages["fix"].parents == (f"{found.id}/fix.lookup[2]/0/0",)


def test_another_step_may_be_told_what_was_wrong() -> None:
    other = Step(code, name="other", bind={"problems": "refused.problems"})
    backend = script(BAD, GOOD)
    run(fix(code, Instead(other)), backend)
    assert "B1 does not begin with an A" in str(backend.requests[1].prompt)


def test_a_remedy_that_fails_leads_to_the_next() -> None:
    found = run(fix(code, Instead(breaks), Instead(lookup)), script(BAD))
    assert [one[2] for one in tries(found)] == ["stage-failed", "tool", None]
    skipped = run(fix(code, Instead(Step(breaks, when="input.text == ''")), Instead(lookup)), script(BAD))
    assert [one[2] for one in tries(skipped)] == ["stage-failed", "skipped", None]


def test_a_shape_may_be_what_is_repaired_or_what_repairs() -> None:
    inner = Repair("t.inner", code, remedies=[Again(1)], input=Input)
    backend = script(BAD, BAD, GOOD)
    outer = Repair("t.fix", inner, remedies=[Instead(Step(code, name="other"))])
    found = run(outer, backend)
    assert found.output.code == "A1"
    assert [one[0] for one in tries(found)] == ["inner[0]", "other[1]"]
    assert found.messages["fix.inner[0].repair"].content.gave_up == "remedies"


def test_a_plugins_check_is_repaired_too() -> None:
    class Plugin:
        @hookimpl
        def fslm_stages(self) -> list[Any]:
            return [code]

        @hookimpl
        def fslm_stacks(self) -> list[Any]:
            return [made]

        @hookimpl
        def fslm_check_message(self, stage: Any, message: Any) -> list[Problem]:
            return [Problem("refused", "no odd codes", "code")] if message.code.endswith("1") else []

    made = stack(fix(code, Ask()))
    host = PluginHost(Settings(), plugins={"t": Plugin()}, installed=False)
    backend = script(GOOD, '{"code":"A2"}')
    with Engine(trace=False, host=host, backend=backend) as engine:
        found = engine.run(made, {"text": "x"})
    assert found.output.code == "A2" and "no odd codes" in str(backend.requests[1].prompt)


def test_what_is_no_refusal_passes_through() -> None:
    backend = script(BackendError("gone", where="there"), GOOD)
    failed = failure(fix(code, Again(2), value=Code(code="A0")), backend)
    assert isinstance(failed.error, BackendError) and len(backend.requests) == 1


# -- tries -------------------------------------------------------------------------------------------------------------


def test_a_stages_own_attempts_are_tries_under_their_own_index() -> None:
    backend = script(BAD, BAD, BAD, BAD, GOOD, stage="t.thrice")
    found = run(fix(thrice, Again(2)), backend)
    assert [one[0] for one in tries(found)] == [f"thrice[{i}]" for i in range(5)]
    assert [one[1] for one in tries(found)] == ["first"] * 3 + ["again"] * 2
    assert [r.sampling.temperature for r in backend.requests] == [0.4] * 3 + [0.7] * 2
    assert [r.id.split("/", 1)[1] for r in backend.requests] == [f"fix.thrice[{i}]/0/0" for i in range(5)]


def test_every_try_is_in_the_trace(tmp_path: Path) -> None:
    settings = load(files=(), data_dir=tmp_path)
    host = PluginHost(settings, installed=False)
    with Engine(settings=settings, host=host, backend=script(BAD, BAD, GOOD), content="full") as engine:
        found = engine.run(stack(fix(code, Again(1), Ask())), {"text": "x"})
        with TraceStore.open(settings.trace_path, readonly=True) as store:
            nodes = {node.step: node for node in store.run(found.id).nodes}
    assert {"fix.code[0]", "fix.code[1]", "fix.code[2]", "fix.repair", "fix"} <= set(nodes)
    assert nodes["fix.code[1]"].attempts[0].raw == BAD
    assert "does not begin" in str(nodes["fix.code[2]"].attempts[0].prompt)


def test_nothing_of_it_shows_what_is_marked(tmp_path: Path) -> None:
    class Secret(BaseModel):
        code: str = Field(max_length=40, json_schema_extra={"sensitive": True})

        @field_validator("code")
        @classmethod
        def _never(cls, code: str) -> str:
            raise ValueError(f"{code} is not it")

    stage = Stage("t.code", input=Order, output=Secret, prompt=PROMPT, model=MODEL)
    made = Stack(
        "t", input=Input, output=Secret, steps=[Repair("t.fix", stage, remedies=[Again(1), Ask()], input=Input)]
    )
    settings = load(files=(), data_dir=tmp_path)
    host = PluginHost(settings, installed=False)
    with (
        Engine(settings=settings, host=host, backend=script('{"code":"Canary"}'), content="redacted") as engine,
        pytest.raises(RunFailed) as failed,
    ):
        engine.run(made, {"text": "the Canary"})
    assert "Canary" not in str(failed.value)
    assert b"Canary" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_where_nothing_helps_the_error_tells_all() -> None:
    failed = failure(fix(code, Again(1), Ask()), script(BAD))
    assert isinstance(failed.error, StageFailedError)
    assert failed.error.what.startswith("no valid message after 3 tries and ")
    assert failed.error.what.endswith(" tokens: nothing helped")
    assert failed.error.where == "stack t, step fix"
    assert [attempt.raw for attempt in failed.error.attempts] == [BAD] * 3
    assert [problem.kind for problem in failed.error.problems] == ["validator"]
    assert repaired(failed.run).gave_up == "remedies"


def test_the_tries_are_bounded_over_all_remedies() -> None:
    backend = script(BAD, stage="t.thrice")
    failed = failure(fix(thrice, Again(5), tries=4), backend)
    assert len(backend.requests) == 4 and repaired(failed.run).gave_up == "tries"
    assert failed.error.what.endswith("its budget of 4 tries is spent")
    backend = script(BAD, stage="t.thrice")
    assert failure(fix(thrice, Again(5), tries=1), backend).error.what.startswith("no valid message after 1 try and")
    assert len(backend.requests) == 1


def test_the_tokens_are_bounded_over_all_remedies() -> None:
    backend = script(BAD)  # one word; the prompt has four ("Code of: an A1")
    failed = failure(fix(code, Again(9), tokens=12), backend)
    assert len(backend.requests) == 3 and repaired(failed.run).gave_up == "tokens"
    assert failed.error.what == "no valid message after 3 tries and 15 tokens: its budget of 12 tokens is spent"
    assert failed.run.error is failed.error


def test_what_was_refused_is_part_of_what_the_run_cost() -> None:
    found = run(fix(code, Again(3)), script(BAD, BAD, GOOD))
    assert (found.usage.prompt, found.usage.output) == (12, 3)
    failed = failure(fix(code, Again(3)), script(BAD))
    assert (failed.run.usage.prompt, failed.run.usage.output) == (16, 4)


def test_what_inner_shapes_spent_counts() -> None:
    inner = Repair("t.inner", code, remedies=[Again(2)], input=Input)
    backend = script(BAD)
    failed = failure(fix(inner, Instead(Step(code, name="other")), Instead(lookup), tokens=15), backend)
    assert len(backend.requests) == 3 and repaired(failed.run).gave_up == "tokens"


def test_a_message_that_came_is_kept_though_it_spent_the_budget() -> None:
    assert run(fix(code, Again(9), tokens=1), script(GOOD)).output.code == "A1"


class Hanging(ScriptedBackend):
    """From its second answer on it never ends."""

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        if self.requests:
            self.requests.append(request)
            try:
                await asyncio.Event().wait()
            finally:
                self.closed_early.append(request.id)
        async for piece in super().open(request):
            yield piece


def test_the_seconds_are_bounded_over_all_tries_and_what_is_at_work_is_stopped() -> None:
    backend = Hanging({"t.code": BAD})
    failed = failure(fix(code, Again(2), seconds=0.2), backend)
    assert isinstance(failed.error, StageFailedError)
    assert failed.error.what.endswith("its budget of 0.2 seconds is spent")
    assert [one[2] for one in tries(failed.run)] == ["stage-failed", "stopped"]
    assert backend.closed_early == [backend.requests[1].id] and len(backend.requests) == 2


def test_a_tool_that_times_out_by_itself_is_a_failed_try() -> None:
    @tool("t.slow", version="1", timeout=0.05)
    async def slow(order: Input) -> Code:
        await asyncio.Event().wait()
        raise AssertionError

    found = run(fix(code, Instead(slow), Instead(lookup), seconds=30), script(BAD))
    assert [one[2] for one in tries(found)] == ["stage-failed", "tool", None]


@pytest.mark.parametrize("budget", [{}, {"tries": 1}, {"tokens": 1}, {"seconds": 0.2}])
def test_a_declared_value_stands_where_nothing_helped_or_a_budget_is_spent(budget: dict[str, Any]) -> None:
    backend = Hanging({"t.code": BAD}) if "seconds" in budget else script(BAD)
    found = run(fix(code, Again(1), value=Code(code="A0"), **budget), backend)
    assert found.output.code == "A0" and repaired(found).value
    assert repaired(found).gave_up == (next(iter(budget), "remedies"))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (lambda: fix(code), "it has no remedy"),
        (lambda: fix(code, Again(100)), "its remedies are 101 tries; at most 100 are made"),
        (lambda: fix(lookup, Again(1)), "step fix.lookup: only a stage with a model can be asked again"),
        (lambda: fix(stack(code), Ask()), "only a stage with a model can be asked again"),
        (lambda: fix(code, Ask("colours")), "Ask('colours') names no field of Order"),
        (lambda: fix(deaf, Ask()), "Ask('problems'): the template of t.deaf does not use it"),
        (lambda: fix(code, Ask("before")), "field 'before' wants str | None, but refused.problems is list[str]"),
        (lambda: fix(Step(code, bind={"problems": "input.text"}), Ask()), "the step binds that field to 'input.text'"),
        (lambda: fix(Step(code, on_error="skip"), Again()), "step fix.code: what is repaired is not passed over"),
    ],
)
def test_a_remedy_that_cannot_help_is_found_before_anything_runs(node: Any, said: str) -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(node()).wiring
    assert any(said in finding for finding in refused.value.findings), refused.value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("Again(0)", "times is out of range"),
        ("Again(101)", "times is out of range"),
        ("Again(temperature=0)", "temperature is out of range"),
        ("Ask(times=0)", "times is out of range"),
        ("Ask(temperature=-1.0)", "temperature is out of range"),
        ("fix(code, lookup)", "that is no remedy"),
        ("fix(code, Again(), tries=0)", "tries is out of range"),
        ("fix(code, Again(), tokens=0)", "tokens is out of range"),
        ("fix(code, Again(), seconds=0)", "seconds is out of range"),
        ('fix(code, Again(), value=Input(text=""))', "value is not of the shape's output model"),
        ('fix(Step(code, name="refused"), Again())', "itself says something"),
        ("fix(code, Instead(code))", "two steps have one name"),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(make: str, said: str) -> None:
    with pytest.raises(StackError, match=said):
        eval(make)


def test_what_decides_is_in_its_plan() -> None:
    made = [
        fix(code, Again(1)),
        fix(code, Again(2)),
        fix(code, Ask()),
        fix(code, Again(1), tries=2),
        fix(code, Again(1), tokens=2),
        fix(code, Again(1), seconds=2),
        fix(code, Again(1), value=Code(code="A")),
    ]
    assert len({tuple(one.plan()) for one in made}) == len(made)
