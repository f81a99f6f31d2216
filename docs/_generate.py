"""Write the pages of the reference from the code: ``python docs/_generate.py``; ``--check`` only compares.

Command line, settings, hooks and errors are described where they are defined and nowhere else.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from _api import api_page, markdown, signature_of
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fslm_core import errors, hooks, settings
from fslm_core.cli import root
from fslm_core.cli.errors import kinds, page_of, parents_of
from fslm_core.train import recipe
from fslm_core.tune import recipe as tuning_recipe

HERE = Path(__file__).parent
TEXTS = HERE.parent / "tests" / "contract" / "error_texts"
NONE = "&ndash;"
MARK = "<!-- Written by docs/_generate.py from the code; edit the docstrings, not this page. -->"


def main() -> int:
    """Write, or with ``--check`` compare, every generated page; return the exit code."""
    pages = {
        "cli.md": cli_page,
        "settings.md": settings_page,
        "recipe.md": recipe_page,
        "tuning-recipe.md": tuning_recipe_page,
        "hooks.md": hooks_page,
        "api.md": api_page,
        "errors.md": errors_page,
        **{f"errors/{kind.code}.md": partial(error_page, kind) for kind in kinds()},
    }
    stale = [f"errors/{path.name}" for path in (HERE / "errors").glob("*.md") if f"errors/{path.name}" not in pages]
    if "--check" not in sys.argv:
        (HERE / "errors").mkdir(exist_ok=True)
        for name in stale:
            (HERE / name).unlink()
        stale = []
    for name, make in pages.items():
        text = f"{MARK}\n\n" + "\n".join(make()).strip() + "\n"
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `python docs/_generate.py`", file=sys.stderr)
    return 1 if stale else 0


# -- text ------------------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """Text that may stand in a table's cell."""
    return " ".join(markdown(text).replace("|", "\\|").split())


