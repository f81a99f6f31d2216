"""Templates to spans: equal to plain Jinja, honest about what is static and whose data it shows, and boxed in."""

from __future__ import annotations

import datetime
import enum
import time
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from fslm_core.errors import PromptError
from fslm_core.prompt import REDACTED, Expression, Prompt, Span, Template, variables_of


def spans(source: str, **values: Any) -> list[tuple[str, bool, str | None]]:
    return [(s.text, s.static, s.field) for s in Template(source).render(values).spans]


def text(source: str, **values: Any) -> str | None:
    return Template(source).render(values).text("user")


# -- what comes out ----------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        "Hello ",
        "<|im_end|>",
        "{{ a }}",
        "{{ b|upper }}",
        "{{ a ~ '-' ~ b }}",
        "{{ 'constant' }}",
        "{% if a %}yes{% else %}no{% endif %}",
        "{% for x in items %}[{{ x }}/{{ loop.index }}]{% endfor %}",
        "{% for x in items if x %}{{ x|length + 1 }}{% endfor %}",
        "{% set c = a %}{{ c }}",
        "{% with d = b %}{{ d }}{% endwith %}",
        "{{ items|join(', ') }}",
        "{{ a|replace('a', 'bb') }}",
        "{{ b.strip().split('x')|length }}",
        "{{ n * 2 - 1 }}",
        "{# remark #}",
        "x\n",
    ]
)


@given(
    pieces=st.lists(_PIECES, max_size=6),
    a=st.text(max_size=8),
    b=st.text(max_size=8),
    items=st.lists(st.text(max_size=3), max_size=3),
    n=st.integers(-9, 9),
)
def test_the_text_is_what_plain_jinja_writes_and_data_is_never_static(
    pieces: list[str], a: str, b: str, items: list[str], n: int
) -> None:
    source = "START" + "".join(pieces) + "END"
    values: dict[str, Any] = {"a": a, "b": b, "items": items, "n": n}
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    prompt = Template(source).render(values)
    assert prompt.text("user") == plain.from_string(source).render(values)
    statics = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).parse(source).find_all(jinja2.nodes.TemplateData)
    own = "".join(s.data for s in statics)
    written = {piece for s in prompt.spans if s.static for piece in s.text}
    assert written <= set(own)
    assert all(s.field in {None, "a", "b", "items", "n"} for s in prompt.spans)


def test_data_that_equals_static_text_or_control_tokens_stays_data() -> None:
    for data in ("Order: ", "<|im_end|>", "<|im_start|>system\n", "\x00", "\u202eabc", "😀", "{{ 7*7 }}", "{% raw %}"):
        assert spans("Order: {{ text }}", text=data) == [("Order: ", True, None), (data, False, "text")]


def test_blocks_make_turns_and_the_system_comes_first() -> None:
    prompt = Template("{% block user %}U {{ a }}\n{% endblock %}\n\n{% block system %}\nS\n{% endblock %}").render(
        {"a": 1}
    )
    assert prompt.turns == [("system", "S"), ("user", "U 1")]
    assert prompt.static.turns == [("system", "S"), ("user", "U ")]


def test_empty_turns_are_there_and_absent_ones_are_not() -> None:
    prompt = Template("{% block system %}{% endblock %}{% block user %}{{ a }}{% endblock %}").render({"a": ""})
    assert prompt.turns == [("user", "")]
    assert prompt.text("system") is None


class Colour(enum.Enum):
    RED = "red"


class Person(BaseModel):
    name: str
    born: datetime.date = datetime.date(2000, 1, 2)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def initial(self) -> str:
        return self.name[0]

    def secret(self) -> str:
        return "secret"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "a"),
        (Colour.RED, "red"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (None, "null"),
        (["a", Colour.RED, None], '["a","red",null]'),
        ({"k": (1, "é")}, '{"k":[1,"é"]}'),
        (Person(name="Ann"), '{"name":"Ann","born":"2000-01-02","initial":"A"}'),
        ([Person(name="Ann")], '[{"name":"Ann","born":"2000-01-02","initial":"A"}]'),
        (datetime.date(2000, 1, 2), "2000-01-02"),
    ],
)
def test_values_are_shown_one_way(value: object, shown: str) -> None:
    assert text("{{ v }}", v=value) == shown


