"""``fslm errors``: what an error's code means, what causes it and what to do, from the classes themselves."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Annotated, NamedTuple

import typer

from .. import errors
from ..errors import FslmError, UnknownNameError
from . import screen

app = typer.Typer(add_completion=False)


class Page(NamedTuple):
    """What a class says of itself, as its docstring is laid out.

    Attributes:
        summary: one sentence.
        causes: what raises it, paragraph by paragraph.
        cure: what to do next.
    """

    summary: str
    causes: tuple[str, ...]
    cure: str


def page_of(kind: type[FslmError]) -> Page:
    """Read a class's docstring.

    >>> page_of(errors.TrainInterrupted).cure
    'the same command with ``--resume``.'
    """
    text = (inspect.getdoc(kind) or "").partition("\nArgs:\n")[0]
    summary, *rest = (" ".join(part.split()) for part in text.split("\n\n") if part.strip())
    (cure,) = (part.removeprefix("Next: ") for part in rest if part.startswith("Next: "))
    return Page(summary, tuple(part for part in rest if not part.startswith("Next: ")), cure)


def kinds() -> list[type[FslmError]]:
    """Every class of the tree, from the root down, each before the next of its parent."""

    def below(kind: type[FslmError]) -> list[type[FslmError]]:
        children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
        return [kind, *(found for child in children for found in below(child))]

    return below(FslmError)


def parents_of(kind: type[FslmError]) -> list[type[FslmError]]:
    """The classes that catch it too, the nearest first."""
    return [parent for parent in kind.__mro__[1:] if issubclass(parent, FslmError)]


@app.command("errors")
def errors_(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="What stands in error[…].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an error's code means, what causes it and what to do.

    Without a code, list them all.
    """
    known = {kind.code: kind for kind in kinds()}
    if code is not None and code not in known:
        raise UnknownNameError.of("error code", code, known)
    chosen = list(known.values()) if code is None else [known[code]]
    if as_json:
        data = [_data(kind) for kind in chosen]
        screen.result(screen.as_json(data if code is None else data[0]))
    elif code is None:
        rows = ([kind.code, kind.exit_code, kind.__name__, _plain(page_of(kind).summary)] for kind in chosen)
        screen.table(["code", "exits", "class", "meaning"], rows)
    else:
        screen.result(_explained(known[code]))


def _explained(kind: type[FslmError]) -> str:
    page = page_of(kind)
    family = ", ".join(parent.__name__ for parent in parents_of(kind))
    facts = f"{kind.__name__}, exit code {kind.exit_code}" + (f", a kind of {family}" if family else "")
    parts = [page.summary, *page.causes, f"Next: {page.cure}"]
    return "\n\n".join([f"error[{kind.code}]  {facts}", *(textwrap.fill(_plain(part), 100) for part in parts)])


def _data(kind: type[FslmError]) -> dict[str, object]:
    page = page_of(kind)
    return {
        "code": kind.code,
        "class": kind.__name__,
        "exit_code": kind.exit_code,
        "parents": [parent.__name__ for parent in parents_of(kind)],
        "meaning": _plain(page.summary),
        "causes": [_plain(part) for part in page.causes],
        "next": _plain(page.cure),
    }


def _plain(text: str) -> str:
    return re.sub(r"``([^`]+)``|(?<!\w)\*(\w+)\*", lambda m: m[1] or m[2], text)


__all__ = ["Page", "app", "kinds", "page_of", "parents_of"]
