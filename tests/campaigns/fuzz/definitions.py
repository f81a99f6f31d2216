"""Doors for what is written by hand: settings, recipes, templates, conditions, stacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model

from fslm_core import SLM, Stack, Stage, Step, settings, tool
from fslm_core.errors import CheckError, DefinitionError, PromptError, SettingsError, TrainError
from fslm_core.prompt import Expression, Template
from fslm_core.stage import Decoding

from . import Target
from .taking import Taken, decode, scratch

_VALUES: dict[str, Any] = {
    "text": "ab c",
    "n": 3,
    "items": ["a", "b"],
    "d": {"k": 1, "items": 2},
    "big": "b " * 20_000,
    "nothing": None,
}


def settings_file(data: bytes) -> None:
    """A ``fslm.toml`` of any bytes."""
    file = scratch("settings") / "fslm.toml"
    file.write_bytes(data)
    with _variables({}), suppress(SettingsError):
        settings.load(files=[file])


def settings_variables(data: bytes) -> None:
    """``FSLM_*`` variables of any name and value."""
    taken = Taken(data)
    found: dict[str, str] = {}
    for _ in range(3):
        name = taken.one_of(_NAMES) + taken.one_of(("", taken.text(12))).replace("=", "")
        value = taken.one_of((taken.text(60), decode(taken.rest())))
        found[name.replace("\0", "")] = value.replace("\0", "")
    with _variables(found), suppress(SettingsError):
        settings.load(files=[])


@contextmanager
def _variables(found: dict[str, str]) -> Iterator[None]:
    """The environment with these ``FSLM_*`` variables alone."""
    before = dict(os.environ)
    try:
        for name in [name for name in os.environ if name.upper().startswith("FSLM_")]:
            del os.environ[name]
        for name, value in found.items():
            with suppress(UnicodeEncodeError):  # no system has such a variable
                os.environ[name] = value
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


_NAMES = (
    "FSLM_",
    "FSLM_TRACE",
    "FSLM_TRACE__",
    "FSLM_STAGES",
    "FSLM_STAGES__A__",
    "FSLM_TORCH__THREADS",
    "FSLM_OFFLINE",
    "FSLM_CACHE_DIR",
    "FSLM_PLUGINS",
    "FSLM_OPENAI__MODELS",
    "FSLM_BACKEND",
    "FSLM_PROFILE",
)


def recipe(data: bytes) -> None:
    """A training recipe of any bytes, and what ``--set`` may say."""
    from fslm_core.train.recipe import load_recipe

    taken = Taken(data)
    overrides = [taken.text(30)] if taken.number(3) == 0 else []
    file = scratch("recipe") / "recipe.toml"
    file.write_bytes(taken.rest())
    with suppress(TrainError):
        load_recipe(file, [o.replace("\0", "") for o in overrides])


def template(data: bytes) -> None:
    """A template of any text: refused when it is made or when it is rendered, or rendered within its bounds."""
    with suppress(PromptError):
        made = Template(decode(data), name="fuzz")
        made.render(_VALUES)


def expression(data: bytes) -> None:
    """A condition of any text."""
    with suppress(PromptError):
        Expression(decode(data)).holds(_VALUES)


def stack(data: bytes) -> None:
    """A stack of random models, stages, steps, binds and conditions: refused in our words, or wired."""
    taken = Taken(data)
    try:
        made = Stack(
            taken.one_of(("fuzz", "fuzz.a", taken.text(9))),
            input=_model(taken, "In"),
            output=_model(taken, "Out"),
            steps=[_step(taken) for _ in range(taken.number(4))],
            bind=_bind(taken),
        )
        wiring = made.wiring
        for step in made.steps:
            wiring.needs(step.name)
    except (DefinitionError, CheckError):
        return
    for step in made.steps:
        step.stage.fingerprint(checkpoint=None, adapter=None, backend="fuzz")


def _step(taken: Taken) -> Step | Stage[Any, Any]:
    kind = taken.number(3)
    name = taken.one_of(("fuzz.one", "fuzz.two", "fuzz.three", taken.text(8)))
    if kind == 0:
        made = _tool(name, _model(taken, "A"), _model(taken, "B"))
    else:
        fields = _FIELDS[: taken.number(len(_FIELDS) - 1) + 1]
        prompt = taken.one_of(
            (
                "{{ text }}",
                "{% block user %}{{ n }}{% endblock %}",
                " ".join(f"{{{{{f}}}}}" for f in fields),
                taken.text(40),
            )
        )
        made = Stage(
            name,
            input=_model(taken, "A"),
            output=_model(taken, "B"),
            prompt=prompt,
            model=SLM(base="smollm2-135m", tuned=bool(taken.number(1))),
            decoding=Decoding(max_tokens=taken.one_of((None, 1, 50))),
            narrow={taken.one_of(_FIELDS): taken.one_of((taken.text(9), "text", "items"))}
            if taken.number(4) == 0
            else None,
        )
    if kind == 1:
        return made
    when = taken.one_of((None, None, "input.text == 'a'", "one.n > 1", "one.text", taken.text(30)))
    return Step(made, name=taken.one_of((None, "one", "two", taken.text(6))), bind=_bind(taken), when=when)


def _tool(name: str, input: type[BaseModel], output: type[BaseModel]) -> Stage[Any, Any]:
    def function(message: Any) -> Any:
        return message

    function.__annotations__ = {"message": input, "return": output}
    return tool(name, version="1")(function)


_FIELDS = ("text", "n", "items", "deep", "value")
_KINDS: tuple[Any, ...] = (
    (str, ...),
    (str, "d"),
    (str | None, ...),
    (Annotated[str, Field(max_length=9)], ...),
    (int, ...),
    (int | None, None),
    (Annotated[float, Field(ge=0, le=1, multiple_of=0.1)], ...),
    (list[str], ...),
    (dict[str, int], ...),
    (bool, ...),
    (Annotated[list[Annotated[str, Field(max_length=5)]], Field(max_length=3)], ...),
    (object, ...),
    (bytes, ...),
    (Annotated[str, Field(max_length=9, alias="x")], ...),
    (float, float("nan")),
    (type, ...),
)


def _model(taken: Taken, name: str) -> type[BaseModel]:
    names = [field for field in _FIELDS if taken.number(2)]
    return create_model(name, **{field: taken.one_of(_KINDS) for field in names})  # type: ignore[call-overload,no-any-return]


def _bind(taken: Taken) -> dict[str, str] | None:
    if taken.number(2) == 0:
        return None
    paths = ("input.text", "one.text", "one.n", "two.items", "input.deep.value", "one", "", "..", taken.text(9))
    return {taken.one_of(_FIELDS): taken.one_of(paths) for _ in range(taken.number(2))}


def _toml_seeds() -> list[bytes]:
    return [
        b'offline = true\ncache_dir = "/a"\nplugins = ["a"]\n[trace]\ncontent = "none"\n[stages."a.b"]\nsha256 = "0"\n',
        b'[torch]\nthreads = 9999999999999999999999\n[openai]\nmodels = {a = "b"}\n',
        b"a = " + b"[" * 3000,
        b"offline = 1e999\n",
        b'cache_dir = "\\u0000"\n',
        b"a" + b".a" * 2000 + b" = 1\n",
        b"backend = 1979-05-27T07:32:00Z\n",
        b"\xff\xfe",
        b"n = " + b"9" * 5000,
    ]


def _recipe_seeds() -> list[bytes]:
    good = b'stage = "a.b"\noutput = "o"\nepochs = 1\n[data]\ntrain = "t.jsonl"\n[lora]\nrank = 4\n'
    return [
        b"\x01" + good,
        b"\x00\x0edata.train=x\n" + good,
        b"\x01" + b"a = " + b"[" * 3000,
        b"\x01" + good.replace(b"t.jsonl", b"\\u0000"),
        b"\x00\x12data.a.b.c = [[[]]]" + good,
    ]


_TEMPLATES = (
    "{% block system %}a{% endblock %}{% block user %}{{ text|upper }}"
    "{% for x in items %}{{ loop.index }}{{ x }}{% endfor %}{% endblock %}",
    "{{ d.items }}{{ d['k'] }}{% if n > 2 and text is string %}{{ big|length }}{% else %}{{ nothing }}{% endif %}",
    "{% set a = text ~ n %}{{ a|replace('a', 'b') }}{{ d|tojson(indent=2) }}{{ items|join(', ') }}",
    "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__ }}",
    "{{ '%s'|format(n) }}",
    "{{ n" + " + 1" * 300 + " }}",
    "{% for a in items %}" * 25 + "{% endfor %}" * 25,
    "{{ " + "not " * 900 + "n }}",
    "{{ 9" + "9" * 5000 + " }}",
    "{{ 'a" + "'|list|string|length" + " }}",
    "{{ 'aaaa'" + "|list|string" * 14 + " }}",
    "{% set a = [big, big] %}{% set a = [a, a] %}{{ a|string|length }}",
    "{{ items|map('upper')|list|sort|first }}",
)
_TEMPLATE_WORDS = tuple(
    word.encode()
    for text in (
        "{{ }} {% %} {# #} for in if endif endfor block endblock set raw ~ ** // == is not [0] [ ] ( ) [::2] _x",
        "|length |list |string |sort |sum(start=[]) |tojson(indent=9999999999) |map('list') |replace('','') |unique",
        "|join(big) |int |float |d |truncate(9) .upper() .split() big text items d n loop self namespace range(9) 99",
    )
    for word in text.split()
)
_CONDITIONS = (
    "text == 'a'",
    "n > 2 and not items",
    "d.k in [1, 2]",
    "text|length > 2",
    "n" + "+1" * 300,
    "'a'*10**9",
    "items|map(attribute='x')|list",
    "big == big",
    "n ** n ** n ** n",
    "d['__class__']",
)


def _stack_seeds() -> list[bytes]:
    return [bytes(range(i, 250, 3)) * 2 for i in range(6)] + [b"\0" * 200, b"\x01" * 200, b"\x02" * 200]


_TOML_WORDS = (
    b"[trace]",
    b"[stages.a]",
    b'"""',
    b"\\u0000",
    b"1e999",
    b"nan",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"offline",
    b"= ",
)
TARGETS = (
    Target("settings-file", settings_file, _toml_seeds, _TOML_WORDS),
    Target(
        "settings-variables",
        settings_variables,
        lambda: [bytes([i]) * 9 + b'[[{"a":1}' for i in range(12)],
        (b"[", b"{", b'"', b"\xff"),
    ),
    Target("recipe", recipe, _recipe_seeds, _TOML_WORDS),
    Target("template", template, lambda: [t.encode() for t in _TEMPLATES], _TEMPLATE_WORDS),
    Target("expression", expression, lambda: [t.encode() for t in _CONDITIONS], _TEMPLATE_WORDS),
    Target("stack", stack, _stack_seeds, slow=True),
)

__all__ = ["TARGETS"]
