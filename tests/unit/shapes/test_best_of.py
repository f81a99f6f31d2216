"""The best of several: who is scored, what wins, and what never does."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, BestOf, Engine, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import check_stack
from fslm_core.errors import CheckError, RunFailed, StackError, StageFailedError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.shapes import Scores


class Ask(BaseModel):
    topic: str


class Line(BaseModel):
    line: str = Field(max_length=40)


class Pair(BaseModel):
    topic: str
    line: str


class Score(BaseModel):
    score: float | None
    why: str = ""


class Marked(BaseModel):
    line: str
    score: float | None


class Two(BaseModel):
    tone: int
    length: Literal[1, 2, 3]


class Deep(BaseModel):
    of: Two


class Word(BaseModel):
    line: str


write = Stage("t.write", input=Ask, output=Line, prompt="{{ topic }}", model=SLM("smollm2-135m", tuned=True))


@tool("t.judge", version="1", pure=True)
def judge(pair: Pair) -> Score:
    """A line's score is the number it ends in; the first word says what else happens."""
    word, _, number = pair.line.rpartition(" ")
    if word == "boom":
        raise ValueError("it broke")
    if word == "huge":
        return Score.model_construct(score=10**400, why=pair.topic)
    return Score(score=None if word == "none" else float(number), why=pair.topic)


@tool("t.two", version="1", pure=True)
def two(pair: Pair) -> Two:
    return Two(tone=len(pair.line), length=1)


@tool("t.deep", version="1", pure=True)
def deep(pair: Pair) -> Deep:
    return Deep(of=Two(tone=int(pair.line[-1]), length=1))


@tool("t.same", version="1")
def same(ask: Ask) -> Score:
    return Score(score=1.0)


@tool("t.words", version="1")
def words(word: Word) -> Word:
    return word


def index_of(request: Request) -> int:
    found = re.search(r"\[(\d+)\]/", request.id)
    assert found is not None
    return int(found[1])


def lines(*said: str) -> ScriptedBackend:
    return ScriptedBackend({"t.write": lambda request: f'{{"line":"{said[index_of(request)]}"}}'})


def best(n: int = 3, scorer: Any = judge, step: Any = write, **more: Any) -> BestOf[Any, Any]:
    options = {"temperature": 0.8} if step is write else {}
    return BestOf("t.best", step, n=n, scorer=scorer, **{**options, **more})


def stack(node: Any, output: type[BaseModel] = Line) -> Stack[Any, Any]:
    return Stack("t", input=Ask, output=output, steps=[Step(node, name="best")])


def run(node: Any, backend: Any, output: type[BaseModel] = Line) -> Any:
    with Engine(trace=False, host=PluginHost(Settings(), installed=False), backend=backend) as engine:
        return engine.run(stack(node, output), {"topic": "rain"})


def scores(found: Any) -> Scores:
    content: Scores = found.messages["best.scores"].content
    return content


def test_the_highest_score_wins() -> None:
    backend = lines("a 1", "b 3", "c 2")
    found = run(best(), backend)
    assert found.output.line == "b 3"
    assert scores(found) == Scores(scores=[1.0, 3.0, 2.0], winner=1)
    assert found.messages["best"].parents == (f"{found.id}/best.write[1]/0/0",)
    assert found.messages["best.judge[1]"].parents == (f"{found.id}/input/0/0", f"{found.id}/best.write[1]/0/0")
    assert found.messages["best.judge[1]"].content.why == "rain"
    assert len({request.seed for request in backend.requests}) == 3
    assert {request.sampling.temperature for request in backend.requests} == {0.8}


def test_or_the_lowest() -> None:
    assert run(best(best="least"), lines("a 2", "b 3", "c 1")).output.line == "c 1"


@pytest.mark.parametrize("way", ["most", "least"])
def test_of_equal_scores_the_earliest_wins(way: Any) -> None:
    assert run(best(best=way), lines("a 2", "b 2", "c 2")).output.line == "a 2"


@pytest.mark.parametrize("way", ["most", "least"])
def test_what_is_no_number_never_wins(way: Any) -> None:
    found = run(best(n=4, best=way), lines("none 0", "a nan", "b 2", "huge 0"))
    assert found.output.line == "b 2"
    assert scores(found) == Scores(scores=[None, None, 2.0, None], winner=2)


