"""Nothing is promised that is not written down and tested: every hook, verb, error code and public name.

The pages of the reference are made of the code, so what is asked here is that each thing stands there with its live
signature, and that some test names it: implements the hook, calls the verb, uses the name.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fslm_core import hooks
from fslm_core.cli.errors import kinds
from fslm_core.cli.root import whole

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TESTS = [*(ROOT / "tests").rglob("*.py"), *ROOT.glob("plugins/*/tests/**/*.py")]


@cache
def api() -> ModuleType:
    """The module that writes the page of public names."""
    spec = importlib.util.spec_from_file_location("docs_api", DOCS / "_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS if path != Path(__file__)]


@cache
def used() -> frozenset[str]:
    """Every name that some test uses, and every function that one defines."""
    names: set[str] = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.FunctionDef(name=name):
                names.add(name)
    return frozenset(names)


@cache
def written() -> str:
    """Every text that some test holds: plugins are written as texts, too."""
    constants = (node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in constants if isinstance(node.value, str))


@cache
def called() -> frozenset[tuple[str, ...]]:
    """The words of every call, list and tuple of a test, in their order: ``("trace", "show")`` and the like."""
    found = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.List | ast.Tuple) else []
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        found.add(tuple(word for part in words for word in part.split()))
    return frozenset(found)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", hooks.HOOKS)
def test_a_hook_is_documented_and_tested(name: str) -> None:
    signature = api().signature_of(getattr(hooks, name))
    assert f"@hookimpl\ndef {name}{signature}: ..." in page("hooks.md")
    assert name in used() or f"def {name}(" in written()


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb that does something, with its command."""
    below = {name: inner for name, inner in getattr(command, "commands", {}).items() if not inner.hidden}
    if path and (not below or getattr(command, "invoke_without_command", False)):
        yield path, command
    for name, inner in sorted(below.items()):
        yield from verbs(inner, (*path, name))


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in verbs(whole())])
def test_a_verb_is_documented_and_tested(path: tuple[str, ...], command: Any) -> None:
    name = " ".join(("fslm", *path))
    section = re.search(rf"^##+ `{name}`\n(.*?)(?=^##+ |\Z)", page("cli.md"), re.M | re.S)
    assert section is not None
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert not [option for option in options - {"--help"} if option not in section[1]]
    starts = {words[at : at + len(path)] for words in called() for at in range(len(words))}
    assert path in starts


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: str(kind.code))
def test_an_error_code_has_a_page(kind: type) -> None:
    code = kind.code  # type: ignore[attr-defined]
    assert f"# `{code}`" in page(f"errors/{code}.md")
    assert kind.__name__ in page(f"errors/{code}.md")
    assert f"(errors/{code}.md)" in page("errors.md")


def public() -> list[Any]:
    return [pytest.param(room, name, thing, id=f"{room}.{name}") for room, name, thing in api().public_names()]


@pytest.mark.parametrize(("room", "name", "thing"), public())
def test_a_public_name_is_documented_and_tested(room: str, name: str, thing: Any) -> None:
    section = re.search(rf"^### {name} {{ #{re.escape(room)}\.{name} }}\n(.*?)(?=^##|\Z)", page("api.md"), re.M | re.S)
    assert section is not None
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert inspect.getdoc(thing)
    if inspect.isroutine(thing) or (inspect.isclass(thing) and "settings.md" not in section[1]):
        assert f"{name}{api().signature_of(thing)}\n" in section[1]
    assert name in used() or re.search(rf"\b{name}\b", written())
