"""Cascades: who answers, what is marked, what a person is asked, and that nothing passes as sure by itself."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core import SLM, Cascade, Engine, Message, Route, Scored, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import check_stack
from fslm_core.errors import (
    CheckError,
    DeadlineExceeded,
    FslmError,
    ReviewNeeded,
    RunFailed,
    StackError,
    StageFailedError,
)
from fslm_core.events import RunFinished
from fslm_core.explain.show import to_json
from fslm_core.message import Attempt, TokenTrace
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.shapes import (
    BestOf,
    Fallback,
    Instead,
    Map,
    Repair,
    Repeat,
    Verdict,
    Vote,
    alternatives_of,
    scaled,
)
from fslm_core.store import TraceStore

Kinds = Literal["complaint", "praise", "other"]


class Letter(BaseModel):
    """A text, and what each step shall say of it."""

    text: str
    cheap: float = 1.0
    dear: float = 1.0


class Kind(BaseModel):
    kind: Kinds


class Answer(BaseModel):
    number: int


class Pile(BaseModel):
    letters: list[Letter]


class Sorted(BaseModel):
    kinds: list[Kind]


class Score(BaseModel):
    score: float


@tool("t.score", version="1")
def score(kind: Kind) -> Score:
    return Score(score=1.0)


class Second(BaseModel):
    text: str
    kind: Kinds | None = None


@tool("t.second", version="1")
def second(given: Second) -> Scored[Kind]:
    return Scored(Kind(kind="other" if given.kind == "complaint" else "praise"), {"kind": 1.0})


@tool("t.cheap", version="1")
def cheap(letter: Letter) -> Scored[Kind]:
    if letter.text == "boom":
        raise ValueError("it broke")
    return Scored(Kind(kind="complaint"), {"kind": letter.cheap})


@tool("t.dear", version="1")
def dear(letter: Letter) -> Scored[Kind]:
    return Scored(Kind(kind="praise"), {"kind": letter.dear})


@tool("t.blind", version="1")
def blind(letter: Letter) -> Kind:
    return Kind(kind="other")


@tool("t.stuck", version="1")
async def stuck(letter: Letter) -> Scored[Kind]:
    await asyncio.Event().wait()
    raise AssertionError("nobody set it")


def cascade(*steps: Any, least: float = 0.8, **more: Any) -> Cascade[Any, Any]:
    return Cascade("t.triage", list(steps) or [cheap, dear], **{"abstain_below": {"kind": least}, **more})


def stack(node: Any, **more: Any) -> Stack[Any, Any]:
    return Stack("t", input=Letter, output=Kind, steps=[node], **more)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(trace=False, host=PluginHost(Settings(), installed=False)) as opened:
        yield opened


def verdict(run: Any, name: str = "triage") -> Verdict:
    content: Verdict = run.messages[f"{name}.verdict"].content
    return content


# -- who answers -----------------------------------------------------------------------------------------------------


def test_a_sure_step_answers_and_the_next_is_not_asked(engine: Engine) -> None:
    run = engine.run(stack(cascade()), {"text": "a", "cheap": 0.8})
    assert (run.status, run.output.kind) == ("succeeded", "complaint")
    assert list(run.messages) == ["triage.cheap", "triage.verdict", "triage"]
    assert verdict(run) == Verdict(
        step="cheap", sure=True, tried=[{"step": "cheap", "abstained": [], "confidence": {"kind": 0.8}}]
    )
    assert run.messages["triage"].confidence == {"kind": 0.8} and run.result.abstained == ()


def test_an_unsure_step_keeps_its_value_is_marked_and_the_next_answers(engine: Engine) -> None:
    run = engine.run(stack(cascade()), {"text": "a", "cheap": 0.79, "dear": 0.9})
    first = run.messages["triage.cheap"]
    assert run.output.kind == "praise" and run.messages["triage.dear"].abstained == ()
    assert (first.content.kind, first.abstained, first.alternatives) == ("complaint", ("kind",), {})
    assert [(tried.step, tried.abstained) for tried in verdict(run).tried] == [("cheap", ["kind"]), ("dear", [])]
    assert run.messages["triage.verdict"].parents == (first.node_id, run.messages["triage.dear"].node_id)
    assert run.messages["triage"].parents == (run.messages["triage.dear"].node_id,)


def test_a_confidence_that_nobody_knows_is_no_certainty(engine: Engine) -> None:
    run = engine.run(stack(cascade(blind, dear)), {"text": "a"})
    assert run.output.kind == "praise" and run.messages["triage.blind"].abstained == ("kind",)
    model = SLM("smollm2-135m", tuned=True)
    slm = Stage("t.slm", input=Letter, output=Kind, prompt="{{ text }}", model=model)
    with Engine(trace=False, backend=ScriptedBackend({"t.slm": '{"kind":"other"}'})) as scripted:
        run = scripted.run(stack(cascade(slm)), {"text": "a"})
    assert run.status == "review" and run.messages["triage.slm"].confidence is None


def test_a_threshold_may_be_of_one_step_and_the_last_may_have_the_last_word(engine: Engine) -> None:
    node = cascade(cheap, blind, abstain_below={"cheap.kind": 0.5})
    assert engine.run(stack(node), {"text": "a", "cheap": 0.6}).output.kind == "complaint"
    run = engine.run(stack(node), {"text": "a", "cheap": 0.4})
    assert run.output.kind == "other" and verdict(run).sure
    both = cascade(abstain_below={"kind": 0.9, "dear.kind": 0.3})
    assert engine.run(stack(both), {"text": "a", "cheap": 0.8, "dear": 0.3}).output.kind == "praise"


def test_confidence_is_scaled_before_it_is_compared_and_told_as_it_was(engine: Engine) -> None:
    hot, cold = cascade(temperature={"kind": 2.0}), cascade(temperature={"cheap.kind": 0.5})
    given = {"text": "a", "cheap": 0.9, "dear": 0.99}
    run = engine.run(stack(hot), given)
    assert scaled(0.9, 2.0) == pytest.approx(0.75) and run.output.kind == "praise"
    assert run.messages["triage.cheap"].confidence == {"kind": 0.9}
    assert verdict(run).tried[0].confidence == {"kind": pytest.approx(0.75)}
    assert engine.run(stack(cold), {**given, "cheap": 0.7}).output.kind == "complaint"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 20))
def test_scaling_keeps_the_order_and_the_ends(p: float, q: float, heat: float) -> None:
    assert 0 <= scaled(p, heat) <= 1 and scaled(p, 1.0) == p
    assert (scaled(0.0, heat), scaled(1.0, heat)) == (0.0, 1.0) and scaled(0.5, heat) == pytest.approx(0.5)
    low, high = sorted((p, q))
    assert scaled(low, heat) <= scaled(high, heat) + 1e-12


@given(st.floats(0.01, 0.99), st.floats(0.5, 5))
def test_scaling_can_be_taken_back(p: float, heat: float) -> None:
    assert scaled(scaled(p, heat), 1 / heat) == pytest.approx(p, rel=1e-6)


chances = st.one_of(st.none(), st.floats(0, 1))


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(chances, min_size=1, max_size=5), st.floats(0, 1), st.sampled_from(["review", "keep", "fail"]))
def test_it_is_the_first_sure_step_as_a_plain_loop_finds_it(
    engine: Engine, known: list[float | None], least: float, then: Any
) -> None:
    def step(number: int, sure: float | None) -> Any:
        @tool(f"t.s{number}", version="1")
        def say(letter: Letter) -> Scored[Answer]:
            return Scored(Answer(number=number), {} if sure is None else {"number": sure})

        return say

    steps = [step(number, sure) for number, sure in enumerate(known)]
    node = Cascade("t.triage", steps, abstain_below={"number": least}, then=then)
    expected = next((n for n, sure in enumerate(known) if sure is not None and sure >= least), None)
    made = Stack("t", input=Letter, output=Answer, steps=[node])
    try:
        run = engine.run(made, {"text": "a"})
    except RunFailed as failed:
        assert expected is None and then == "fail" and type(failed.error) is StageFailedError
        return
    if expected is None:
        assert run.status == {"review": "review", "keep": "succeeded"}[then]
        assert verdict(run).sure is False and len(verdict(run).tried) == len(known)
    if expected is not None or then == "keep":
        assert run.output.number == (len(known) - 1 if expected is None else expected)
        assert verdict(run).step == f"s{run.output.number}"


# -- where nobody is sure --------------------------------------------------------------------------------------------

UNSURE = {"text": "a", "cheap": 0.1, "dear": 0.2}


def test_a_person_is_asked_and_the_run_is_given_back(engine: Engine) -> None:
    run = engine.run(stack(cascade()), UNSURE)
    assert run.status == "review" and run.result is None and run.seconds > 0
    assert isinstance(run.error, ReviewNeeded) and run.error.exit_code == 6
    assert (run.error.step, run.error.fields) == ("triage.dear", ("kind",))
    assert verdict(run).step is None and "triage" not in run.messages
    with pytest.raises(ReviewNeeded, match="step triage: no step was sure enough"):
        _ = run.output


def test_every_way_to_run_gives_the_run_back(engine: Engine) -> None:
    asked = stack(cascade())
    outcomes = list(engine.map(asked, [UNSURE, {"text": "b"}, UNSURE]))
    assert [outcome.run.status for outcome in outcomes if outcome.run] == ["review", "succeeded", "review"]
    assert isinstance(outcomes[0].error, ReviewNeeded) and outcomes[1].error is None
    with pytest.raises(ReviewNeeded):
        _ = outcomes[2].output
    assert asyncio.run(engine.arun(asked, UNSURE)).status == "review"
    last = list(engine.stream(asked, UNSURE))[-1]
    assert isinstance(last, RunFinished) and last.status == "review" and isinstance(last.error, ReviewNeeded)


def test_the_last_answer_may_be_kept_and_says_that_it_is_unsure(engine: Engine) -> None:
    run = engine.run(stack(cascade(then="keep")), UNSURE)
    assert (run.status, run.output.kind, run.result.abstained) == ("succeeded", "praise", ("kind",))
    assert run.messages["triage"].abstained == ("kind",) and verdict(run).sure is False


def test_it_may_be_an_error(engine: Engine) -> None:
    with pytest.raises(RunFailed) as failed:
        engine.run(stack(cascade(then="fail")), UNSURE)
    assert type(failed.value.error) is StageFailedError and failed.value.run.status == "failed"
    with pytest.raises(RunFailed):
        engine.run(stack(Step(cascade(then="fail"))), UNSURE)


def nested() -> list[Stack[Any, Any]]:
    inner = cascade()
    skipped = Stack("t.inner", input=Letter, output=Kind, steps=[inner])
    optional = Step(skipped, name="deep", on_error="skip")

    class Maybe(BaseModel):
        kind: Kinds | None

    route = Route("t.route", by="input.text", cases={"a": Step(inner, name="ask")}, default=dear)
    outer = Cascade("t.outer", [Step(inner, name="ask"), blind], abstain_below={"ask.kind": 0.1}, then="keep")
    beside = Stack(
        "t.beside", input=Letter, output=Kind, steps=[stuck, Step(inner, name="ask")], bind={"kind": "ask.kind"}
    )
    ask = Step(inner, name="ask")
    fallback = Fallback("t.any", [ask, dear])
    vote = Vote("t.vote", [ask, blind, dear], by="kind", quorum=1)
    best = BestOf("t.best", ask, n=2, scorer=score)
    repair = Repair("t.repair", ask, remedies=[Instead(dear)], value=Kind(kind="other"))
    repeat = Repeat("t.again", ask, until="last.kind == 'other'", most=3, exhausted="keep")
    return [
        Stack("t", input=Letter, output=Maybe, steps=[optional]),
        *map(stack, (route, outer, beside, fallback, vote, best, repair, repeat)),
    ]


NAMES = ["skipped on error", "route", "cascade", "beside", "fallback", "vote", "best of", "repair", "repeat"]


@pytest.mark.parametrize("made", nested(), ids=NAMES)
def test_no_shape_and_no_policy_takes_the_question_away(engine: Engine, made: Stack[Any, Any]) -> None:
    run = engine.run(made, UNSURE, timeout=20)
    assert run.status == "review" and isinstance(run.error, ReviewNeeded)
    assert run.messages[run.error.step or ""].abstained == ("kind",)


def test_an_item_that_a_person_is_to_decide_is_not_left_out(engine: Engine) -> None:
    kinds = Map(
        "t.kinds", cascade(), over="letters", item="letter", into="kinds", on_error="skip", input=Pile, output=Sorted
    )
    pile = Stack("t", input=Pile, output=Sorted, steps=[kinds])
    run = engine.run(pile, {"letters": [{"text": "b"}, UNSURE, {"text": "boom", "cheap": 1.0}]})
    assert run.status == "review" and isinstance(run.error, ReviewNeeded)
    assert run.error.step == "kinds.triage[1].dear" and run.messages[run.error.step].abstained == ("kind",)


def test_who_is_kept_in_doubt_has_no_vote(engine: Engine) -> None:
    unsure = cascade(cheap, dear, then="keep")
    vote = Vote("t.vote", [Step(unsure, name="ask"), blind, Step(blind, name="again")], by="kind", quorum=1)
    run = engine.run(stack(vote), UNSURE)
    assert run.output.kind == "other" and run.messages["vote.ballot"].content.silent == [0]


def test_a_step_that_is_skipped_says_nothing(engine: Engine) -> None:
    broken = cascade(Step(cheap, on_error="skip"), dear)
    assert engine.run(stack(broken), {"text": "boom"}).output.kind == "praise"
    never = cascade(cheap, Step(dear, when="false"))
    run = engine.run(stack(never), UNSURE)
    assert run.status == "review" and run.error.step == "triage.cheap"
    assert engine.run(stack(cascade(cheap, Step(dear, when="false"), then="keep")), UNSURE).output.kind == "complaint"
    nobody = engine.run(stack(cascade(Step(cheap, when="false"), Step(dear, when="false"))), UNSURE)
    assert nobody.status == "review" and nobody.error.step is None and "every step was skipped" in str(nobody.error)
    with pytest.raises(RunFailed, match="every step was skipped"):
        engine.run(stack(cascade(Step(cheap, when="false"), then="keep")), UNSURE)


def test_a_later_step_may_take_what_the_one_before_said(engine: Engine) -> None:
    assert engine.run(stack(cascade(cheap, second)), UNSURE).output.kind == "other"
    skippable = cascade(Step(cheap, when="input.text != 'a'"), second)
    assert engine.run(stack(skippable), UNSURE).output.kind == "praise"


def test_cancelling_and_a_deadline_end_the_step_at_work(engine: Engine) -> None:
    made = stack(cascade(cheap, stuck))
    with pytest.raises(RunFailed) as failed:
        engine.run(made, UNSURE, timeout=0.2)
    assert isinstance(failed.value.error, DeadlineExceeded) and failed.value.run.status == "failed"

    async def go() -> Any:
        events = engine.astream(made, UNSURE)
        async for event in events:
            if getattr(event, "step", "") == "triage.stuck":
                break
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(go(), 20))
    assert engine.run(made, {"text": "a"}).status == "succeeded"


# -- what the check refuses ------------------------------------------------------------------------------------------


class Other(BaseModel):
    topic: str = Field(max_length=9)


@tool("t.elsewhere", version="1")
def elsewhere(letter: Letter) -> Other:
    return Other(topic="x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"abstain_below": {"colour": 0.5}}, "abstain_below names 'colour', but the output of step cheap has kind"),
        ({"abstain_below": {"large.kind": 0.5}}, "there is no step 'large'; there are cheap, dear"),
        ({"abstain_below": {"cheap.tone": 0.5}}, "names 'cheap.tone', but the output of step cheap has kind"),
        ({"abstain_below": {"kind": 1.5}}, "a threshold is a number from 0 to 1"),
        ({"abstain_below": {"kind": math.nan}}, "a threshold is a number from 0 to 1"),
        ({"abstain_below": {"kind": True}}, "a threshold is a number from 0 to 1"),
        ({"temperature": {"kind": 0.0}}, "a temperature is a number above 0"),
        ({"temperature": {"kind": math.inf}}, "a temperature is a number above 0"),
        ({"temperature": {"kind": "1"}}, "a temperature is a number above 0"),
        ({"abstain_below": {"cheap.kind": 0.5}, "temperature": {"dear.kind": 2.0}}, "has no effect"),
    ],
)
def test_a_threshold_that_cannot_be_is_found_before_anything_runs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(cascade(**options)).wiring
    assert said in str(refused.value)


def test_steps_that_cannot_give_the_output_are_found() -> None:
    report = check_stack(
        stack(cascade(cheap, elsewhere)), host=PluginHost(Settings(), installed=False), settings=Settings()
    )
    assert any("abstain_below names 'kind', but the output of step elsewhere" in error for error in report.errors)
    assert any("nobody supplies field 'kind'" in error for error in report.errors)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"abstain_below": {}}, "needs a field to go by"),
        ({"then": "guess"}, "can do no such thing"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        cascade(**options)
    with pytest.raises(StackError, match="needs a step"):
        Cascade("t.triage", [], abstain_below={"kind": 0.5})
    with pytest.raises(StackError, match="itself says something"):
        cascade(Step(cheap, name="verdict"))


def test_thresholds_are_part_of_what_a_stack_is() -> None:
    plans = {
        tuple(cascade(least=least, temperature=heat).plan()) for least in (0.5, 0.6) for heat in (None, {"kind": 2})
    }
    assert len(plans) == 4
    assert list(cascade(temperature={"kind": 2}).labels()) == ["kind: abstains below 0.8, temperature 2"]


# -- alternatives ----------------------------------------------------------------------------------------------------


def written(
    texts: list[str], chances: list[float], runners: list[tuple[str, float] | None], **more: Any
) -> Message[Any]:
    """A message as a stage writes it, token by token; tokens of probability 1 are dictated."""
    raw = "".join(texts)
    tokens = TokenTrace(
        tuple(range(len(texts))), tuple(texts), tuple(map(math.log, chances)), tuple(p == 1 for p in chances)
    )
    told = tuple(None if runner is None else (runner[0], math.log(runner[1])) for runner in runners)
    attempt = Attempt(0, None, raw, tokens=tokens, runners_up=told)
    return Message("s", Kind.model_validate_json(raw), node_id="n", content_id="c", attempts=(attempt,), **more)


def test_the_second_likeliest_token_leads_to_another_label() -> None:
    message = written(['{"kind":"', "com", 'plaint"', "}"], [1, 0.6, 1, 1], [None, ("pr", 0.3), None, None])
    assert alternatives_of(message, "kind") == (("praise", pytest.approx(0.3)),)


def test_a_later_fork_counts_with_the_way_there_and_labels_are_sorted() -> None:
    message = written(
        ['{"kind":"', "o", 'ther"}'], [1, 0.5, 0.5], [None, ("complaint", 0.2), ('praise"', 0.4)]
    )  # the last fork leads to no label: "opraise"
    assert alternatives_of(message, "kind") == (("complaint", pytest.approx(0.2)),)
    message = written(['{"kind":', '"', 'praise"}'], [1, 0.9, 0.5], [None, ('"com', 0.1), ('other"', 0.4)])
    assert alternatives_of(message, "kind") == (("other", pytest.approx(0.36)), ("complaint", pytest.approx(0.1)))


def test_what_is_no_other_label_is_no_alternative() -> None:
    ambiguous = written(['{"kind":"', 'praise"}'], [1, 0.6], [None, ("", 0.3)])
    itself = written(['{"kind":"', 'praise"}'], [1, 0.6], [None, ("prai", 0.3)])
    silent = written(['{"kind":"', 'praise"}'], [1, 0.6], [])
    narrowed = {"type": "object", "properties": {"kind": {"enum": ["praise", "other"]}}}
    closed = written(['{"kind":"', 'praise"}'], [1, 0.6], [None, ("compl", 0.3)], narrowed=narrowed)
    for message in (ambiguous, itself, silent, closed):
        assert alternatives_of(message, "kind") == ()
    assert alternatives_of(Message("s", Kind(kind="other"), node_id="n", content_id="c"), "kind") == ()


class Forking(ScriptedBackend):
    """Writes complaint with probability 0.6, where praise would have had 0.3."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(score=False, weights=False)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        yield Generation(
            '{"kind":"complaint"}',
            tokens=(1, 2, 3),
            texts=('{"kind":"', "complaint", '"}'),
            logprobs=(0.0, math.log(0.6), 0.0),
            runners_up=(None, (4, math.log(0.3)), None),
            runner_texts=(None, "praise", None),
            forced=(True, False, True),
        )