def test_candidates_and_scores_that_fail_are_left_out() -> None:
    backend = ScriptedBackend({"t.write": lambda r: ["nonsense", '{"line":"boom 9"}', '{"line":"c 1"}'][index_of(r)]})
    found = run(best(), backend)
    assert found.output.line == "c 1" and scores(found).scores == [None, None, 1.0]
    assert "best.judge[0]" not in found.messages and "best.write[1]" in found.messages


def test_without_any_score_it_fails_with_the_problems() -> None:
    with pytest.raises(RunFailed) as failed:
        run(best(), lines("boom 1", "boom 2", "none 3"))
    assert isinstance(failed.value.error, StageFailedError)
    assert str(failed.value).startswith("stack t, step best: none of 3 candidates has a score")
    assert [problem.kind for problem in failed.value.error.problems] == ["tool", "tool"]
    assert scores(failed.value.run) == Scores(scores=[None, None, None], winner=None)


def test_who_is_passed_over_has_no_score() -> None:
    picky = Step(judge, when="candidate.line != 'a 9'")
    assert run(best(scorer=picky), lines("a 9", "b 3", "c 2")).output.line == "b 3"
    soft = Step(judge, on_error="skip")
    assert scores(run(best(scorer=soft), lines("boom 9", "b 3", "c 2"))).scores == [None, 3.0, 2.0]
    with pytest.raises(RunFailed):
        run(best(step=Step(write, when="input.topic == 'sun'"), temperature=0.5), lines())


def test_the_output_may_take_the_score() -> None:
    found = run(best(output=Marked), lines("a 1", "b 3", "c 2"), Marked)
    assert found.output == Marked(line="b 3", score=3.0)
    found = run(best(output=Marked, bind={"score": "judge.score"}), lines("a 1", "b 3", "c 2"), Marked)
    assert found.output.score == 3.0


def test_a_score_may_lie_deep_and_the_scorer_may_be_a_shape() -> None:
    assert run(best(scorer=deep, by="deep.of.tone"), lines("a 1", "b 3", "c 2")).output.line == "b 3"
    inner = Stack("t.scoring", input=Pair, output=Score, steps=[judge])
    found = run(best(scorer=inner, by="scoring.score"), lines("a 1", "b 3", "c 2"))
    assert found.output.line == "b 3" and "best.scoring[2].judge" in found.messages


def test_a_scorer_is_no_step_that_nothing_uses() -> None:
    report = check_stack(stack(best()), host=PluginHost(Settings(), installed=False), settings=Settings())
    assert not report.errors and not any("nothing uses" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": None}, "it would say the same 3 times"),
        ({"by": "judge.colour"}, "by='judge.colour' is nothing that the scorer says; it says judge.score, judge.why"),
        ({"by": "write.line"}, "by='write.line' is nothing that the scorer says"),
        ({"by": "judge"}, "by='judge' is nothing that the scorer says"),
        ({"by": "judge.why"}, "by='judge.why' is no number"),
        ({"scorer": same}, "it takes nothing from 'candidate', so all would score the same"),
        ({"step": words, "scorer": judge, "temperature": 0.5}, "temperature is for stages that write"),
    ],
)
def test_what_cannot_be_is_found_before_anything_runs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(best(**options)).wiring
    assert any(said in finding for finding in refused.value.findings), refused.value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 1}, "n is out of range"),
        ({"n": 101}, "n is out of range"),
        ({"best": "max"}, "what is best is out of range"),
        ({"temperature": -1}, "temperature is out of range"),
        ({"scorer": two}, r"needs one score to go by(.|\n)*2 numbers \(tone, length\)"),
        ({"scorer": words}, r"needs one score to go by(.|\n)*a scorer with none"),
        ({"step": Step(write, name="candidate")}, "itself says something"),
        ({"scorer": Step(judge, name="scores")}, "itself says something"),
        ({"scorer": Step(judge, name="write")}, "two steps have one name"),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError) as refused:
        best(**options)
    assert re.search(said, str(refused.value))


def test_what_decides_is_in_its_plan() -> None:
    options: tuple[dict[str, Any], ...] = (
        {},
        {"n": 4},
        {"best": "least"},
        {"temperature": 0.5},
        {"scorer": two, "by": "two.tone"},
    )
    assert len({tuple(best(**one).plan()) for one in options}) == len(options)
