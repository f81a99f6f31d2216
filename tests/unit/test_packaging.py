"""What the metadata promises, constraints.txt pins and `fslm doctor` looks for agree."""

from __future__ import annotations

import re
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
