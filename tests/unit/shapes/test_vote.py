"""Votes: what is counted, who wins, what a tie is, and that members that fail do not take part."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Cascade, Decoding, Engine, Scored, Stack, Stage, Step, Vote, tool
from fslm_core.backends.protocol import Chunk, Generation, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import BackendError, CheckError, RunFailed, StackError, StageFailedError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.shapes import Ballot
from fslm_core.store import TraceStore

Kinds = Literal["complaint", "praise", "other"]


class Letter(BaseModel):
    """A text, and how sure the three judges are of what they say."""

    text: str
    first: float = 1.0
    second: float = 1.0
    third: float = 1.0


class Kind(BaseModel):
    kind: Kinds
    note: str = Field(max_length=40)


def written(kind: str, note: str = "") -> str:
    return f'{{"kind":"{kind}","note":"{note}"}}'


say = Stage("t.say", input=Letter, output=Kind, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
warm = Stage(
    "t.warm",
    input=Letter,
    output=Kind,
    prompt="{{ text }}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(temperature=0.3),
)


@tool("t.first", version="1")
def first(letter: Letter) -> Scored[Kind]:
    return Scored(Kind(kind="complaint", note="1"), {"kind": letter.first})


@tool("t.second", version="1")
def second(letter: Letter) -> Scored[Kind]:
    if letter.text == "boom":
        raise ValueError("it broke")
    return Scored(Kind(kind="praise", note="2"), {"kind": letter.second})


@tool("t.third", version="1")
def third(letter: Letter) -> Scored[Kind]:
    if letter.text.startswith("boom"):
        raise ValueError("it broke")
    return Scored(Kind(kind="praise", note="3"), {"kind": letter.third})


@tool("t.blind", version="1", pure=True)
def blind(letter: Letter) -> Kind:
    return Kind(kind="other", note="")


class Label(BaseModel):
    label: Kinds


class Only(BaseModel):
    kind: Kinds


class Number(BaseModel):
    value: Annotated[float, Field(ge=0, le=9, multiple_of=0.5)]


@tool("t.other", version="1")
def other(letter: Letter) -> Label:
    return Label(label="praise")


def index_of(request: Request) -> int:
    """Which sample of a vote asks."""
    found = re.search(r"\[(\d+)\]/", request.id)
    assert found is not None
    return int(found[1])


def samples(*kinds: str) -> ScriptedBackend:
    """A backend whose n-th sample says the n-th of these, each with a note of its own."""
    return ScriptedBackend({"t.say": lambda request: written(kinds[index_of(request)], f"n{index_of(request)}")})


def stack(node: Any, **more: Any) -> Stack[Any, Any]:
    return Stack("t", input=Letter, output=Kind, steps=[Step(node, name="vote")], **more)


def vote(steps: Any = say, **more: Any) -> Vote[Any, Any]:
    options = {"n": 3, "temperature": 0.7} if steps is say else {}
    return Vote("t.vote", steps, **{**options, "by": "kind", **more})


def run(node: Any, backend: Any = None, input: Any = None, **more: Any) -> Any:
    host = PluginHost(Settings(), installed=False)
    with Engine(trace=False, host=host, backend=backend or ScriptedBackend()) as engine:
        return engine.run(stack(node), input or {"text": "hello"}, **more)


def failure(node: Any, backend: Any = None, input: Any = None) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        run(node, backend, input)
    return failed.value


def ballot(found: Any) -> Ballot:
    content: Ballot = found.messages["vote.ballot"].content
    return content


# -- counting --------------------------------------------------------------------------------------------------------


def test_the_answer_of_most_wins_and_its_share_is_the_confidence() -> None:
    backend = samples("praise", "complaint", "complaint")
    found = run(vote(), backend)
    assert found.output == Kind(kind="complaint", note="n1")
    assert found.confidence == {"kind": pytest.approx(2 / 3)}
    assert found.messages["vote"].parents == (f"{found.id}/vote.say[1]/0/0",)
    assert set(found.messages) == {"vote.say[0]", "vote.say[1]", "vote.say[2]", "vote.ballot", "vote"}
    assert ballot(found).model_dump() == {
        "members": ["say[0]", "say[1]", "say[2]"],
        "answers": [
            {"value": '"praise"', "members": [0], "weight": 1.0},
            {"value": '"complaint"', "members": [1, 2], "weight": 2.0},
        ],
        "silent": [],
        "winner": 1,
        "share": pytest.approx(2 / 3),
        "tie": False,
    }
    assert len(found.messages["vote.ballot"].parents) == 3


def test_each_sample_has_its_own_seed_and_the_votes_temperature() -> None:
    backend = samples("praise", "praise", "praise")
    run(vote(temperature=0.9), backend, seed=5)
    assert len({request.seed for request in backend.requests}) == 3
    assert {request.sampling.temperature for request in backend.requests} == {0.9}
    again = samples("praise", "praise", "praise")
    run(vote(temperature=0.9), again, seed=5)
    assert {r.seed for r in again.requests} == {r.seed for r in backend.requests}


def test_a_stage_that_samples_needs_no_temperature() -> None:
    backend = ScriptedBackend({"t.warm": written("praise")})
    assert run(vote(warm, n=2), backend).output.kind == "praise"
    assert {request.sampling.temperature for request in backend.requests} == {0.3}


class Late(ScriptedBackend):
    """The first of the samples ends last."""

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        for _ in range(40 if index_of(request) == 0 else 0):
            await asyncio.sleep(0)
        async for piece in super().open(request):
            yield piece


def test_who_said_it_first_goes_by_order_and_not_by_time() -> None:
    backend = Late({"t.say": lambda request: written("praise", f"n{index_of(request)}")})
    found = run(vote(), backend)
    assert next(iter(found.messages)) != "vote.say[0]"
    assert found.output.note == "n0" and found.confidence == {"kind": 1.0}


def test_all_are_asked_at_once() -> None:
    class Meeting(ScriptedBackend):
        """Nobody is answered before all three have asked."""

        async def _wait(self, request: Request) -> None:
            while len(self.requests) < 3:
                await asyncio.sleep(0.001)

    found = run(vote(), Meeting({"t.say": written("praise")}), timeout=60)
    assert found.output.kind == "praise"


def test_several_steps_vote_each_once_or_each_several_times() -> None:
    found = run(vote([first, second, third]))
    assert found.output == Kind(kind="praise", note="2")
    assert ballot(found).members == ["first", "second", "third"]
    twice = run(vote([first, second], n=2))
    assert ballot(twice).members == ["first[0]", "first[1]", "second[0]", "second[1]"] and ballot(twice).tie


def test_steps_with_other_outputs_vote_on_what_they_are_bound_to() -> None:
    made = Vote("t.vote", [first, second, other], output=Only, bind={"kind": "other.label"})
    found = Stack("t", input=Letter, output=Only, steps=[Step(made, name="vote")])
    with Engine(trace=False, host=PluginHost(Settings(), installed=False)) as engine:
        done = engine.run(found, {"text": "a"})
    assert done.output.kind == "praise" and ballot(done).answers[1].members == [1, 2]


def test_a_vote_on_the_whole_message_and_on_several_fields() -> None:
    assert ballot(run(vote([first, second, third], by=None))).tie
    found = run(vote([second, third, first], by=["kind", "note"]))
    assert ballot(found).answers[0].value == '"praise","2"'
    assert found.confidence == {"kind": pytest.approx(1 / 3), "note": pytest.approx(1 / 3)}


# -- weights and ties ------------------------------------------------------------------------------------------------


def test_a_weighted_vote_goes_by_confidence() -> None:
    given = {"text": "a", "first": 0.9, "second": 0.3, "third": 0.3}
    assert run(vote([first, second, third]), input=given).output.kind == "praise"
    found = run(vote([first, second, third], weighted=True), input=given)
    assert found.output.kind == "complaint"
    assert found.confidence == {"kind": pytest.approx(0.9 / 1.5)}


def test_weights_that_only_rounding_tells_apart_are_a_tie() -> None:
    given = {"text": "a", "first": 0.3, "second": 0.1, "third": 0.2}
    assert 0.1 + 0.2 != 0.3
    assert ballot(run(vote([first, second, third], weighted=True), input=given)).tie


def test_tiny_weights_still_decide() -> None:
    given = {"text": "a", "first": 1e-30, "second": 3e-30, "third": 0.0}
    found = run(vote([first, second, third], weighted=True), input=given)
    assert found.output.kind == "praise" and found.confidence == {"kind": pytest.approx(0.75)}


def test_no_weight_at_all_is_a_tie_with_no_share() -> None:
    given = {"text": "a", "first": 0.0, "second": 0.0, "third": 0.0}
    found = run(vote([first, second, third], weighted=True), input=given)
    assert found.output.kind == "complaint" and found.confidence == {"kind": 0.0} and ballot(found).tie


def test_what_has_no_confidence_cannot_be_weighed() -> None:
    failed = failure(vote([first, blind], weighted=True))
    assert isinstance(failed.error, StageFailedError) and "gave no confidence of 'kind'" in str(failed)


@pytest.mark.parametrize(
    ("tie", "sure", "expected"),
    [("first", (0.2, 0.9), "complaint"), ("confident", (0.2, 0.9), "praise"), ("confident", (0.9, 0.9), "complaint")],
)
def test_a_tie_goes_as_it_is_declared(tie: Any, sure: tuple[float, float], expected: str) -> None:
    given = {"text": "a", "first": sure[0], "second": sure[1]}
    found = run(vote([first, second], tie=tie), input=given)
    assert found.output.kind == expected and found.confidence["kind"] == 0.5
    assert ballot(found).tie and ballot(found).winner == ["complaint", "praise"].index(expected)


def test_a_tie_of_members_without_confidence_goes_to_the_first() -> None:
    found = run(vote([blind, first], tie="confident"), input={"text": "a", "first": 0.0})
    assert found.output.kind == "other"


def test_a_tie_may_fail_and_is_told_all_the_same() -> None:
    failed = failure(vote([first, second], tie="fail"))
    assert isinstance(failed.error, StageFailedError)
    assert str(failed).startswith("stack t, step vote: the vote is a tie of 2 answers")
    assert ballot(failed.run).tie and ballot(failed.run).winner is None


# -- members that give no vote -----------------------------------------------------------------------------------------


def test_members_that_fail_have_no_vote() -> None:
    found = run(vote([first, second, third]), input={"text": "boomerang"})
    assert found.output.kind == "complaint" and found.confidence == {"kind": 0.5}
    assert ballot(found).silent == [2]


def test_too_few_votes_are_an_error_with_the_problems() -> None:
    failed = failure(vote([first, second, third]), input={"text": "boom"})
    assert isinstance(failed.error, StageFailedError)
    assert "1 of 3 gave a vote; 2 are needed" in str(failed)
    assert [problem.kind for problem in failed.error.problems] == ["tool", "tool"]
    assert ballot(failed.run).silent == [1, 2] and ballot(failed.run).winner is None
    assert failed.error.__cause__ is not None


def test_a_quorum_may_be_declared() -> None:
    assert run(vote([first, second, third], quorum=1), input={"text": "boom"}).output.kind == "complaint"
    assert "2 of 3 gave a vote; 3 are needed" in str(
        failure(vote([first, second, third], quorum=3), input={"text": "boomerang"})
    )


def test_samples_that_are_no_message_have_no_vote_and_stay_in_the_trace() -> None:
    backend = ScriptedBackend({"t.say": lambda r: "nonsense" if index_of(r) == 0 else written("praise")})
    found = run(vote(), backend)
    assert found.output.kind == "praise" and ballot(found).silent == [0]
    assert "vote.say[0]" not in found.messages


def test_a_backend_that_fails_for_one_of_them_is_one_vote_less() -> None:
    def answer(request: Request) -> str:
        if index_of(request) == 1:
            raise BackendError("no answer", where="there")
        return written("praise")

    assert ballot(run(vote(), ScriptedBackend({"t.say": answer}))).silent == [1]
    gone = ScriptedBackend({"t.say": BackendError("no answer", where="there")})
    failed = failure(vote(), gone)
    assert isinstance(failed.error, StageFailedError) and "0 of 3 gave a vote" in str(failed)
    assert [problem.kind for problem in failed.error.problems] == ["error"] * 3


def test_who_is_passed_over_has_no_vote() -> None:
    members = [first, Step(second, when="input.text == 'b'"), Step(third, on_error="skip")]
    found = run(vote(members), input={"text": "a"})
    assert ballot(found).silent == [1] and found.output.kind == "complaint"
    found = run(vote(members, quorum=1), input={"text": "boom"})
    assert ballot(found).silent == [1, 2]


def test_who_abstains_has_no_vote() -> None:
    unsure = Cascade("t.unsure", [second], abstain_below={"kind": 0.8}, then="keep")
    given = {"text": "a", "second": 0.1}
    found = run(vote([unsure, first, third], by="kind"), input=given)
    assert ballot(found).silent == [0] and found.output.kind == "complaint"
    assert found.messages["vote"].abstained == ()


def test_how_much_they_agree_is_a_threshold_for_a_cascade() -> None:
    unsure = Cascade("t.sure", [Step(vote(), name="panel")], abstain_below={"kind": 0.7}, then="keep")
    made = stack(unsure)
    host = PluginHost(Settings(), installed=False)
    for kinds, abstained in ((("praise", "other", "praise"), ("kind",)), (("praise",) * 3, ())):
        with Engine(trace=False, host=host, backend=samples(*kinds)) as engine:
            found = engine.run(made, {"text": "a"})
        assert found.output.kind == "praise" and found.result is not None and found.result.abstained == abstained


def test_numbers_that_are_the_same_are_the_same_answer() -> None:
    backend = ScriptedBackend({"t.number": lambda r: ['{"value":2}', '{"value":3}', '{"value":2}'][index_of(r)]})
    number = Stage("t.number", input=Letter, output=Number, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    made = Stack("t", input=Letter, output=Number, steps=[Vote("t.vote", number, n=3, temperature=1.0)])
    with Engine(trace=False, host=PluginHost(Settings(), installed=False), backend=backend) as engine:
        found = engine.run(made, {"text": "a"})
    assert found.output.value == 2.0 and ballot(found).answers[0].value == "2"


# -- size and privacy ------------------------------------------------------------------------------------------------


def test_a_ballot_of_a_hundred_long_answers_stays_small() -> None:
    class Long(BaseModel):
        text: str = Field(max_length=5000)

    long = Stage("t.long", input=Letter, output=Long, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    made = Stack(
        "t",
        input=Letter,
        output=Long,
        steps=[Step(Vote("t.vote", long, n=100, temperature=1.0), name="vote")],
        bind={"text": "vote.text"},
    )
    backend = ScriptedBackend({"t.long": lambda r: f'{{"text":"{index_of(r)}-{"x" * 4000}"}}'})
    with Engine(trace=False, host=PluginHost(Settings(), installed=False), backend=backend) as engine:
        found = engine.run(made, {"text": "a"})
    assert len(ballot(found).answers) == 100
    assert len(ballot(found).model_dump_json()) < 40_000


def test_a_ballot_hides_what_is_marked(tmp_path: Path) -> None:
    class Person(BaseModel):
        name: str = Field(max_length=40, json_schema_extra={"sensitive": True})

    who = Stage("t.who", input=Letter, output=Person, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    made = Stack(
        "t",
        input=Letter,
        output=Person,
        steps=[Step(Vote("t.vote", who, n=2, temperature=1.0, tie="fail"), name="vote")],
    )
    backend = ScriptedBackend({"t.who": lambda r: f'{{"name":"Ada-{index_of(r)}-Canary"}}'})
    settings = load(files=(), data_dir=tmp_path)
    host = PluginHost(settings, installed=False)
    with Engine(settings=settings, host=host, backend=backend, content="redacted") as engine:
        with pytest.raises(RunFailed) as failed:
            engine.run(made, {"text": "Canary here"})
        with TraceStore.open(settings.trace_path, readonly=True) as store:
            assert "vote.ballot" in [node.step for node in store.run(failed.value.run.id).nodes]
    assert "Canary" not in str(failed.value)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Canary" not in kept


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "options", "said"),
    [
        (say, {"temperature": None}, "step vote.say: it would say the same 3 times, for nothing in it is sampled"),
        (blind, {"n": 2}, "step vote.blind: it would say the same 2 times"),
        (say, {"n": 1}, "a vote of one is none"),
        ([first, second], {"n": 51}, "2 steps asked 51 times are 102 members; at most 100 vote"),
        ([first, second], {"by": "colour"}, "by names 'colour', which is no field of Kind (it has kind, note)"),
        ([first, second], {"by": []}, "it is voted on no field"),
        ([first, second], {"quorum": 3}, "quorum=3 is more than the 2 who vote"),
        ([first, second], {"temperature": 0.5}, "temperature is for stages that write with a model"),
    ],
)
def test_a_vote_that_cannot_be_is_found_before_anything_runs(steps: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(vote(steps, **options)).wiring
    assert any(said in finding and finding.startswith("step vote") for finding in refused.value.findings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n is out of range"),
        ({"n": 101}, "n is out of range"),
        ({"n": True}, "n is out of range"),
        ({"n": 2.0}, "n is out of range"),
        ({"quorum": 0}, "quorum is out of range"),
        ({"tie": "last"}, "no such policy for a tie"),
        ({"temperature": 0.0}, "temperature is out of range"),
        ({"temperature": math.nan}, "temperature is out of range"),
        ({"temperature": "hot"}, "temperature is out of range"),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        vote([first, second], **options)


def test_a_member_has_not_the_ballots_name() -> None:
    with pytest.raises(StackError, match="itself says something"):
        vote([Step(first, name="ballot"), second])


def test_what_decides_a_vote_is_in_its_plan() -> None:
    plans = {
        tuple(vote([first, second], **options).plan())
        for options in ({}, {"tie": "fail"}, {"weighted": True}, {"quorum": 2, "n": 2}, {"by": None}, {"n": 2})
    }
    assert len(plans) == 6
