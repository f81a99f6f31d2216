"""``fslm new``: a plugin to begin with."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from ..checkpoints import find
from ..data import Reading, parse_mapping
from ..errors import UsageError
from ..scaffold import (
    About,
    Draft,
    Names,
    Project,
    What,
    author_of,
    draft,
    licence_of,
    names_of,
    plan_of,
    said,
    taken_by,
    write_project,
)
from . import screen
from .session import Session, session_of

app = typer.Typer(add_completion=False, no_args_is_help=True)

_NAME = typer.Argument(metavar="NAME", help="A lower-case word; pip will call the plugin fslm-NAME.")
_DIR = typer.Option("--dir", metavar="DIR", help="The folder to write; fslm-NAME if not given.")
_DATA = typer.Option(
    "--from-data",
    metavar="FILE",
    help="Draft the messages from a table: .jsonl, .csv, .tsv or .xlsx. No row is copied.",
)
_INPUT = typer.Option("--input", metavar="COLUMN", help="A column that goes in; else the one with the longest texts.")
_OUTPUT = typer.Option("--output", metavar="COLUMN", help="A column that comes out; else all others that can be told.")
_MAP = typer.Option("--map", metavar="FIELD=COLUMN", help="Call a column's field by this name.")
_SHEET = typer.Option("--sheet", metavar="NAME", help="The sheet of a workbook.")
_BASE = typer.Option("--base", metavar="CHECKPOINT", help="The base model; `fslm models list` shows them.")
_AUTHOR = typer.Option("--author", metavar="TEXT", help="A name, or a name and <mail>.")
_LICENCE = typer.Option("--licence", metavar="SPDX", help="An identifier such as Apache-2.0 or MIT.")
_JSON = typer.Option("--json", help="Print one JSON object.")
_HELP: dict[What, str] = {
    "stage": """A plugin with one stage, and a stack of that stage alone.

    It is a whole distribution: models, prompt, recipe, tests, tox.ini, README, model card, CI. Its tests pass as it is
    written. Standard output shows what was guessed, what was written, and what to type next.
    """,
    "stack": """A plugin with a stack of two stages, of which the second reads what the first said.

    The second runs unless the first says that there is nothing more to say. From data, the first writes the first
    column of labels and the second all others; it is passed over after labels with which all others are empty.
    """,
    "tool": """A plugin with a classifier as a tool stage, and a language model for what it is not sure of.

    The classifier is scikit-learn's, linear, and fitted in seconds. From data, it decides the first column of labels.
    """,
}


@app.callback()
def new() -> None:
    """Write a new plugin, with its tests: a stage, a stack or a tool."""


def _add(what: What, help: str) -> None:
    """Add the verb that writes a plugin of this kind; all of them take the same."""

    def write(
        ctx: typer.Context,
        name: Annotated[str, _NAME],
        out: Annotated[Path | None, _DIR] = None,
        data: Annotated[Path | None, _DATA] = None,
        input: Annotated[list[str] | None, _INPUT] = None,
        output: Annotated[list[str] | None, _OUTPUT] = None,
        mapping: Annotated[list[str] | None, _MAP] = None,
        sheet: Annotated[str | None, _SHEET] = None,
        base: Annotated[str, _BASE] = "smollm2-135m",
        author: Annotated[str | None, _AUTHOR] = None,
        licence: Annotated[str, _LICENCE] = "Apache-2.0",
        as_json: Annotated[bool, _JSON] = False,
    ) -> None:
        table = _Table(data, input or [], output or [], mapping or [], sheet)
        _new(session_of(ctx), what, names_of(name), out, table, _about(base, author, licence), as_json)

    app.command(what, help=inspect.cleandoc(help))(write)


for _what, _help in _HELP.items():
    _add(_what, _help)


@dataclass(frozen=True)
class _Table:
    """The table to draft from, if any, and what was said about it."""

    file: Path | None
    input: list[str]
    output: list[str]
    mapping: list[str]
    sheet: str | None

    def drafted(self) -> Draft | None:
        """The draft; None without a table."""
        if self.file is not None:
            pairs = parse_mapping(self.mapping)
            reading = Reading(self.sheet, wanted=(*self.input, *self.output, *pairs.values()))
            return draft(self.file, input=self.input, output=self.output, mapping=pairs, reading=reading)
        given = (("--input", self.input), ("--output", self.output), ("--map", self.mapping), ("--sheet", self.sheet))
        if lone := [option for option, value in given if value]:
            raise UsageError(
                f"{lone[0]} says nothing without --from-data",
                where=lone[0],
                hint="pass --from-data FILE, too, or leave it out",
            )
        return None


def _about(base: str, author: str | None, licence: str) -> About:
    who, mail = author_of(author) if author is not None else (None, None)
    return About(base, who, mail, licence_of(licence))


def _new(
    session: Session, what: What, names: Names, out: Path | None, table: _Table, about: About, as_json: bool
) -> None:
    find(about.base, session.host.checkpoints)
    drafted = table.drafted()
    made = write_project(plan_of(what, names.name, drafted), names, out or Path(names.distribution), about)
    warnings = _warnings(session, names, drafted)
    if as_json:
        screen.result(screen.as_json(_data(made, warnings)))
    for warning in warnings:
        screen.warn(warning)
    if not as_json:
        _show(made)


def _warnings(session: Session, names: Names, drafted: Draft | None) -> list[str]:
    found = []
    if (info := taken_by(names, session.host.plugins)) is not None:
        found.append(f"the plugin {info.name} ({info}) is installed here; two of one name cannot be loaded together")
    if drafted is None:
        return found
    if drafted.aside:
        lines = ", ".join(str(line) for line, _ in drafted.aside[:5])
        more = f" and {len(drafted.aside) - 5:,} more" if len(drafted.aside) > 5 else ""
        why, _ = Counter(why for _, why in drafted.aside).most_common(1)[0]
        found.append(f"not looked at, for they cannot be read: line {lines}{more} ({why})")
    return [*found, *drafted.warnings]


# -- what is shown ---------------------------------------------------------------------------------------------------


def _show(made: Project) -> None:
    drafted = made.plan.draft
    if drafted is not None:
        rows = ([one.part, one.slot.name, _kind(one), one.column, one.why] for one in drafted.fields)
        screen.table(["side", "field", "guessed", "column", "because of"], rows)
        for column, why in drafted.left_out.items():
            screen.result(screen.clean(f"left out: column {column!r}: {why}"))
        screen.result("")
    screen.result(screen.clean(f"{made.path}/"))
    for line in tree(made.files):
        screen.result(screen.clean(line))
    screen.result("\nnext:")
    for command in made.next:
        screen.result(screen.clean(f"  {command}"))


def _kind(one: Any) -> str:
    return said(one.slot.kind) + (", or null" if one.slot.nullable else "")


def tree(files: tuple[str, ...]) -> list[str]:
    """Paths as a tree, folders once.

    >>> tree(("a/b.py", "a/c/d.py", "e"))
    ['  a/', '    b.py', '    c/', '      d.py', '  e']
    """
    lines: list[str] = []
    seen: set[PurePosixPath] = set()
    for path in sorted(map(PurePosixPath, files)):
        for folder in reversed(path.parents[:-1]):
            if folder not in seen:
                seen.add(folder)
                lines.append(f"{'  ' * len(folder.parts)}{folder.name}/")
        lines.append(f"{'  ' * len(path.parts)}{path.name}")
    return lines


def _data(made: Project, warnings: list[str]) -> dict[str, Any]:
    drafted = made.plan.draft
    fields = [
        {
            "side": one.part,
            "field": one.slot.name,
            "column": one.column,
            "guessed": _kind(one),
            "because": one.why,
        }
        for one in (drafted.fields if drafted else ())
    ]
    return {
        "what": made.plan.what,
        "name": made.names.name,
        "distribution": made.names.distribution,
        "module": made.names.module,
        "path": str(made.path),
        "files": list(made.files),
        "stages": [f"{made.names.name}.{one.name}" for one in made.plan.stages],
        "draft": {"rows": drafted.rows, "fields": fields, "left_out": dict(drafted.left_out)} if drafted else None,
        "next": list(made.next),
        "warnings": warnings,
    }


__all__ = ["app", "tree"]