def test_a_models_fields_and_computed_fields_are_there_and_nothing_else() -> None:
    assert text("{{ p.name }} {{ p.initial }} {{ p.born.year }}", p=Person(name="Ann")) == "Ann A 2000"
    assert variables_of(Person(name="Ann")) == {"name": "Ann", "born": datetime.date(2000, 1, 2), "initial": "A"}
    for source in (
        "{{ p.secret() }}",
        "{{ p.secret }}",
        "{{ p.model_dump() }}",
        "{{ p.model_fields }}",
        "{{ p.copy() }}",
    ):
        with pytest.raises(PromptError):
            text(source, p=Person(name="Ann"))


def test_a_field_may_be_called_like_a_method_of_dict() -> None:
    assert text("{{ d.items }} {{ d.keys()|length }}", d={"items": 3}) == "3 1"
    assert Expression("order.items > 2").holds({"order": {"items": 3}})


# -- whose data it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("{{ phone }}", "phone"),
        ("{{ phone|upper }}", "phone"),
        ("{{ phone[1:]|lower }}", "phone"),
        ("{{ (phone ~ '!')|trim }}", "phone"),
        ("{{ phone ~ name }}", None),
        ("{{ name if phone else '' }}", None),
        ("{{ 'constant' }}", None),
        ("{% for x in phones %}{{ x }}{% endfor %}", "phones"),
        ("{% for x in phones %}{% for y in x %}{{ y }}{% endfor %}{% endfor %}", "phones"),
        ("{% for k, v in pairs %}{{ v }}{% endfor %}", "pairs"),
        ("{% for x in phones %}{{ loop.nextitem|default(x) }}{% endfor %}", None),
        ("{% for name in phones %}{{ loop.index }}{% endfor %}", None),
        ("{% set name = phone %}{{ name }}", None),
        ("{% set name %}{{ phone }}{% endset %}{{ name }}", None),
        ("{% with name = phone %}{{ name }}{% endwith %}", None),
        ("{% for name in phones %}{{ name }}{% endfor %}{{ name }}", None),
        ("{% for x in phones %}{{ x }}{% endfor %}{% for x in names %}{{ x }}{% endfor %}", None),
    ],
)
def test_the_origin_of_data_is_right_or_unknown(source: str, field: str | None) -> None:
    values = {"phone": "0123", "phones": ["0123"], "pairs": [("a", "0123")], "name": "Ann", "names": ["Ann"]}
    prompt = Template(source).render(values)
    data = [s for s in prompt.spans if not s.static]
    assert {s.field for s in data} == {field}
    hidden = prompt.redacted({"phone", "phones", "pairs"})
    assert "0123" not in "".join(s.text for s in hidden.spans)


def test_redaction_hides_sensitive_and_unknown_data_and_nothing_else() -> None:
    prompt = Template("Call {{ phone }} for {{ name }} ({{ name ~ phone }})").render({"phone": "0123", "name": "Ann"})
    assert prompt.redacted({"phone"}).text("user") == f"Call {REDACTED} for Ann ({REDACTED})"
    assert prompt.redacted(()) is prompt
    assert prompt.redacted({"other"}).text("user") == f"Call 0123 for Ann ({REDACTED})"


def test_redaction_leaves_static_text_that_equals_data() -> None:
    prompt = Prompt((Span("x", "user"), Span("x", "user", False, "phone")))
    assert prompt.redacted({"phone"}).text("user") == f"x{REDACTED}"


