"""The face of the package: what is exported, what importing it costs, and that what is public is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fslm_core
from fslm_core import errors, hooks, settings

# These modules need an extra when they are imported: `torch`, or for the last `lm-eval`.
WITH_EXTRAS = (
    "fslm_core.backends.torch.",
    "fslm_core.checkpoints.convert",
    "fslm_core.checkpoints.gguf",
    "fslm_core.train.",
    "fslm_core.evaluate.lm_eval.model",
)
HEAVY = {"torch", "transformers", "peft", "numpy"}


def modules() -> list[str]:
    found = (module.name for module in pkgutil.walk_packages(fslm_core.__path__, "fslm_core."))
    return [name for name in found if not name.startswith(WITH_EXTRAS) and not name.endswith("__main__")]


def imported_by(code: str) -> set[str]:
    """The modules that ``code`` adds to a fresh interpreter."""
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_every_exported_name_is_there_and_nothing_else_is_public() -> None:
    assert sorted(fslm_core.__all__) == sorted(fslm_core._HOMES)
    for name in fslm_core.__all__:
        thing = getattr(fslm_core, name)
        assert thing is getattr(importlib.import_module(f"fslm_core.{fslm_core._HOMES[name]}"), name)
    assert set(fslm_core.__all__) <= set(dir(fslm_core))


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(fslm_core))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == fslm_core._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stackk'"):
        fslm_core.Stackk  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not imported_by("import fslm_core") & {
        "torch",
        "transformers",
        "peft",
        "pydantic",
        "jinja2",
        "pluggy",
        "sqlite3",
    }


def test_the_public_names_do_not_import_torch() -> None:
    names = "; ".join(f"fslm_core.{name}" for name in fslm_core.__all__)
    assert not imported_by(f"import fslm_core; {names}") & HEAVY


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="only tox promises to test the built wheel")
def test_what_is_tested_is_the_built_wheel() -> None:
    assert "site-packages" in Path(fslm_core.__file__).parts


@pytest.mark.parametrize("name", modules())
def test_all_is_true_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith("fslm_core"):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"


def test_the_error_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│├└─ ]*)(\w+)", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.FslmError)]
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in classes}


def test_every_error_has_a_code_of_its_own() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.FslmError)]
    codes = [c.code for c in classes]
    assert len(set(codes)) == len(codes)


def test_every_hook_is_listed_typed_and_documented() -> None:
    specified = {n for n, f in vars(hooks).items() if hasattr(f, "fslm_spec")}
    assert specified == set(hooks.HOOKS)
    for name in hooks.HOOKS:
        hook = getattr(hooks, name)
        assert inspect.getdoc(hook)
        assert "return" in hook.__annotations__ and set(inspect.signature(hook).parameters) < set(hook.__annotations__)


def test_every_setting_says_what_it_means() -> None:
    kinds = [k for _, k in inspect.getmembers(settings, inspect.isclass) if k.__module__ == settings.__name__]
    assert settings.Settings in kinds
    for kind in kinds:
        (body,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and "Settings" not in ast.unparse(statement.annotation):
                assert isinstance(below, ast.Expr), f"{kind.__name__}.{ast.unparse(statement.target)} has no meaning"
