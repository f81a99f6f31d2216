"""What the metadata promises, what the constraints pin and what tox runs agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fslm_core.cli import checkup

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def required(path: Path, extra: str | None = None) -> list[Requirement]:
    """Everything the metadata asks for, or what one extra asks for."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    texts = (project.get("dependencies", []), *extras.values()) if extra is None else (extras[extra],)
    return [Requirement(text) for part in texts for text in part]


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def tox() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    return parser


def lower_bound(requirement: Requirement) -> str:
    return next(s.version for s in requirement.specifier if s.operator == ">=")


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
    owners = {
        "opentelemetry": "opentelemetry-api",
        "pydantic_core": "pydantic",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
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


def test_the_lower_bounds_that_are_run_are_those_of_the_metadata() -> None:
    project = tomllib.loads(PROJECTS[0].read_text(encoding="utf-8"))["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    promised = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    lowest = {canonicalize_name(r.name): Version(lower_bound(r)) for r in promised if r.name != "fslm-core"}
    run = {name: Version(version) for name, version in pinned("constraints-lowest.txt").items()}
    assert {name: run.get(name) for name in lowest} == lowest
    assert f"fslm-core[{','.join(sorted(extras))}]" in tox()["testenv:lowest-torch"]["commands_pre"]


def test_the_classifiers_are_the_pythons_that_tox_runs() -> None:
    environments = tox()["tox"]["env_list"]
    run = {f"{tag[0]}.{tag[1:]}" for tag in re.findall(r"3\d\d", environments)}
    assert set(checkup.tested_pythons()) == run
    assert checkup.tested_systems() == ["Linux"]
    for path in PROJECTS[1:]:
        classifiers = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["classifiers"]
        assert {c.rpartition(" ")[2] for c in classifiers if re.search(r":: 3\.\d+$", c)} <= run, path


def test_what_tox_installs_is_pinned_and_the_extra_dev_brings_what_every_change_needs() -> None:
    dev = {canonicalize_name(r.name) for r in required(PROJECTS[0], "dev")}
    parser = tox()
    every_change = parser["tox"]["env_list"]
    for section in parser.sections():
        wanted = section == "testenv" or section.partition(":")[2] in every_change
        for line in parser[section].get("deps", "").split("\n"):
            if line and not line.startswith("-c"):
                name = canonicalize_name(Requirement(line).name)
                assert name in pinned() and (name in dev or not wanted), f"{section}: {name}"


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="fslm")
    assert command.value == "fslm_core.cli:main"
