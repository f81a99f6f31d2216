"""Every error is provoked and says exactly what is pinned; every raise says where and what to do next.

``UPDATE_ERROR_TEXTS=1 pytest tests/contract/test_error_texts.py`` writes ``error_texts/`` anew; read the difference.
The documentation shows the same files.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from fslm_core import errors
from fslm_core.cli.errors import kinds, page_of
from fslm_core.errors import FslmError

from .provocations import CASES, Case
from .scene import SOURCE, made

TEXTS = Path(__file__).parent / "error_texts"
UPDATE = "UPDATE_ERROR_TEXTS" in os.environ
KINDS = {kind.__name__: kind for kind in kinds()}
PLUGINS = Path(__file__).parents[2] / "plugins"

NEVER_MET = {
    "fslm_core/__init__.py": "AttributeError is what Python asks of a module's __getattr__",
    "fslm_core/hooks.py": "specifications, which nobody calls",
}
"""Modules that may raise Python's own exceptions past a caller; everywhere else they are caught in their own room."""


# -- texts -----------------------------------------------------------------------------------------------------------


def pinned(code: str) -> dict[str, str]:
    """The texts of one code, by title."""
    path = TEXTS / f"{code}.txt"
    if not path.exists():
        return {}
    parts = re.split(r"^# (.+)\n\n", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {title: text.rstrip("\n") for title, text in zip(parts[::2], parts[1::2], strict=True)}


def pin(case: Case, text: str) -> None:
    """Write one text into its file, in the order of the cases."""
    known = {**pinned(case.code), case.title: text}
    titles = [other.title for other in CASES if other.code == case.code]
    sections = [f"# {title}\n\n{known[title]}\n" for title in titles if title in known]
    (TEXTS / f"{case.code}.txt").write_text("\n".join(sections), "utf-8")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.code}: {case.title}", marks=[pytest.mark.torch] if case.torch else [])
        for case in CASES
    ],
)
def test_it_says_what_is_pinned(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> None:
    with made(tmp_path, monkeypatch, tiny_model) as scene:
        text = case.provoke(scene)
    if UPDATE:
        pin(case, text)
    assert text == pinned(case.code).get(case.title)
    assert "next: " in text
    assert text.startswith((f"error[{case.code}] ", f"{kind_of(case.code)}: ")) or f"\nerror[{case.code}] " in text


def kind_of(code: str) -> str:
    return next(kind.__name__ for kind in KINDS.values() if kind.code == code)


def test_every_class_has_a_text_and_every_text_a_class() -> None:
    met = {kind.code for kind in KINDS.values() if kind not in abstract()}
    assert {case.code for case in CASES} == met
    assert {path.stem for path in TEXTS.iterdir()} == met
    for code in met:
        assert list(pinned(code)) == [case.title for case in CASES if case.code == code]


def test_the_parents_that_are_never_raised_say_so() -> None:
    assert {kind.__name__ for kind in abstract()} == {"FslmError", "DefinitionError", "PluginError"}
    for kind in KINDS.values():
        assert ("never raised itself" in " ".join((inspect.getdoc(kind) or "").split())) is (kind in abstract())


def test_no_text_is_pinned_that_shows_this_machine() -> None:
    for path in TEXTS.iterdir():
        assert not re.search(r"/tmp/|/root/|/work/|Traceback|sk-live", path.read_text("utf-8")), path.name


def test_every_class_says_what_causes_it_and_what_to_do() -> None:
    for kind in KINDS.values():
        page = page_of(kind)
        assert page.summary.endswith(".") and page.causes and page.cure.endswith("."), kind.__name__


# -- raise sites -----------------------------------------------------------------------------------------------------


@cache
def sources() -> list[tuple[str, ast.Module]]:
    """The code of the core, and of the plugins beside it where this is a checkout."""
    return [
        (path.relative_to(root.parent).as_posix(), ast.parse(path.read_text("utf-8")))
        for root in (SOURCE / "fslm_core", *PLUGINS.glob("*/src"))
        for path in sorted(root.rglob("*.py"))
    ]


def tools_of(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """The functions that ``@tool(…)`` makes stages of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            calls = (d.func for d in node.decorator_list if isinstance(d, ast.Call))
            if any(isinstance(function, ast.Name) and function.id == "tool" for function in calls):
                yield node


def made_in(tree: ast.Module) -> Iterator[tuple[ast.Call, str, bool]]:
    """Each construction of an error: the call, the class, and whether a classmethod makes it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            by_method = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if by_method and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                name = node.func.value.id if node.func.attr == "of" else ""
            if name in KINDS:
                yield node, name, by_method


@cache
def abstract() -> frozenset[type[FslmError]]:
    """The classes that nothing makes an instance of."""
    used = {name for _, tree in sources() for _, name, _ in made_in(tree)}
    return frozenset(kind for name, kind in KINDS.items() if name not in used)


def test_every_error_says_where_and_what_to_do_next() -> None:
    lacking = []
    for path, tree in sources():
        for call, name, by_method in made_in(tree):
            takes = inspect.signature(KINDS[name].__init__).parameters
            given = {keyword.arg for keyword in call.keywords}
            need = {part for part in ("where", "hint") if part in takes}  # a class without them sets them itself
            if not by_method and need - given:
                lacking.append(f"{path}:{call.lineno} {name} lacks {', '.join(sorted(need - given))}")
    assert lacking == []


def test_no_exception_of_pythons_own_reaches_a_user() -> None:
    """Its own room catches it, or pydantic, which makes a problem of it, or the engine, if a tool raises it."""
    own = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    for path, tree in sources():
        in_tools = {node for function in tools_of(tree) for node in ast.walk(function)}
        raised = {
            node.exc.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
            if node not in in_tools
        } & own
        room = path.rpartition("/")[0]
        around = [tree] if room == "fslm_core" else [t for p, t in sources() if p.startswith(f"{room}/")]
        caught = {
            name.id
            for part in around
            for node in ast.walk(part)
            if isinstance(node, ast.ExceptHandler) and node.type is not None
            for name in ast.walk(node.type)
            if isinstance(name, ast.Name)
        }
        broad = {"Exception", "BaseException"} & caught
        validates = any(
            isinstance(node, ast.ImportFrom) and {a.name for a in node.names} & {"model_validator", "field_validator"}
            for node in ast.walk(tree)
        )
        left = set() if broad else raised - caught - ({"ValueError"} if validates else set())
        assert not left or path in NEVER_MET, f"{path} raises {', '.join(sorted(left))}"


def test_the_tree_is_whole() -> None:
    found = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FslmError)}
    assert found == set(KINDS)
