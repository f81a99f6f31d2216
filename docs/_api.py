"""The page of public names: each with its live signature and what its docstring says of it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic_settings import BaseSettings

ROOMS = {
    "fslm_core": "What plugins and programs import. Everything else below `fslm_core` may change in any release.",
    "fslm_core.testing": "What plugins are tested with; needs the extra `fslm-core[testing]`, see"
    " [Testing a plugin with tox](testing.md).",
}
"""The modules whose ``__all__`` is promised, and what is said of each."""

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\n", re.M)


def public_names() -> Iterator[tuple[str, str, Any]]:
    """Every promised name: its module, the name, and the thing itself."""
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in sorted(module.__all__, key=str.lower):
            yield room, name, getattr(module, name)


class _Written:
    """An annotation as the source has it, without the quotes of a string."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("'", '"')

    def __repr__(self) -> str:
        return self._text


def signature_of(thing: Any) -> str:
    """How it is called, as Python itself tells it."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [p.replace(annotation=_plain(p.annotation)) for p in signature.parameters.values()]
    told = signature.replace(parameters=parameters, return_annotation=_plain(signature.return_annotation))
    return re.sub(r"<factory>|<object object at 0x[0-9a-f]+>", "…", str(told))


def _plain(annotation: Any) -> Any:
    return _Written(annotation) if isinstance(annotation, str) else annotation


def api_page() -> Iterator[str]:
    """The page, line by line."""
    yield "# Public names\n"
    yield (
        "These names, the [hooks](hooks.md), the [command line](cli.md), the [settings](settings.md) and the"
        " [error codes](errors.md) are what the [compatibility policy](compatibility.md) is about.\n"
    )
    told = ""
    for room, name, thing in public_names():
        if room != told:
            told = room
            yield f"## {room}\n"
            yield ROOMS[room] + "\n"
        yield from _entry(room, name, thing)


def _entry(room: str, name: str, thing: Any) -> Iterator[str]:
    yield f"### {name} {{ #{room}.{name} }}\n"
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        yield f"```text\n{name}: {_short(thing)}\n```\n"
        return
    if inspect.isclass(thing) and issubclass(thing, BaseSettings):
        yield markdown(inspect.getdoc(thing) or "") + "\n"
        yield "Its fields are on the page [Settings](settings.md); `fslm_core.settings.load` reads them.\n"
        return
    kind = "class " if inspect.isclass(thing) else ""
    yield f"```text\n{kind}{name}{signature_of(thing)}\n```\n"
    yield from _doc(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        yield from _members(thing)


def _short(thing: Any) -> str:
    text = str(thing)
    if " object at 0x" in text:
        return type(thing).__name__
    return re.sub(r"\b(typing|collections\.abc|pydantic\.main|fslm_core(\.\w+)*)\.", "", text)


def _doc(text: str) -> Iterator[str]:
    """A docstring: its prose, its sections as lists, its examples as they are."""
    text, _, examples = text.partition(">>> ")
    lead, *sections = _SECTION.split(text)
    if lead.strip():
        yield markdown(lead.strip()) + "\n"
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        listed, _, rest = _dedented(body).partition("\n\n")
        yield f"{title}:\n"
        for item in re.split(r"\n(?=\S)", listed.strip()):
            key, colon, meaning = " ".join(item.split()).partition(": ")
            yield f"- `{key}`: {markdown(meaning)}" if colon else f"- {markdown(key)}"
        yield ""
        if rest.strip():
            yield markdown(inspect.cleandoc(rest)) + "\n"
    if examples:
        shown = re.sub(r" *# doctest: \+\w+", "", examples.rstrip())
        yield f"```pycon\n>>> {shown}\n```\n"


def _dedented(body: str) -> str:
    """A section's lines without their own indentation; what stands at the margin after them stays there."""
    return "\n".join(line.removeprefix("    ") for line in body.splitlines())


def markdown(text: str) -> str:
    """A docstring's reStructuredText marks as Markdown, a name of another module without its path."""
    text = re.sub(r":(?:class|func|meth|mod|data|attr):`~?(?:[\w.]*\.)?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").strip()


def _members(kind: type) -> Iterator[str]:
    """The public methods and properties that the class itself defines."""
    own = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    rows = []
    for name, member in vars(kind).items():
        if name.startswith("_") or name in own:
            continue
        thing = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        call = signature_of(thing) if inspect.isroutine(thing) else ""
        doc = inspect.getdoc(thing) or ""
        if (inspect.isroutine(thing) or isinstance(thing, property)) and doc:
            first = " ".join(doc.split("\n\n")[0].split())
            rows.append(f"- `{name}{call}`: {markdown(first)}")
    if rows:
        yield "\n".join(rows) + "\n"


__all__ = ["ROOMS", "api_page", "markdown", "public_names", "signature_of"]