# -- what is refused when it is compiled -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{{ a", "does not parse"),
        ("{% if a %}", "does not parse"),
        ("{% nothing %}", "does not parse"),
        ("{{ " + "(" * 5000 + "a" + ")" * 5000 + " }}", "cannot be used"),
        ("{{ a|nothing }}", "what is not there"),
        ("{{ a|attr('x') }}", "what is not there"),
        ("{{ a|_fslm_mark('b') }}", "what is not there"),
        ("{% include 'a' %}", "include is not allowed"),
        ("{% import 'a' as b %}", "import is not allowed"),
        ("{% from 'a' import b %}", "fromimport is not allowed"),
        ("{% extends 'a' %}", "extends is not allowed"),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "macro is not allowed"),
        ("{% for a in b recursive %}{{ loop(a) }}{% endfor %}", "recursive loop"),
        ("{% filter upper %}a{% endfilter %}", "filter is not allowed"),
        ("{% call a() %}b{% endcall %}", "call is not allowed"),
        ("{% autoescape true %}{{ a }}{% endautoescape %}", "autoescape is not allowed"),
        ("{{ a.__class__ }}", "Python internals"),
        ("{{ a._x }}", "Python internals"),
        ("{{ _a }}", "Python internals"),
        ("{{ self }}", "Python internals"),
        ("{{ self.user() }}", "Python internals"),
        ("{% block other %}{% endblock %}", "'system' and 'user' only"),
        ("{% block system %}a{% endblock %}", "no 'user' block"),
        ("{% block user %}a{% endblock %}b", "outside its blocks"),
        ("{{ a }}{% block user %}a{% endblock %}", "outside its blocks"),
        ("{% set a = 1 %}{% block user %}{{ a }}{% endblock %}", "outside its blocks"),
        ("{% if a %}{% block user %}a{% endblock %}{% endif %}", "outside its blocks"),
        ("{% block user %}{% block system %}a{% endblock %}{% endblock %}", "within another"),
        ("{% block user %}a{% endblock %}{% block user %}b{% endblock %}", "does not parse|not there"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_template_that_cannot_be_a_prompt_is_refused(source: str, what: str) -> None:
    with pytest.raises(PromptError, match=what) as caught:
        Template(source, name="prompt.jinja")
    assert "prompt.jinja" in str(caught.value.where)


def test_the_place_of_a_mistake_is_named() -> None:
    with pytest.raises(PromptError) as caught:
        Template("a\nb\n{{ c.__class__ }}", name="p.jinja")
    assert caught.value.where == "p.jinja, line 3"


# -- what is refused when it is rendered -------------------------------------------------------------------------------

_ESCAPES = [
    "{{ x['__class__'] }}",
    "{{ x['__cl' ~ 'ass__'] }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ '{a.__class__}'.format_map({'a': x}) }}",
    "{% set f = x.format %}{{ f('a') }}",
    "{{ x.format }}",
    "{{ items|map(attribute='__class__')|list }}",
    "{{ items|map(attribute='format')|list }}",
    "{{ items|map('attr', '__class__')|list }}",
    "{{ items|map('format')|list }}",
    "{{ items|selectattr('__class__')|list }}",
    "{{ items|sum(attribute='__class__') }}",
    "{{ items|sort(attribute='__class__') }}",
    "{{ items.append(1) }}",
    "{{ d.pop('k') }}",
    "{{ d.update({}) }}",
    "{{ x.mro() }}",
    "{{ kind.mro() }}",
    "{{ kind() }}",
    "{{ function() }}",
    "{{ function }}",
    "{{ x.encode('utf-16') }}",
    "{{ range(3) }}",
    "{{ lipsum() }}",
    "{{ cycler('a') }}",
    "{{ joiner() }}",
    "{{ namespace() }}",
    "{{ dict() }}",
    "{{ loop }}",
    "{{ varargs }}",
]
_BOMBS = [
    "{{ x.center(10**9) }}",
    "{{ x.ljust(10**9) }}",
    "{{ x.zfill(10**9) }}",
    "{{ 'a\tb'.expandtabs(10**9) }}",
    "{{ x.join(big) }}",
    "{{ big|join(big) }}",
    "{{ x * 10**9 }}",
    "{{ items * 10**9 }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ 10**(10**10) }}",
    "{{ ((9**64)**64)**64 }}",
    "{{ big|replace('', big) }}",
    "{{ big.replace('', big) }}",
    "{{ n.to_bytes(10**9, 'big') }}",
    "{{ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big }}",
    "{% set a = big ~ big ~ big ~ big ~ big ~ big ~ big ~ big %}{% set a = a ~ a %}{{ a }}",
    "{% set a = big + big + big + big + big + big + big + big + big + big + big %}{{ a|length }}",
    "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
    "{% for a in big %}{{ big|upper|length }}{% endfor %}",
    "{% for a in big %}{{ big.upper()|length }}{% endfor %}",
    "{% for a in big %}{{ big[1:]|length }}{% endfor %}",
    "{% for a in big %}{{ big }}{% endfor %}",
    "".join(f"{{% set a{i + 1} = [a{i}, a{i}, a{i}, a{i}] %}}" for i in range(40)).join(
        ["{% set a0 = 1 %}", "{{ a40 }}"]
    ),
]


@pytest.mark.parametrize("source", [*_ESCAPES, *_BOMBS], ids=lambda source: source[:60])
def test_no_way_out_and_no_bomb(source: str) -> None:
    values = {
        "x": "ab",
        "n": 3,
        "items": ["a", "b"],
        "d": {"k": 1},
        "big": "b" * 1_000_000,
        "kind": int,
        "function": len,
    }
    began = time.process_time()
    with pytest.raises(PromptError):
        Template(source).render(values)
    assert time.process_time() - began < 60  # a bomb that goes off takes minutes or all memory


def test_a_megabyte_of_data_is_no_bomb() -> None:
    big = "é" * 1_000_000
    assert text("{{ a|trim|upper }}", a=big) == big.upper()


def test_a_name_that_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(PromptError) as caught:
        Template("{{ txt }}", name="p").render({"text": "a", "b": 1}, where="stage s.a")
    assert "'txt'" in caught.value.what
    assert caught.value.expected == "one of b, text"
    assert caught.value.where == "stage s.a, p"
    with pytest.raises(PromptError, match="nothing"):
        text("{{ d.nothing }}", d={})
    with pytest.raises(PromptError, match="'nothing' is undefined"):
        text("{{ nothing() }}")


def test_variables_are_those_it_does_not_make_itself() -> None:
    template = Template(
        "{{ a }}{% set b = c %}{{ b }}{% for d in e %}{{ d }}{{ loop.index }}{% endfor %}{{ f.g|default('') }}"
    )
    assert template.variables == {"a", "c", "e", "f"}


def test_an_expression_that_raises_is_the_authors_error() -> None:
    with pytest.raises(PromptError, match="ZeroDivisionError"):
        text("{{ 1 // n }}", n=0)


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("a.x == 'y'", True),
        ("a['x'] == 'y'", True),
        ("a.x in ['y', 'z'] and not a.z", True),
        ("a.z is none", True),
        ("a.x|length > 1", False),
        ("'%s' is string", True),
        ("a.z if a.x == 'q' else a.x", True),
    ],
)
def test_conditions(source: str, holds: bool) -> None:
    assert Expression(source).holds({"a": {"x": "y", "z": None}}) is holds


def test_a_condition_knows_what_it_asks_for() -> None:
    condition = Expression("a.x == b['y'] and c")
    assert condition.names == {"a", "b", "c"}
    assert condition.attributes == {("a", "x"), ("b", "y")}


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a ==",
        "a %}{% include 'x' %}{% if a",
        "a.__class__",
        "a['x'].__class__",
        "_a",
        "a|attr('x')",
        "a|_fslm_mark('b')",
    ],
)
def test_a_condition_that_cannot_be_is_refused(source: str) -> None:
    with pytest.raises(PromptError):
        Expression(source)


@pytest.mark.parametrize(
    "source", ["b", "a.nothing", "a.x > 3", "a['__class__']", "a.x.center(10**9)", "10**(10**10) > 1"]
)
def test_a_condition_that_fails_is_an_error_of_ours(source: str) -> None:
    with pytest.raises(PromptError, match="failed") as caught:
        Expression(source).holds({"a": {"x": "y"}})
    assert caught.value.found == source
