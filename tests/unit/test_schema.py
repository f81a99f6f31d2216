"""The central promise: canonical text, the schema's own check and the grammar agree, byte for byte."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, computed_field, create_model, field_serializer, field_validator

from fslm_core.errors import SchemaError
from fslm_core.schema import (
    Schema,
    canonical,
    content_id,
    dumps,
    field_spans,
    normalise,
    parse,
    schema_id_of,
)

Accepts = Callable[[Schema, str], bool]
Short = Annotated[str, Field(max_length=12)]


@pytest.fixture(scope="session")
def accepts() -> Accepts:
    """Feeds a text to the grammar byte by byte, as a decoder would with a tokenizer of single bytes."""
    import llguidance

    tokenizer = llguidance.LLTokenizer("byte")

    def accept(schema: Schema, text: str) -> bool:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema.text, defaults={"whitespace_flexible": False})
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        assert not matcher.get_error(), matcher.get_error()
        return all(matcher.consume_token(byte) for byte in text.encode()) and bool(matcher.is_accepting())

    return accept


class Colour(enum.Enum):
    RED = "red"
    BLUE = "bl\u00fc"
    ODD = 'q"\n\x7f'


class Weight(enum.Enum):
    LIGHT = 1.0
    HEAVY = 2.5
    TINY = 1e-9
    COUNT = 7


class Place(BaseModel):
    street: Short
    number: Annotated[int, Field(ge=-3, le=1200)] = 1


# -- models made at random, with values that fit them ------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_STEPS = [0.01, 0.25, 0.5, 1, 3, 0.1]


@st.composite
def _numbers(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    step = draw(st.sampled_from(_STEPS))
    low, high = sorted(draw(st.tuples(st.integers(-400, 400), st.integers(-400, 400))))
    kind = Annotated[float, Field(ge=round(low * step, 2), le=round(high * step, 2), multiple_of=step)]
    return kind, st.integers(low, high).map(lambda n: float(round(n * step, 2)))


@st.composite
def _tenths(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    digits = draw(st.integers(0, 3))
    low, high = sorted(
        draw(st.tuples(st.integers(-9999, 9999), st.integers(-9999, 9999)).filter(lambda p: p[0] != p[1]))
    )
    kind = Annotated[float, Field(ge=low, lt=high, multiple_of=10.0**-digits)]
    return kind, st.integers(low * 10**digits, high * 10**digits - 1).map(lambda n: n / 10**digits)


@st.composite
def _sevens(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    low, high = sorted(draw(st.tuples(st.integers(-500, 500), st.integers(-500, 500))))
    extra = draw(st.integers(0, 6))
    kind = Annotated[int, Field(gt=7 * low - 1 - extra, le=7 * high + extra, multiple_of=7)]
    return kind, st.integers(low, high).map(lambda n: 7 * n)


@st.composite
def _integers(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    low, high = sorted(draw(st.tuples(st.integers(-(2**53) + 1, 2**53 - 1), st.integers(-(2**53) + 1, 2**53 - 1))))
    return Annotated[int, Field(ge=low, le=high)], st.integers(low, high)


_LEAVES: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]] = st.one_of(
    st.just((Short, _TEXT)),
    st.just((Annotated[str, Field(max_length=6, pattern="^[a-z]+$")], st.from_regex("[a-z]{1,6}", fullmatch=True))),
    st.just((bool, st.booleans())),
    st.just((int, st.integers(-(2**53) + 1, 2**53 - 1))),
    st.just((Colour, st.sampled_from(Colour))),
    st.just((Weight, st.sampled_from(Weight))),
    st.just((Literal["a", 1, None], st.sampled_from(["a", 1, None]))),
    st.just((datetime.datetime, st.datetimes(timezones=st.sampled_from([None, datetime.UTC])))),
    st.just((datetime.date, st.dates())),
    st.just((datetime.time, st.times())),
    st.just((uuid.UUID, st.uuids())),
    st.just((Place, st.builds(Place, street=_TEXT, number=st.integers(-3, 1200)))),
    _integers(),
    _numbers(),
    _tenths(),
    _sevens(),
)


def _wrapped(
    inner: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    return st.one_of(
        inner.map(lambda p: (p[0] | None, st.none() | p[1])),
        inner.map(lambda p: (Annotated[list[p[0]], Field(max_length=3)], st.lists(p[1], max_size=3))),  # type: ignore[name-defined]
        st.tuples(inner, inner).map(lambda ps: (tuple[ps[0][0], ps[1][0]], st.tuples(ps[0][1], ps[1][1]))),  # type: ignore[misc]
    )


_FIELDS = st.recursive(_LEAVES, _wrapped, max_leaves=3)


@st.composite
def instances(draw: st.DrawFn) -> BaseModel:
    """An instance of a model that was made up for it."""
    kinds = draw(st.lists(_FIELDS, min_size=1, max_size=4))
    fields: Any = {f"f{place}": (kind, ...) for place, (kind, _) in enumerate(kinds)}
    model = create_model("Made", **fields)
    return model(**{f"f{place}": draw(values) for place, (_, values) in enumerate(kinds)})


@pytest.mark.torch
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(instance=instances())
def test_canonical_text_reads_back_fits_its_bound_and_is_what_the_grammar_allows(
    instance: BaseModel, accepts: Accepts
) -> None:
    model, schema, text = type(instance), normalise(type(instance)), canonical(instance)
    assert schema.problems(json.loads(text)) == []
    assert parse(text, model, schema) == instance
    assert canonical(model.model_validate_json(text)) == text
    assert len(text.encode()) <= schema.max_bytes
    assert schema.grammar_error() is None
    assert accepts(schema, text)
    spans = field_spans(text)
    assert list(spans) == list(model.model_fields)
    assert {name: json.loads(text[a:b]) for name, (a, b) in spans.items()} == json.loads(text)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Short, "\x00\x1f\x7f\u2028\u2029\ufeff", '"\\u0000\\u001f\\u007f\u2028\u2029\ufeff"'),
        (Short, 'a"b\\c/\n\t😀é', '"a\\"b\\\\c/\\n\\t😀é"'),
        (Annotated[float, Field(ge=-1, le=1, multiple_of=0.25)], -1.0, "-1"),
        (Annotated[float, Field(ge=-1, le=1, multiple_of=0.25)], -0.0, "0"),
        (Annotated[float, Field(ge=0, le=10, multiple_of=3)], 9.0, "9"),
        (Annotated[float, Field(gt=0, lt=1, multiple_of=1e-7)], 1e-7, "0.0000001"),
        (Annotated[int, Field(gt=0, lt=2)], 1, "1"),
        (Weight, Weight.LIGHT, "1"),
        (datetime.datetime, datetime.datetime(1, 2, 3, 4, 5, 6, 7), '"0001-02-03T04:05:06.000007"'),
        (Annotated[list[int], Field(max_length=0)], [], "[]"),
    ],
)
def test_odd_values_have_one_text_that_the_grammar_allows(kind: Any, value: Any, text: str, accepts: Accepts) -> None:
    instance = create_model("M", x=(kind, ...))(x=value)
    schema = normalise(type(instance))
    assert canonical(instance) == f'{{"x":{text}}}'
    assert accepts(schema, canonical(instance))
    assert parse(canonical(instance), type(instance), schema) == instance


@pytest.mark.torch
def test_the_schema_is_as_exact_as_the_grammar(accepts: Accepts) -> None:
    cases: list[tuple[Any, str, bool]] = [
        (Annotated[float, Field(ge=0, le=1, multiple_of=0.1)], "0.3", True),
        (Annotated[float, Field(ge=0, le=1, multiple_of=0.1)], "0.30000000000000004", False),
        (Annotated[str, Field(max_length=5, pattern=r"^\d+$")], '"١٢"', False),
        (Annotated[str, Field(max_length=5, pattern=r"^\w+$")], '"é"', False),
        (Annotated[str, Field(max_length=2)], '"😀😀"', True),
        (Annotated[str, Field(max_length=2)], '"😀😀😀"', False),
        (bool, "1", False),
        (Literal[1], "true", False),
        (int, str(2**53), False),
        (tuple[int, bool], "[1]", False),
        (Annotated[list[int], Field(min_length=1, max_length=2)], "[]", False),
        (datetime.datetime, '"2020-13-01T00:00:00"', False),
    ]
    for kind, text, fits in cases:
        schema = normalise(create_model("M", x=(kind, ...)))
        whole = f'{{"x":{text}}}'
        assert (schema.problems(json.loads(whole)) == []) is fits, (kind, text)
        assert accepts(schema, whole) is fits, (kind, text)


# -- what cannot be bounded or written is refused, and the text says what to write ------------------------------------


class Tree(BaseModel):
    child: Tree | None = None


class Aliased(BaseModel):
    inner: Annotated[int, Field(alias="Inner")]


class NestedAlias(BaseModel):
    outer: Aliased


class Hidden(BaseModel):
    seen: int
    unseen: Annotated[int, Field(exclude=True)] = 0


class NestedHidden(BaseModel):
    inside: Hidden


class Computing(BaseModel):
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.a


class NestedComputing(BaseModel):
    inside: Computing


class Serialising(BaseModel):
    a: int

    @field_serializer("a")
    def _as_text(self, value: int) -> str:
        return str(value)


@pytest.mark.parametrize(
    ("kind", "what", "hint"),
    [
        (str, "no bound", "max_length"),
        (list[int], "no bound", "max_length"),
        (float, "no bound on its digits", "multiple_of"),
        (Annotated[float, Field(ge=0, le=1e21, multiple_of=1)], "more digits than a float", "coarser"),
        (Annotated[float, Field(ge=0, le=1, multiple_of=1 / 3)], "more digits", "coarser"),
        (Annotated[float, Field(ge=0, le=1e6, multiple_of=0.25)], "cannot be expressed", ""),
        (Annotated[int, Field(ge=2**60)], "JSON readers keep exact", "string of digits"),
        (Annotated[int, Field(ge=3, le=2)], "leave nothing", "bound"),
        (dict[str, int], "no bound on its keys", "list of pairs"),
        (Annotated[set[int], Field(max_length=3)], "a set", "list"),
        (Any, "can hold anything", "type"),
        (bytes, "cannot be bounded", "str"),
        (datetime.timedelta, "cannot be bounded", "seconds"),
        (Tree, "contains itself", "flatten"),
        (NestedAlias, "otherwise than it is read", "alias"),
        (Hidden, "otherwise than it is read", "exclude"),
        (NestedHidden, "otherwise than it is read", "exclude"),
        (NestedComputing, "otherwise than it is read", "computed"),
        (Serialising, "otherwise than it is read", "serialiser"),
    ],
)
def test_a_field_without_bound_or_with_two_faces_is_refused(kind: Any, what: str, hint: str) -> None:
    with pytest.raises(SchemaError) as caught:
        normalise(create_model("Made", x=(kind, ...)))
    assert what in caught.value.what
    assert hint in str(caught.value)
    assert "Made.x" in str(caught.value.where)


def test_models_that_are_no_plain_objects_are_refused() -> None:
    with pytest.raises(SchemaError, match="alias"):
        normalise(Aliased)
    with pytest.raises(SchemaError, match="not an object"):
        normalise(RootModel[Annotated[list[int], Field(max_length=3)]])
    with pytest.raises(SchemaError, match="pydantic cannot express"):
        normalise(create_model("M", x=(Callable[[int], int], ...)))


def test_top_level_computed_fields_stay_out_of_the_text() -> None:
    assert canonical(Computing(a=2)) == '{"a":2}'
    assert parse('{"a":2}', Computing, normalise(Computing)) == Computing(a=2)


# -- narrowing ---------------------------------------------------------------------------------------------------------


class Choice(BaseModel):
    colour: Colour
    maybe: Colour | None = None
    literal: Literal["a", "b", None] = None
    word: Annotated[str, Field(max_length=5, min_length=2, pattern="^[a-z]+$")] = "word"
    words: Annotated[list[Colour], Field(max_length=2)] = []
    number: Literal[1, 2] = 1
    count: int = 0


def test_narrowing_leaves_only_what_was_named() -> None:
    schema = normalise(Choice).narrow(
        {"colour": [Colour.RED], "maybe": ["red"], "words": [Colour.RED], "word": ["abc"]}
    )
    good = {"colour": "red", "maybe": None, "literal": None, "word": "abc", "words": ["red"], "number": 1, "count": 0}
    assert schema.problems(good) == []
    for change in ({"colour": "blü"}, {"maybe": "blü"}, {"word": "abd"}, {"words": ["blü"]}):
        assert schema.problems({**good, **change}), change


def test_null_and_the_empty_list_stay_where_they_were() -> None:
    fields = normalise(Choice).narrow({"maybe": [], "literal": ["a"], "words": []}).tree["properties"]
    assert fields["maybe"] == {"enum": [None]}
    assert fields["literal"] == {"enum": ["a", None]}
    assert fields["words"]["maxItems"] == 0


@pytest.mark.parametrize(
    "allowed",
    [
        {"colour": ["green"]},
        {"colour": []},
        {"colour": [None]},
        {"word": ["toolong"]},
        {"word": ["a"]},
        {"word": ["A1"]},
        {"word": [3]},
        {"word": []},
        {"number": [True]},
        {"count": [1]},
    ],
)
def test_narrowing_can_only_narrow(allowed: dict[str, list[object]]) -> None:
    with pytest.raises(SchemaError) as caught:
        normalise(Choice).narrow(allowed, where="stage a.b")
    assert f"stage a.b.{next(iter(allowed))}" == caught.value.where


class Walk(BaseModel):
    kind: Literal["walk"]
    metres: Annotated[int, Field(ge=0, le=9)]


class Swim(BaseModel):
    kind: Literal["swim"]
    word: Short


class Moves(BaseModel):
    move: Annotated[Walk | Swim, Field(discriminator="kind")]
    maybe: Walk | Swim | None = None
    several: Annotated[list[Walk | Swim], Field(max_length=2)] = []
    one: Walk | None = None


WALK, SWIM = {"kind": "walk", "metres": 3}, {"kind": "swim", "word": "crawl"}


@pytest.mark.torch
def test_a_union_is_narrowed_by_the_field_that_tells_it_apart(accepts: Accepts) -> None:
    schema = normalise(Moves).narrow({"move": ["swim"], "maybe": ["walk"], "several": ["walk"], "one": ["walk"]})
    good = {"move": SWIM, "maybe": None, "several": [WALK], "one": WALK}
    assert schema.problems(good) == [] and accepts(schema, dumps(good))
    for change in ({"move": WALK}, {"maybe": SWIM}, {"several": [WALK, SWIM]}):
        assert schema.problems({**good, **change}) and not accepts(schema, dumps({**good, **change})), change
    assert normalise(Moves).narrow({"maybe": []}).tree["properties"]["maybe"] == {"enum": [None]}
    assert normalise(Moves).narrow({"several": []}).tree["properties"]["several"]["maxItems"] == 0
    one = normalise(create_model("One", move=(Walk, ...)))
    assert one.narrow({"move": ["walk"]}).problems({"move": WALK}) == []


class Slot(BaseModel):
    name: Literal["date", "time", "town"]
    value: Short


class Heard(BaseModel):
    slots: Annotated[list[Slot], Field(max_length=3)] = []
    least: Annotated[list[Slot], Field(min_length=1, max_length=3)]
    slot: Slot | None = None
    move: Annotated[Walk | Swim, Field(discriminator="kind")]
    pair: tuple[Colour, Colour]


@pytest.mark.torch
def test_a_field_below_is_narrowed_through_lists_null_and_unions(accepts: Accepts) -> None:
    date, town = ({"name": name, "value": "x"} for name in ("date", "town"))
    good = {"slots": [date, date], "least": [date], "slot": None, "move": SWIM, "pair": ["red", "red"]}
    schema = normalise(Heard).narrow(
        {"slots.name": ["date"], "least.name": ["date", "time"], "slot.name": ["date"], "move.word": ["crawl"]}
    )
    assert schema.problems(good) == [] and accepts(schema, dumps(good))
    assert schema.problems({**good, "slot": date}) == schema.problems({**good, "move": WALK}) == []
    wrong = ({"slots": [date, town]}, {"least": [town]}, {"slot": town}, {"move": {**SWIM, "word": "fly"}})
    for change in wrong:
        assert schema.problems({**good, **change}) and not accepts(schema, dumps({**good, **change})), change
    both = normalise(Heard).narrow({"slots.name": ["date"], "slots.value": ["x"]})
    assert both.problems({**good, "slots": [{"name": "date", "value": "y"}]}) and both.problems(good) == []


@pytest.mark.torch
def test_where_no_value_is_left_a_list_of_objects_is_empty(accepts: Accepts) -> None:
    good = {"slots": [], "least": [{"name": "date", "value": "x"}], "slot": None, "move": SWIM, "pair": ["red", "red"]}
    schema = normalise(Heard).narrow({"slots.name": []})
    assert schema.problems(good) == [] and accepts(schema, dumps(good))
    assert schema.problems({**good, "slots": good["least"]})
    for path in ("least.name", "slot.name"):
        with pytest.raises(SchemaError, match="leaves no value"):
            normalise(Heard).narrow({path: []})


@pytest.mark.torch
def test_one_item_of_a_list_is_narrowed_and_a_list_ends_where_nothing_is_left(accepts: Accepts) -> None:
    words = create_model(
        "Words", each=(Annotated[list[Colour], Field(min_length=1, max_length=3)], ...), more=(bool, ...)
    )
    red, blue, odd = (colour.value for colour in Colour)
    first = normalise(words).narrow({"each[1]": [blue], "each": [red, blue]})
    ended = normalise(words).narrow({"each[2]": [], "each[0]": [red]})
    cases = [
        (
            first,
            [[red], [blue, blue], [red, blue, red]],
            [[], [red, red], [odd], [red, blue, odd], [red, blue, red, red]],
        ),
        (ended, [[red], [red, odd]], [[blue], [red, red, red]]),
    ]
    for schema, takes, refuses in cases:
        for each in takes:
            value = {"each": each, "more": True}
            assert schema.problems(value) == [] and accepts(schema, dumps(value)), each
            assert len(dumps(value).encode()) <= schema.max_bytes
        for each in refuses:
            value = {"each": each, "more": True}
            assert schema.problems(value) and not accepts(schema, dumps(value)), each
    slots = normalise(Heard).narrow({"slots[0].name": ["date"], "pair[1]": ["red"]})
    good = {"slots": [], "least": [{"name": "town", "value": "x"}], "slot": None, "move": SWIM, "pair": [blue, red]}
    town = {"name": "town", "value": "x"}
    assert accepts(slots, dumps(good)) and slots.problems(good) == []
    for change in ({"slots": [town]}, {"pair": [red, blue]}):
        assert slots.problems({**good, **change}) and not accepts(slots, dumps({**good, **change}))
    assert slots.problems({**good, "slots": [{**town, "name": "date"}, town]}) == []
    with pytest.raises(SchemaError, match="leaves no value"):
        normalise(words).narrow({"each[0]": []})


@pytest.mark.parametrize(
    "path",
    [
        "slots[9]x.name",
        "each[",
        "slots[x].name",
        "slots[99].name",
        "pair[2]",
        "slot[0].name",
        "slots.nothing",
        "slots.name.more",
        "pair.x",
        "nothing",
        "",
        "slots.",
        "move.nothing",
    ],
)
def test_a_path_that_the_output_does_not_have_is_not_narrowed(path: str) -> None:
    assert not normalise(Heard).has(path) and normalise(Heard).has("slots.name") and normalise(Heard).has("move.word")
    with pytest.raises(SchemaError, match="a path that the output does not have"):
        normalise(Heard).narrow({path: ["date"]})


@pytest.mark.parametrize("allowed", [{"move": ["fly"]}, {"move": []}, {"move": [None]}, {"one": ["swim"]}])
def test_a_union_is_only_narrowed(allowed: dict[str, list[object]]) -> None:
    with pytest.raises(SchemaError):
        normalise(Moves).narrow(allowed)


def test_a_union_that_nothing_tells_apart_is_not_narrowed() -> None:
    with pytest.raises(SchemaError, match="union of several types"):
        normalise(create_model("Either", x=(Walk | Short, ...))).narrow({"x": ["walk"]})


@pytest.mark.parametrize(
    ("move", "problem"),
    [
        ({"kind": "walk", "metres": 10}, "move.metres: 10 is beyond its maximum"),
        ({"kind": "swim", "metres": 1}, "move: 'word' is missing"),
        ({"kind": "fly"}, """move.kind: 'fly' is not one of ["walk","swim"]"""),
        ({"metres": 1}, "move: {'metres': 1} fits none of the types allowed"),
    ],
)
def test_what_does_not_fit_a_union_is_told_of_the_object_that_was_meant(move: object, problem: str) -> None:
    found = normalise(Moves).problems({"move": move, "maybe": None, "several": [], "one": None})
    assert any(str(p).startswith(problem) for p in found), found


@given(kept=st.sets(st.sampled_from(Colour), min_size=1), value=st.sampled_from(Colour))
def test_what_a_narrowed_schema_takes_the_static_one_takes(kept: set[Colour], value: Colour) -> None:
    static = normalise(create_model("C", colour=(Colour, ...)))
    narrow = static.narrow({"colour": kept})
    data = {"colour": value.value}
    assert static.problems(data) == []
    assert (narrow.problems(data) == []) == (value in kept)
    assert narrow.max_bytes <= static.max_bytes
    assert static.narrow({}) is static


# -- ids ---------------------------------------------------------------------------------------------------------------


def _model(**fields: Any) -> type[BaseModel]:
    return create_model("M", **fields)


@pytest.mark.parametrize("text", [Short, str])
def test_schema_id_ignores_notes_and_notices_the_rest(text: Any) -> None:
    plain = _model(title=(text, ...), b=(int, ...))
    noted = _model(
        title=(
            Annotated[text, Field(title="T", description="D", examples=["x"], json_schema_extra={"sensitive": True})],
            "x",
        ),
        b=(int, 3),
    )
    noted.__doc__ = "Notes."
    # An optional field is still another schema for an input without bounds, where nothing is normalised.
    assert (schema_id_of(plain) == schema_id_of(noted)) is (text is Short)
    described = _model(title=(Annotated[text, Field(description="other", title="U")], ...), b=(int, ...))
    assert schema_id_of(plain) == schema_id_of(described)
    assert schema_id_of(plain) != schema_id_of(_model(b=(int, ...), title=(text, ...)))
    assert schema_id_of(plain) != schema_id_of(_model(name=(text, ...), b=(int, ...)))
    assert schema_id_of(plain) != schema_id_of(_model(title=(text, ...), b=(bool, ...)))


def test_a_model_that_has_no_schema_at_all_is_an_error_of_ours() -> None:
    with pytest.raises(SchemaError, match="cannot express"):
        schema_id_of(create_model("M", x=(Callable[[int], int], ...)))


def test_content_id_says_the_same_content() -> None:
    one, other = Place(street="a", number=2), Place(street="a", number=2)
    twin = create_model("Twin", street=(Short, ...), number=(Annotated[int, Field(ge=-3, le=1200)], ...))
    assert content_id(one) == content_id(other) == content_id(twin(street="a", number=2))
    assert content_id(one) != content_id(Place(street="a", number=3))


# -- texts nobody should write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "json"),
        ("null", "schema"),
        ("[]", "schema"),
        ('{"street":"a","number":1', "json"),
        ('{"street":"a","number":1}x', "json"),
        ('{"street":"a","street":"b","number":1}', "json"),
        ('{"street":"a","number":NaN}', "json"),
        ('{"street":"a","number":Infinity}', "json"),
        ('{"street":"a","number":1e999}', "schema"),
        ('{"street":"a","number":1.5}', "schema"),
        ('{"street":"a","number":"1"}', "schema"),
        ('{"street":"a","number":true}', "schema"),
        ('{"street":null,"number":1}', "schema"),
        ('{"street":"a"}', "schema"),
        ('{"street":"a","number":1,"more":1}', "schema"),
        ('{"street":"a","number":' + "9" * 10_000 + "}", "json"),
        ("[" * 100_000 + "]" * 100_000, "json"),
        ('{"street":' + '{"a":' * 100_000, "json"),
        ('{"street":"\\ud800","number":1}', "validator"),
        ('{"street":"\ud800","number":1}', "validator"),
        ('{"street":"' + "a" * 10_000_000 + '","number":1}', "schema"),
        ("[" + "1," * 1_000_000 + "1]", "schema"),
    ],
    ids=lambda value: value[:40],
)
def test_a_text_that_does_not_fit_is_a_list_of_problems(text: str, kind: str) -> None:
    problems = parse(text, Place, normalise(Place))
    assert isinstance(problems, list)
    assert {p.kind for p in problems} == {kind}
    assert all(len(p.text) < 500 for p in problems)


def test_the_list_of_problems_is_bounded_and_names_places() -> None:
    model = create_model("M", xs=(Annotated[list[Place], Field(max_length=1000)], ...))
    text = dumps({"xs": [{"street": 1, "number": 1}] * 1000})
    problems = parse(text, model, normalise(model))
    assert isinstance(problems, list)
    assert len(problems) == 20
    assert problems[3].field == "xs.3.street"


def test_validators_say_what_a_grammar_cannot() -> None:
    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("odd")
            return value

    problems = parse('{"n":3}', Even, normalise(Even))
    assert isinstance(problems, list)
    assert [(p.kind, p.field) for p in problems] == [("validator", "n")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**5000], ids=["nan", "inf", "big"])
def test_what_json_cannot_hold_is_an_error_of_ours(value: float) -> None:
    with pytest.raises(SchemaError):
        dumps({"a": value})


def test_half_a_surrogate_pair_is_an_error_of_ours() -> None:
    with pytest.raises(SchemaError, match="surrogate"):
        canonical(create_model("M", x=(str, ...)).model_construct(x="a\ud800"))


@pytest.mark.parametrize("text", ["", "3", "[1]", '{"a"}', '{"a":1', '{"a":[' * 50_000, "{1:2}", "{[]:1}"])
def test_spans_of_what_is_no_canonical_object_are_empty(text: str) -> None:
    assert field_spans(text) == {}
