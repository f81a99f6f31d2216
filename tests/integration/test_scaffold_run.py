"""What ``fslm new`` writes is generated, built, installed, tested, checked, linted and run, as it is written."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fslm_core.scaffold import WHATS, About, Project, What, draft, names_of, plan_of, write_project
from fslm_core.scaffold.plan import run_of

from ..wheels import unpack
from .projects import Place

pytestmark = pytest.mark.torch

REPLIES = """
import json, os
from fslm_core import hookimpl
from fslm_core.backends.scripted import ScriptedBackend

@hookimpl
def fslm_backends():
    return {"replies.read": lambda settings: ScriptedBackend(json.loads(os.environ["TEST_REPLIES"]))}
"""
CALLS = """
import json, sys
from fslm_core.cli import main

for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    assert code == 0, (arguments, code)
"""


def rows(path: Path) -> Path:
    """A table with everything that makes source hard to write: quotes, umlauts, letters that look like others."""
    moods = ["good", "it's \u201cbad\u201d", 'so "so"', "плохо", "后悔"]
    draw = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["Stück / Text", "Stimmung", "class", "Größe", "Seen", "Reply", "Empty", "Order No"])
        for n in range(60):
            words = " ".join("".join(draw.choices("abcdeèü\u2013", k=6)) for _ in range(90))
            some = [n % 7, f"{n / 4:.2f}", f"2024-05-{n % 28 + 1:02}", words[:400]]
            mood = moods[n % 5]
            lines.writerow([words, mood, *(["", "", "", ""] if mood == "good" else some), "", f"{n:05}"])
    return path


def generated(what: What, folder: Path, table: Path | None) -> Project:
    names = names_of(f"{what}-data" if table else f"{what}-plain")
    drafted = None if table is None else draft(table)
    return write_project(plan_of(what, names.name, drafted), names, folder / names.distribution, About())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def made(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """One of each kind, with and without data, built and installed by one call of pip."""
    folder = tmp_path_factory.mktemp("new")
    table = rows(folder / "rows.csv")
    projects = [generated(what, folder, data) for what in WHATS for data in (None, table)]
    for project in projects:
        built = ("python", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels"))
        place.call(*built, cwd=project.path)
        unpack(wheel_of(project), place.site)
    (place.site / "replies_plugin.py").write_text(REPLIES, encoding="utf-8")
    place.try_few_examples()
    info = place.site / "fslm_replies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fslm-replies\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[fslm]\nreplies = replies_plugin\n", encoding="utf-8")
    return {project.names.name: project for project in projects}


def wheel_of(project: Project) -> Path:
    (wheel,) = (project.path.parent / "wheels").glob(f"{project.names.module}-*.whl")
    return wheel


OWN = ["stage-plain", "stack-plain", "stack-data", "tool-data"]
"""Whose own tests are run here: those of a stage from data are run by the page "Your first stage"."""


@pytest.mark.parametrize("name", OWN)
def test_its_own_tests_pass_untouched(place: Place, made: dict[str, Project], name: str) -> None:
    project = made[name]
    before = {path: path.read_bytes() for path in project.path.rglob("*") if path.is_file()}
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "few_examples", "-m", "not fslm_weights")
    done = place.call(*command, cwd=project.path, FSLM_PLUGINS=name)
    assert " passed" in done and "failed" not in done
    kept = {path: path.read_bytes() for path in before}
    assert kept == before


def test_they_are_checked_and_run(place: Place, made: dict[str, Project], tmp_path: Path) -> None:
    calls: list[list[str]] = []
    replies: dict[str, str] = {}
    for name, project in made.items():
        given, said, _ = run_of(project.plan)
        replies |= {f"{name}.{stage}": json.dumps(reply) for stage, reply in said.items()}
        calls += [["check", name, "--json"], ["run", name, json.dumps(given), "--json"]]
    more = {"FSLM_PLUGINS": ",".join([*made, "replies"]), "TEST_REPLIES": json.dumps(replies)}
    (tmp_path / "calls.py").write_text(CALLS, encoding="utf-8")
    command = ("python", "calls.py", json.dumps(calls))
    printed = place.call(*command, cwd=tmp_path, FSLM_BACKEND="replies.read", **more)
    decoder = json.JSONDecoder()
    for name, project in made.items():
        report, end = decoder.raw_decode(printed)
        output, after = decoder.raw_decode(printed[end:].lstrip())
        printed = printed[end:].lstrip()[after:].lstrip()
        assert report["stack"] == name and report["errors"] == []
        assert report["warnings"] and all("untuned" in w or "is cut" in w for w in report["warnings"])
        assert output == run_of(project.plan)[2]


def test_the_wheels_hold_what_runs_and_nothing_else(made: dict[str, Project]) -> None:
    for name, project in made.items():
        with zipfile.ZipFile(wheel_of(project)) as archive:
            files = {file for file in archive.namelist() if ".dist-info/" not in file}
        inside = {f.removeprefix("src/") for f in project.files if f.startswith("src/")}
        assert files == inside, name
        assert {f"{project.names.module}/{stage.name}/prompt.jinja" for stage in project.plan.stages} <= files


def test_it_is_clean_for_ruff(made: dict[str, Project]) -> None:
    paths = [str(project.path) for project in made.values()]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *paths], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_it_is_clean_for_mypy(place: Place, made: dict[str, Project], tmp_path: Path) -> None:
    sources = [str(project.path / "src") for project in made.values()]
    config = made["tool-data"].path / "pyproject.toml"
    command = ("python", "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path))
    place.call(*command, *sources, str(made["tool-data"].path / "tests"), cwd=tmp_path)


def test_rows_for_each_stage_are_made_of_rows_for_the_stack(
    place: Place, made: dict[str, Project], tmp_path: Path
) -> None:
    project = made["stack-data"]
    table = project.path.parent / "rows.csv"
    data = project.path / "data"
    prepare = ("fslm", "data", "prepare", str(table), "--stack", "stack-data", "--out", str(data))
    pairs = [word for pair in project.plan.draft.mapping.items() for word in ("--map", "=".join(pair))]  # type: ignore[union-attr]
    place.call(*prepare, *pairs, cwd=tmp_path, FSLM_PLUGINS="stack-data")
    place.call("python", "train/rows.py", cwd=project.path)
    whole = _lines(data / "train.jsonl")
    first, second = (_lines(project.path / f"train/rows/{stage.name}.jsonl") for stage in project.plan.stages)
    assert len(first) == len(whole) and 0 < len(second) < len(first)
    for stage, found in zip(project.plan.stages, (first, second), strict=True):
        for row in found:
            stage.input.made.model_validate_json(json.dumps(row["input"]))
            stage.output.made.model_validate_json(json.dumps(row["output"]))


def test_the_classifier_is_fitted_and_takes_part(place: Place, made: dict[str, Project], tmp_path: Path) -> None:
    project = made["tool-plain"]
    found = tmp_path / "rows.jsonl"
    labels = ("complaint", "other", "question")
    lines = [{"input": {"text": f"{label} of mine"}, "output": {"topic": label}} for label in labels * 20]
    found.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = str(project.path / "src")
    place.call("python", "train/classifier.py", str(found), cwd=project.path, PYTHONPATH=source)
    more = {"FSLM_PLUGINS": "tool-plain,replies", "FSLM_BACKEND": "replies.read", "TEST_REPLIES": "{}"}
    try:
        done = place.call("fslm", "run", "tool-plain", "a question of mine", cwd=tmp_path, PYTHONPATH=source, **more)
        assert json.loads(done) == {"topic": "question"}
    finally:
        (project.path / "src/fslm_tool_plain/classifier.npz").unlink()


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