slm = Stage("t.slm", input=Letter, output=Kind, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))


def test_alternatives_are_on_the_message_and_in_the_trace(tmp_path: Path) -> None:
    with opened(tmp_path) as traced:
        run = traced.run(stack(cascade(slm)), {"text": "a"})
        sure = traced.run(stack(cascade(slm, least=0.5)), {"text": "a"})
    assert run.messages["triage.slm"].alternatives == {"kind": (("praise", pytest.approx(0.3)),)}
    assert sure.messages["triage.slm"].alternatives == {}
    with TraceStore.open(traced.settings.trace_path, readonly=True) as store:
        kept, other = store.run(run.id), store.run(sure.id)
        assert [row.id for row in store.runs(9, status="review")] == [run.id]
    assert kept.row.status == "review" and kept.row.error is not None and kept.row.error["code"] == "review"
    node = next(node for node in kept.nodes if node.step == "triage.slm")
    assert node.abstained == ("kind",) and node.alternatives == {"kind": (("praise", pytest.approx(0.3)),)}
    assert all(node.abstained == () for node in other.nodes)
    (step,) = [step for step in to_json(kept)["steps"] if step["step"] == "triage.slm"]
    assert step["abstained"] == ("kind",) or step["abstained"] == ["kind"]


def opened(tmp_path: Path, content: Any = "full") -> Engine:
    settings = Settings.model_validate({"data_dir": str(tmp_path / "data")})
    host = PluginHost(settings, installed=False)
    return Engine(settings=settings, host=host, backend=Forking(), content=content)


