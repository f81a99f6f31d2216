"""Doors for text and JSON: what is typed and piped in, what a model wrote, what a template is given, what is shown."""

from __future__ import annotations

import json
import unicodedata
from datetime import date
from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from fslm_core import Stack, tool
from fslm_core.cli import inputs, screen
from fslm_core.engine.reading import read_input
from fslm_core.errors import InputError, SchemaError
from fslm_core.explain.show import visible
from fslm_core.prompt import Template
from fslm_core.schema import canonical, content_id, dumps, field_spans, normalise, parse

from . import Target
from .taking import Taken, decode

Short = Annotated[str, Field(max_length=40)]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: Short
    count: Annotated[int, Field(ge=0, le=99)] = 1


class Everything(BaseModel):
    """A field of every kind there is."""

    text: Short
    colour: Colour
    kind: Literal["a", "b\n", "é"]
    flag: bool
    count: Annotated[int, Field(ge=-5, le=500, multiple_of=5)]
    price: Annotated[float, Field(ge=0, le=100, multiple_of=0.01)]
    day: date | None
    code: Annotated[str, Field(max_length=20, pattern=r"^(\w+-)*\d+$")]
    parts: Annotated[list[Part], Field(max_length=3)]
    pair: tuple[Short, bool]


class Loose(BaseModel):
    """What an input model may be: without bounds, with defaults."""

    text: str
    number: float = 0.0
    many: list[dict[str, int]] = []
    part: Part | None = None


class Odd(BaseModel):
    """Two fields that bare text cannot fill."""

    number: str
    count: int


@tool("fuzz.pass", version="1")
def _pass(message: Loose) -> Loose:
    return message


_STACK = Stack("fuzz", input=Loose, output=Loose, steps=[_pass], bind={n: f"pass.{n}" for n in Loose.model_fields})
_SCHEMA = normalise(Everything)
_GOOD = Everything(
    text="a\tb",
    colour=Colour.RED,
    kind="é",
    flag=True,
    count=5,
    price=2.5,
    day=date(2024, 2, 29),
    code="ab-1-22",
    parts=[Part(name="x", count=2)],
    pair=("y", False),
)
_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<think>", "[INST]")


def json_in(data: bytes) -> None:
    """The command line's JSON, then a stack's input model."""
    for model in (Loose, Odd):
        try:
            value = inputs.read(model, inputs.decode(data, where="fuzz"), as_json=True, where="fuzz")
            if model is Loose:
                checked = read_input(_STACK, value)
                assert canonical(Loose.model_validate_json(canonical(checked))) == canonical(checked)
                content_id(checked)
        except InputError as error:
            assert len(str(error)) < 5000, "an error repeats its input at length"


def json_out(data: bytes) -> None:
    """Whatever a model writes: a valid message or problems, and a valid one has one canonical text."""
    text = decode(data)
    found = parse(text, Everything, _SCHEMA)
    if isinstance(found, list):
        assert found and all(len(str(problem)) < 2000 for problem in found)
        return
    once = canonical(found)
    again = parse(once, Everything, _SCHEMA)
    assert again == found and len(once.encode()) <= _SCHEMA.max_bytes
    assert list(field_spans(once)) == list(Everything.model_fields)


def canonical_json(data: bytes) -> None:
    """Any JSON data: one text that means the same, or an error of ours."""
    text = decode(data)
    field_spans(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    try:
        made = dumps(value)
    except SchemaError:
        return
    assert json.loads(made, parse_int=float) == json.loads(text, parse_int=float)


def template_data(data: bytes) -> None:
    """What a template is given is in its prompt letter by letter, as data, and changes nothing around it."""
    taken = Taken(data)
    one, two = taken.text(200), decode(taken.rest())
    spans = _TEMPLATE.render({"one": one, "two": [two, two], "three": {"k": two}}).spans
    static = "".join(s.text for s in spans if s.static)
    assert static == "You sort.Text: \nItems: , , "
    shown = [s.text for s in spans if not s.static]
    assert shown == [t for t in (one, two, two, json.dumps({"k": two}, ensure_ascii=False, separators=(",", ":"))) if t]


_TEMPLATE = Template(
    "{% block system %}You sort.{% endblock %}{% block user %}Text: {{ one }}\n"
    "Items: {% for t in two %}{{ t }}, {% endfor %}{{ three }}{% endblock %}"
)


def shown_text(data: bytes) -> None:
    """What reaches a terminal holds nothing that one obeys, and JSON stays JSON."""
    text = decode(data)
    for made in (screen.clean(text), visible(text), screen.as_json({text: [text]}), screen.as_json(text, indent=None)):
        bad = [c for c in made if c not in "\n\t\u200c\u200d" and unicodedata.category(c) in _ACTING]
        assert not bad, f"{bad[0]!r} is shown raw"
    assert json.loads(screen.as_json({text: [text]})) == {text: [text]}


_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def tokens(data: bytes) -> None:
    """No text becomes a control token, and every text comes back from its tokens."""
    from fslm_core.backends.torch.encoding import encode_text

    from .tokenizer import small

    tokenizer, control = small()
    text = decode(data[:4000])
    ids = encode_text(text, tokenizer)
    assert not control & set(ids), "a control token in data"
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == whole


def _seeds_in() -> list[bytes]:
    texts = [
        '{"text": "hi"}',
        '{"text": "hi", "number": 1e999, "many": [{"a": 1}], "part": {"name": "x"}}',
        '{"number": "1", "count": 2, "count": 3}',
        '{"text": NaN}',
        "[" * 3000,
        '{"a":' * 3000,
        '{"text": ' + "9" * 5000,
        '\ufeff{"text": "\\ud800"}',
        '{"text": "a\\u0000b"}',
        '{"__class__": 1, "text": "", "model_config": {}}',
    ]
    return [text.encode() for text in texts]


def _seeds_out() -> list[bytes]:
    good = canonical(_GOOD)
    return [good.encode(), good.replace("5,", "5.0,").encode(), good.replace("2.5", "1e999").encode(), b"{}", b"null"]


def _seeds_text() -> list[bytes]:
    texts = [
        "hello",
        "\x1b[31m\x9b5m\u202e\ud800\u200b\u00ad [bold]x[/bold] \r\b\x07",
        "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\",
        "".join(_TOKENS),
        "{{ one }}{% raw %}",
        '"}],"x":',
        "\U000e0001\U0001f468\u200d\U0001f469",
        "a\u2028b\u2029c\x85d",
    ]
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode("utf-8", "surrogatepass") for text in texts)


_JSON_WORDS = _words(
    '"text":', "null", "true", "1e999", "-0", "NaN", '"\\ud800"', "[", "]", "{", "}", ",", "9" * 400, "\ufeff"
)
_TEXT_WORDS = _words("\x1b[", "\x9b", "\u202e", "\ud800", "\u2066", "[bold]", "\r", "\b", "{{", "{%", *_TOKENS)

TARGETS = (
    Target("json-in", json_in, _seeds_in, _JSON_WORDS),
    Target("json-out", json_out, _seeds_out, _JSON_WORDS),
    Target("canonical", canonical_json, lambda: [*_seeds_in(), *_seeds_out()], _JSON_WORDS),
    Target("template-data", template_data, _seeds_text, _TEXT_WORDS),
    Target("shown", shown_text, _seeds_text, _TEXT_WORDS),
    Target("tokens", tokens, _seeds_text, _TEXT_WORDS, torch=True),
)

__all__ = ["TARGETS"]
