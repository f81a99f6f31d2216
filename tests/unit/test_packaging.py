"""What the metadata promises, constraints.txt pins and `fslm doctor` looks for agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fslm_core.cli.doctor import _EXTRAS

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def required(path: Path) -> list[Requirement]:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for texts in (project.get("dependencies", []), *extras) for text in texts]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_what_ci_runs_lies_in_the_ranges_the_metadata_promises(path: Path) -> None:
    for requirement in required(path):
        name = canonicalize_name(requirement.name)
        if name not in ("fslm-core", "pip"):
            assert requirement.specifier.contains(pinned()[name]), f"{requirement} does not allow {pinned()[name]}"


def imported(path: Path) -> set[str]:
    """The top-level modules of other distributions that a file imports, for type checking or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"fslm_core"}


def test_whatever_is_imported_is_required() -> None:
    owners = {"pydantic_core": "pydantic", "sklearn": "scikit-learn"}
    wanted = {canonicalize_name(requirement.name) for requirement in required(PROJECTS[0])}
    for path in (ROOT / "fslm_core").rglob("*.py"):
        for module in imported(path):
            name = canonicalize_name(owners.get(module, module))
            assert name in wanted, f"{path.relative_to(ROOT)} imports {module}"


def test_every_range_has_an_upper_bound() -> None:
    for path in PROJECTS:
        for requirement in required(path):
            if requirement.name != "pip" and not requirement.extras:
                assert "<" in {s.operator for s in requirement.specifier}, str(requirement)


def test_doctor_looks_for_what_the_extras_bring() -> None:
    extras = tomllib.loads(PROJECTS[0].read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, names in _EXTRAS.items():
        assert set(names) <= {re.split(r"[^\w-]", text)[0] for text in extras[extra]}


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="fslm")
    assert command.value == "fslm_core.cli:main"