def test_no_alternative_of_what_is_sensitive_is_kept(tmp_path: Path) -> None:
    class Secret(BaseModel):
        kind: Kinds = Field(json_schema_extra={"sensitive": True})

    class Diary(BaseModel):
        text: str = Field(json_schema_extra={"sensitive": True})

    stage = Stage("t.slm", input=Diary, output=Secret, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    made = Stack("t", input=Diary, output=Secret, steps=[cascade(stage)])
    for content in ("redacted", "none"):
        with opened(tmp_path, content) as traced:
            run = traced.run(made, {"text": "my own words"})
        assert run.status == "review" and isinstance(run.error, ReviewNeeded)
        assert run.messages["triage.slm"].alternatives  # whoever runs it may see it
        with TraceStore.open(traced.settings.trace_path, readonly=True) as store:
            node = next(node for node in store.run(run.id).nodes if node.step == "triage.slm")
        assert node.abstained == ("kind",) and node.alternatives == {}
    raw = (tmp_path / "data" / "trace.db").read_bytes() + b"".join(p.read_bytes() for p in tmp_path.rglob("*-wal"))
    assert b"praise" not in raw and b"my own words" not in raw


def test_a_database_of_before_there_were_doubts_is_read_and_written_on(tmp_path: Path) -> None:
    with opened(tmp_path) as traced:
        before = traced.run(stack(cascade(slm, least=0.1)), {"text": "a"}).id
    path = traced.settings.trace_path
    raw = sqlite3.connect(path)
    raw.execute("ALTER TABLE nodes DROP COLUMN doubt")
    raw.commit()
    raw.close()
    with TraceStore.open(path, readonly=True) as store:
        assert [node.abstained for node in store.run(before).nodes] == [(), (), ()]
    with opened(tmp_path) as traced:
        after = traced.run(stack(cascade(slm)), {"text": "a"}).id
    with TraceStore.open(path, readonly=True) as store:
        assert any(node.abstained == ("kind",) for node in store.run(after).nodes)
        assert len(store.run(before).nodes) == 3


def test_a_review_is_caught_as_any_error_of_fslm_and_survives_a_copy() -> None:
    import pickle

    error = ReviewNeeded("x", where="y", step="a.b", fields=["f"], hint="z")
    twin: Mapping[str, Any] = vars(pickle.loads(pickle.dumps(error)))
    assert isinstance(error, FslmError) and (twin["step"], twin["fields"]) == ("a.b", ("f",))