def table(heads: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


# -- errors ----------------------------------------------------------------------------------------------------------


def errors_page() -> Iterator[str]:
    yield "# Errors\n"
    yield (
        "Everything fslm raises on purpose is an `FslmError`. It says what failed and where, what was found and"
        " expected, and what to do next; `error.to_dict()` is the same as JSON, and `error.code` never changes its"
        " meaning.\n"
    )
    yield (
        "Every code has a page here, with what causes the error, what to do, and what it says word for word; the tests"
        " provoke each of them and compare. `fslm errors CODE` prints the same without a network, `fslm errors` the"
        " list, and `fslm --debug …` shows an error's traceback, which is never shown otherwise.\n"
    )
    doc = inspect.getdoc(errors) or ""
    tree = doc.split("::\n\n", 1)[1].split("\n\n")[0]
    yield "```text\n" + inspect.cleandoc(tree) + "\n```\n"
    yield "## Codes and exit codes\n"
    yield "The exit code is what the command line returns for an error; the message goes to standard error.\n"
    yield from table(
        ["code", "error", "exit code", "when"],
        (
            [f"[`{k.code}`](errors/{k.code}.md)", f"`{k.__name__}`", str(k.exit_code), cell(page_of(k).summary)]
            for k in kinds()
        ),
    )


def error_page(kind: type[errors.FslmError]) -> Iterator[str]:
    """One class: its docstring, how to catch it, and the texts that its tests pin."""
    page, parents = page_of(kind), parents_of(kind)
    yield f"# `{kind.code}`\n"
    yield markdown(page.summary) + "\n"
    family = ", ".join(f"[`{parent.__name__}`]({parent.code}.md)" for parent in parents) or NONE
    below = [child for child in kinds() if child is not kind and issubclass(child, kind)]
    children = ", ".join(f"[`{child.__name__}`]({child.code}.md)" for child in below) or NONE
    row = [f"`fslm_core.errors.{kind.__name__}`", str(kind.exit_code), family, children]
    yield from table(["class", "exit code", "a kind of", "kinds of it"], iter([row]))
    yield from (markdown(cause) + "\n" for cause in page.causes)
    yield "## What to do\n"
    yield markdown(page.cure[:1].upper() + page.cure[1:]) + "\n"
    yield "## How to catch it\n"
    yield f"```py\nfrom fslm_core.errors import {kind.__name__}\n```\n"
    names = " or ".join(f"`except {caught.__name__}`" for caught in (kind, *parents))
    ended = (
        ""
        if kind is errors.RunFailed
        else " Where it ended a run, `engine.run` raises `RunFailed`, and `.error` is it."
    )
    yield f"{names} catches it.{ended}\n"
    path = TEXTS / f"{kind.code}.txt"
    if path.exists():
        yield "## What it says\n"
        for part in re.split(r"^# ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title, _, text = part.partition("\n\n")
            yield f"{title[0].upper()}{title[1:]}:\n\n```text\n{text.rstrip()}\n```\n"


# -- settings --------------------------------------------------------------------------------------------------------


def settings_page() -> Iterator[str]:
    yield "# Settings\n"
    yield "From weak to strong:\n"
    yield "1. `fslm.toml` in the configuration folder of your platform (`fslm doctor` names it),"
    yield "2. `fslm.toml` in the working folder,"
    yield "3. variables: `FSLM_OFFLINE=1`; two underscores go down a level: `FSLM_TRACE__CONTENT=none`,"
    yield "4. arguments: `Engine(settings=settings.load(offline=True))`.\n"
    yield (
        "`FSLM_CONFIG` names one file to read in place of 1 and 2. Lists are written with commas in variables. A name"
        " that fslm does not know is an error, in a file as in a variable.\n"
    )
    yield "```toml"
    yield 'offline = true\ndisable = ["echo"]\n\n[trace]\ncontent = "redacted"\n\n[torch]\nthreads = 2\n'
    yield '[stages."support.intent"]\nadapter = "/srv/intent-v2"'
    yield "```\n"
    yield "## Top level\n"
    yield from _section(settings.Settings, "")
    for name, info in settings.Settings.model_fields.items():
        model = _model_in(info.annotation)
        if model is None:
            continue
        key = f'{name}."NAME"' if "dict" in str(info.annotation) else name
        yield f"## `[{key}]`\n"
        yield markdown(inspect.getdoc(model) or "") + "\n"
        yield from _section(model, f"{name}." if key == name else "")


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    notes = _notes(model)
    fields = [(n, i) for n, i in model.model_fields.items() if _model_in(i.annotation) is None]
    rows = []
    for name, info in fields:
        key = f"{prefix}{name}"
        variable = f"`FSLM_{key.upper().replace('.', '__')}`" if model is settings.Settings or prefix else NONE
        rows.append(
            [
                f"`{name}`",
                variable,
                f"`{_type(info.annotation)}`".replace("|", "\\|"),
                _default(info),
                cell(notes.get(name, "")),
            ]
        )
    yield from table(["key", "variable", "type", "default", "meaning"], iter(rows))


def _notes(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a class, as attribute docstrings are written."""
    notes = {}
    for part in (kind for kind in reversed(model.__mro__) if issubclass(kind, BaseModel) and kind is not BaseModel):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(tree, ast.ClassDef)
        for above, below in pairwise(tree.body):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(above, ast.AnnAssign) and documented:
                notes[ast.unparse(above.target)] = inspect.cleandoc(str(below.value.value))
    return notes


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _type(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = re.sub(r"typing\.Annotated\[(tuple\[.*?\]), <[^>]*>\]", r"\1", text)
    text = re.sub(r"\b(typing|pathlib|pydantic.types)\.", "", text)
    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list[\1]", text)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "the platform's own"
    if info.default is None or info.default is PydanticUndefined:
        return NONE
    return f"`{json.dumps(info.default, default=str)}`"


# -- recipe ----------------------------------------------------------------------------------------------------------


def recipe_page() -> Iterator[str]:
    yield "# Recipe\n"
    yield markdown(inspect.getdoc(recipe) or "") + "\n"
    yield "Which keys to think about, and which to leave alone, is said in [Training a stage](training.md).\n"
    yield "## Top level\n"
    yield from _keys(recipe.Recipe)
    for name, info in recipe.Recipe.model_fields.items():
        if model := _model_in(info.annotation):
            yield f"## `[{name}]`\n"
            yield markdown(inspect.getdoc(model) or "") + "\n"
            yield from _keys(model)


def tuning_recipe_page() -> Iterator[str]:
    yield "# Tuning recipe\n"
    yield markdown(inspect.getdoc(tuning_recipe) or "") + "\n"
    yield "What the keys are for is said in [Tuning a stack](tuning.md).\n"
    yield "## Top level\n"
    yield from _keys(tuning_recipe.TuneRecipe)
    yield from _sections(tuning_recipe.TuneRecipe, "")


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The sections within a section, each before those within it."""
    for name, info in model.model_fields.items():
        if inner := _model_in(info.annotation):
            key = f"{prefix}{name}.STEP" if "dict" in str(info.annotation) else f"{prefix}{name}"
            yield f"## `[{key}]`\n"
            yield markdown(inspect.getdoc(inner) or "") + "\n"
            yield from _keys(inner)
            yield from _sections(inner, f"{key}.")


def _keys(model: type[BaseModel]) -> Iterator[str]:
    notes = _notes(model)
    rows = (
        [
            f"`{n}`",
            f"`{_type(i.annotation)}`".replace("|", "\\|"),
            "required" if i.is_required() else _default(i),
            cell(notes.get(n, "")),
        ]
        for n, i in model.model_fields.items()
        if _model_in(i.annotation) is None
    )
    yield from table(["key", "type", "default", "meaning"], rows)


# -- hooks -----------------------------------------------------------------------------------------------------------


def hooks_page() -> Iterator[str]:
    yield "# Hooks\n"
    yield markdown((inspect.getdoc(hooks) or "").split("\n\n", 1)[1]) + "\n"
    yield "```py\nfrom fslm_core import hookimpl\n```\n"
    for name in hooks.HOOKS:
        hook = getattr(hooks, name)
        lead, _, rest = (inspect.getdoc(hook) or "").partition("Args:\n")
        yield f"## {name}\n"
        yield f"```py\n@hookimpl\ndef {name}{signature_of(hook)}: ...\n```\n"
        yield markdown(lead) + "\n"
        for argument in re.findall(r"^ {4}(\w+): (.*)$", rest, re.M):
            yield f"- `{argument[0]}`: {markdown(argument[1])}"
        yield ""


# -- command line ----------------------------------------------------------------------------------------------------


def cli_page() -> Iterator[str]:
    yield "# Command line\n"
    yield from _command(root.whole(), "fslm", 1)
    yield "## Exit codes\n"
    yield from table(["code", "meaning"], ([str(code), cell(meaning)] for code, meaning in root.EXIT_CODES.items()))


def _command(command: Any, path: str, depth: int) -> Iterator[str]:
    """One command's section, then those of its subcommands; ``command`` is what Typer makes of a function."""
    context = command.context_class(command, info_name=path)
    if depth > 1:
        yield f"{'#' * min(depth, 3)} `{path}`\n"
    yield markdown(inspect.cleandoc(command.help or "")) + "\n"
    yield f"```text\n{path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    rows = [[f"`{name.replace('|', chr(92) + '|')}`", cell(text)] for name, text in filter(None, records)]
    yield from table(["parameter", "meaning"], iter(rows))
    inner = {name: c for name, c in getattr(command, "commands", {}).items() if not c.hidden}
    for name, below in sorted(inner.items()):
        yield from _command(below, f"{path} {name}", depth + 1)


if __name__ == "__main__":
    sys.exit(main())
