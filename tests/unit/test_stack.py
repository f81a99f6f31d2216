"""Wiring: every refusal the check promises, and wirings that are whole, fitting and the same every time."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, computed_field, create_model

from fslm_core.errors import CheckError, StackError
from fslm_core.stack import Source, Stack, Step, fits
from fslm_core.stage import SLM, Stage, Tool

Short = Annotated[str, Field(max_length=20)]


class Text(BaseModel):
    text: str


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Judged(BaseModel):
    mood: Mood
    score: Annotated[int, Field(ge=0, le=9)] = 0


class Maybe(BaseModel):
    mood: Mood | None
    score: int | None = None


def tool_stage(name: str, input: type[BaseModel], output: type[BaseModel]) -> Stage[Any, Any]:
    return Stage(name, input=input, output=output, tool=Tool(lambda message: output.model_construct(), "1"))


def slm_stage(
    name: str, input: type[BaseModel], output: type[BaseModel], prompt: str = "{{ text }}", **more: Any
) -> Stage[Any, Any]:
    return Stage(name, input=input, output=output, prompt=prompt, model=SLM("base", tuned=True), **more)


judge = tool_stage("t.judge", Text, Judged)


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Made", **fields)


def findings(stack: Stack[Any, Any]) -> str:
    with pytest.raises(CheckError) as caught:
        _ = stack.wiring
    assert caught.value.stack == stack.name
    return "\n".join(caught.value.findings)


# -- definitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a.b", "input", "output", "a b", "a-b", "1a", "é.x"])
def test_a_steps_name_is_one_word(name: str) -> None:
    with pytest.raises(StackError, match="one word"):
        Step(judge, name=name)


def test_a_step_is_named_after_the_last_word_of_its_stage() -> None:
    assert Step(tool_stage("a.b.two-words", Text, Judged)).name == "two_words"
    with pytest.raises(StackError, match="one word"):
        Step(tool_stage("a.input", Text, Judged))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "Upper"}, "dotted lower-case"),
        ({"name": ""}, "dotted lower-case"),
        ({"input": dict}, "not a pydantic model"),
        ({"output": Text(text="")}, "not a pydantic model"),
        ({"steps": []}, "needs a step"),
        ({"steps": [judge, judge]}, "two steps have one name"),
    ],
)
def test_a_stack_that_contradicts_itself_is_refused_at_once(change: dict[str, Any], what: str) -> None:
    arguments: dict[str, Any] = {"name": "s", "input": Text, "output": Judged, "steps": [judge], **change}
    with pytest.raises(StackError, match=what):
        Stack(arguments.pop("name"), **arguments)


# -- what is wired by itself -------------------------------------------------------------------------------------------


def test_a_field_with_one_supplier_is_wired_by_itself() -> None:
    wiring = Stack("s", input=Text, output=Judged, steps=[judge]).wiring
    assert wiring.sources["judge"] == {"text": Source("input", ("text",))}
    assert wiring.sources["output"] == {"mood": Source("judge", ("mood",)), "score": Source("judge", ("score",))}
    assert wiring.needs("judge") == frozenset()
    assert wiring.warnings == ()


def test_bind_reaches_into_messages() -> None:
    inner = model(mood=(Mood, ...))
    outer = tool_stage("t.outer", Text, model(inside=(inner, ...)))
    wiring = Stack("s", input=Text, output=Maybe, steps=[outer], bind={"mood": "outer.inside.mood"}).wiring
    assert str(wiring.sources["output"]["mood"]) == "outer.inside.mood"


def test_what_a_when_asks_for_is_waited_for() -> None:
    last = Step(tool_stage("t.last", Text, model(b=(int, ...))), when="judge.mood == 'good' and input.text")
    stack = Stack("s", input=Text, output=model(b=(int | None, ...)), steps=[judge, last])
    assert stack.wiring.needs("last") == {"judge"}


def test_defaults_stand_where_nobody_supplies() -> None:
    wiring = Stack("s", input=Text, output=model(mood=(Mood, ...), other=(int, 3)), steps=[judge]).wiring
    assert set(wiring.sources["output"]) == {"mood"}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_several_suppliers_are_refused_with_the_lines_to_choose_from() -> None:
    again = tool_stage("t.again", Text, Judged)
    found = findings(Stack("s", input=Text, output=Maybe, steps=[judge, again]))
    assert 'bind={"mood": "judge.mood"} or bind={"mood": "again.mood"}' in found
    chosen = Stack(
        "s", input=Text, output=Maybe, steps=[judge, again], bind={"mood": "again.mood", "score": "judge.score"}
    )
    assert str(chosen.wiring.sources["output"]["mood"]) == "again.mood"


@pytest.mark.parametrize(
    ("output", "bind", "expected"),
    [
        (model(a=(int, ...)), {}, "nobody supplies field 'a' (int); there are: input.text, judge.mood, judge.score"),
        (model(mood=(int, ...)), {}, "field 'mood' wants int, but judge.mood is Mood"),
        (model(text=(str, ...), n=(int, ...)), {"n": "input.text"}, "field 'n' wants int, but input.text is str"),
        (Maybe, {"nothing": "judge.mood"}, "names 'nothing', which is no field of Maybe"),
        (Maybe, {"mood": "nobody.mood"}, "the suppliers here are input.<field>, judge.<field>"),
        (Maybe, {"mood": "judge"}, "the suppliers here are input.<field>, judge.<field>"),
        (Maybe, {"mood": ""}, "the suppliers here are"),
        (Maybe, {"mood": "judge.nothing"}, "Judged has mood, score"),
        (Maybe, {"mood": "judge.mood.value"}, "Mood has no fields"),
        (Maybe, {"mood": "output.mood"}, "the suppliers here are"),
    ],
)
def test_a_field_that_cannot_be_supplied_is_refused(output: Any, bind: dict[str, str], expected: str) -> None:
    assert expected in findings(Stack("s", input=Text, output=output, steps=[judge], bind=bind))


def test_a_step_is_no_supplier_of_itself_nor_of_earlier_ones() -> None:
    first = tool_stage("t.first", model(mood=(Mood, ...)), Text)
    found = findings(Stack("s", input=model(n=(int, ...)), output=Text, steps=[first, judge]))
    assert "step first: nobody supplies field 'mood'" in found


def test_a_skippable_supplier_needs_a_field_that_accepts_null() -> None:
    maybe = Step(judge, when="input.text != ''")
    found = findings(Stack("s", input=Text, output=Judged, steps=[maybe]))
    assert "write `mood: Mood | None`" in found
    assert Stack("s", input=Text, output=Maybe, steps=[maybe]).wiring.needs("output") == {"judge"}


def test_there_is_no_falling_back_to_an_earlier_supplier() -> None:
    later = Step(tool_stage("t.later", Text, Judged), when="input.text")
    assert "several suppliers" in findings(Stack("s", input=Text, output=Maybe, steps=[judge, later]))


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("judge.mood ==", "when: "),
        ("later.mood", "asks for 'later'; known here: input, judge"),
        ("judge.nothing", "asks for judge.nothing; Judged has mood, score"),
        ("judge['nothing']", "asks for judge.nothing"),
        ("judge.__class__", "Python internals"),
        ("nobody", "asks for 'nobody'"),
    ],
)
def test_a_when_that_cannot_hold_is_refused(when: str, expected: str) -> None:
    later = Step(tool_stage("t.later", Text, model(b=(int, ...))), when=when)
    assert expected in findings(Stack("s", input=Text, output=Maybe, steps=[judge, later]))


class Full(Text):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def first(self) -> str:
        return self.text[:1]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (
            slm_stage("t.s", Text, Judged, "{{ txt }} {{ first }}"),
            "uses 'txt', which is no field of Text (it has text)",
        ),
        (slm_stage("t.s", Text, Judged, "{{ text"), "does not parse"),
        (slm_stage("t.s", Text, model(a=(str, ...))), "the string has no bound"),
        (slm_stage("t.s", Text, model(a=(dict[str, int], ...))), "a dict has no bound"),
        (slm_stage("t.s", Text, model(a=(Callable[[int], int], ...))), "pydantic cannot express"),
        (tool_stage("t.s", Text, model(a=(Callable[[int], int], ...))), "pydantic cannot express"),
        (slm_stage("t.s", Text, Judged, narrow={"mood": "moods.all"}), "narrow of 'mood' follows 'moods.all'"),
        (
            slm_stage("t.s", Text, Judged, narrow={"mood.tone": "text"}),
            "narrow of 'mood.tone': Judged has no such field",
        ),
    ],
)
def test_a_stage_that_cannot_run_is_refused(stage: Stage[Any, Any], expected: str) -> None:
    assert expected in findings(Stack("s", input=Text, output=Text, steps=[stage]))


def test_computed_fields_of_the_input_may_be_used() -> None:
    stage = slm_stage("t.s", Full, Judged, "{{ first }}")
    assert Stack("s", input=Text, output=Judged, steps=[stage]).wiring.sources["s"] == {
        "text": Source("input", ("text",))
    }


@pytest.mark.torch
def test_a_schema_the_grammar_cannot_express_is_refused() -> None:
    lookaround = model(a=(Annotated[str, Field(max_length=5, json_schema_extra={"pattern": r"\bab"})], ...))
    assert "the grammar cannot express" in findings(
        Stack("s", input=Text, output=Text, steps=[slm_stage("t.s", Text, lookaround)])
    )


def test_all_findings_come_at_once() -> None:
    bad = slm_stage("t.bad", model(a=(int, ...)), model(b=(str, ...)), "{{ c }}")
    found = findings(Stack("s", input=Text, output=model(d=(int, ...)), steps=[Step(bad, when="e")])).splitlines()
    assert len(found) == 5


def test_what_deserves_a_look_is_a_warning() -> None:
    bare = Stage("t.s", input=Text, output=Judged, prompt="{{ text }}", model=SLM("base"))
    stack = Stack("s", input=Text, output=Text, steps=[bare])
    assert [w.partition(": ")[2].split(" ")[0] for w in stack.wiring.warnings] == ["untuned:", "nothing"]


# -- types -------------------------------------------------------------------------------------------------------------


class Child(Text):
    more: int = 0


class Count(enum.IntEnum):
    ONE = 1


_TYPES: list[tuple[Any, Sequence[Any]]] = [
    (str, ["a", ""]),
    (int, [3, -1]),
    (bool, [True, False]),
    (float, [0.5, 2.0]),
    (None, [None]),
    (str | None, [None, "a"]),
    (Literal["good", "bad"], ["good", "bad"]),
    (Literal["good", None], ["good", None]),
    (Literal[1, True], [1]),
    (Literal[1], [1]),
    (Mood, list(Mood)),
    (Mood | None, [*Mood, None]),
    (Count, list(Count)),
    (Text, [Text(text="a")]),
    (Child, [Child(text="a", more=2)]),
    (Text | None, [Text(text="a"), None]),
    (list[str], [[], ["a"]]),
    (list[Mood], [list(Mood)]),
    (list[int | None], [[1, None]]),
    (tuple[str, int], [("a", 1)]),
    (tuple[int, ...], [(1, 2)]),
    (Sequence[str], [["a"]]),
    (list[str | int], [["a", 1]]),
    (list[list[str]], [[["a"]]]),
    (Annotated[str, Field(min_length=0)], ["a"]),
    (Any, ["a", 1, None]),
    (dict[str, int], [{"a": 1}]),
    (str | int | None, ["a", 1, None]),
    (float | None, [0.5, None]),
]


@pytest.mark.parametrize(("given", "values"), _TYPES, ids=range(len(_TYPES)))
def test_every_value_of_a_type_that_is_said_to_fit_is_taken(given: Any, values: Any) -> None:
    written = [TypeAdapter(given).dump_json(value) for value in values]
    assert fits(given, given)
    for wanted, _ in _TYPES:
        if fits(given, wanted):
            for text in written:
                TypeAdapter(wanted).validate_json(text)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Literal["good", None], str | None),
        (Literal["good", None], Mood | None),
        (type(None), Literal["a", None]),
        (Mood, str),
        (Mood, Literal["good", "bad", "other"]),
        (Count, int),
        (int, float),
        (Literal[1], float),
        (Child, Text),
        (tuple[Mood, int], list[str | int]),
        (list[Mood], Sequence[str]),
        (str, Any),
        (Text, Any),
    ],
)
def test_these_fit(given: Any, wanted: Any) -> None:
    assert fits(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (str, Mood),
        (Any, str),
        (str | None, str),
        (Text, Child),
        (float, int),
        (Literal[1], Literal[True]),
        (list[str], str),
    ],
)
def test_these_do_not(given: Any, wanted: Any) -> None:
    assert not fits(given, wanted)


# -- stacks made at random ---------------------------------------------------------------------------------------------

_KINDS = [str, int, float, bool, str | None, int | None, Mood]
_MODELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(_KINDS), min_size=1, max_size=3).map(
    lambda fields: model(**{name: (kind, ...) for name, kind in fields.items()})
)


@st.composite
def _stacks(draw: st.DrawFn) -> Callable[[], Stack[Any, Any]]:
    models = [draw(_MODELS) for _ in range(2 * draw(st.integers(1, 4)))]
    whens = [draw(st.sampled_from([None, None, "true"])) for _ in models]
    binds: list[dict[str, str]] = []
    suppliers = {"input": models[0]}
    for place in range(0, len(models), 2):
        wanted = models[(place + 1) % len(models)]
        paths = [f"{s}.{f}" for s, m in suppliers.items() for f in m.model_fields]
        binds.append(draw(st.dictionaries(st.sampled_from(sorted(wanted.model_fields)), st.sampled_from(paths))))
        suppliers[f"s{place}"] = models[place]

    def make() -> Stack[Any, Any]:
        steps = [
            Step(
                tool_stage(f"t.s{place}", models[(place + 1) % len(models)], models[place]),
                bind=binds[place // 2],
                when=whens[place],
            )
            for place in range(0, len(models), 2)
        ]
        return Stack("s", input=models[0], output=models[1], steps=steps)

    return make


@settings(max_examples=300, deadline=None)
@given(make=_stacks())
def test_a_wiring_is_refused_or_whole_and_always_the_same(make: Callable[[], Stack[Any, Any]]) -> None:
    def outcome() -> Any:
        stack = make()
        try:
            return stack, dict(stack.wiring.sources)
        except CheckError as error:
            return stack, error.findings

    stack, found = outcome()
    assert outcome()[1] == found
    if isinstance(found, tuple):
        assert found
        return
    earlier: dict[str, type[BaseModel]] = {"input": stack.input}
    skippable: set[str] = set()
    wanted = {step.name: step.stage.input for step in stack.steps} | {"output": stack.output}
    made = {step.name: step.stage.output for step in stack.steps}
    for name, target in wanted.items():
        assert set(found[name]) == set(target.model_fields)
        for field, source in found[name].items():
            given_type = earlier[source.step].model_fields[source.path[0]].annotation
            assert fits(given_type, target.model_fields[field].annotation)
            if source.step in skippable:
                assert fits(None, target.model_fields[field].annotation)
        if name != "output":
            earlier[name] = made[name]
            skippable |= {name for step in stack.steps if step.name == name and step.when}
