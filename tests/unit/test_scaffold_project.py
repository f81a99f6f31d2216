"""A plugin on disk: whole or not at all, with every answer the templates ask for and no other."""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fslm_core.errors import InternalError, MissingExtraError, UsageError
from fslm_core.scaffold import project
from fslm_core.scaffold.answers import About, answers_of, core_range, literal
from fslm_core.scaffold.naming import names_of
from fslm_core.scaffold.plan import WHATS, What, plan_of
from fslm_core.scaffold.project import TEMPLATES, Project, write_project

ROOT = Path(__file__).parents[2]
NAMES = names_of("my-shop")


def write(out: Path, what: What = "stage", **about: Any) -> Project:
    return write_project(plan_of(what, NAMES.name), NAMES, out, About(**about))


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text("utf-8") for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("what", WHATS)
def test_every_file_is_there_and_nothing_is_left_unfilled(tmp_path: Path, what: What) -> None:
    made = write(tmp_path / "new", what)
    found = contents(tmp_path / "new")
    assert set(made.files) == set(found)
    for name in ("pyproject.toml", "tox.ini", "README.md", "MODEL_CARD.md", "CHANGELOG.md", "LICENSE", ".gitignore"):
        assert found[name]
    assert {".github/workflows/ci.yml", "tests/conftest.py", "tests/test_contract.py", "tests/test_my_shop.py"} <= set(
        found
    )
    assert {"src/fslm_my_shop/__init__.py", "src/fslm_my_shop/messages.py", "src/fslm_my_shop/py.typed"} <= set(found)
    assert {"src/fslm_my_shop/topic/prompt.jinja", "train/topic.toml", "tests/cases/topic.yml"} <= set(found)
    for name, text in found.items():
        assert not re.search(r"\[\[ | \]\]|\[% | %\]", text), name
        assert (text.endswith("\n") and not text.endswith("\n\n")) or not text, name
    for source in (name for name in found if name.endswith(".py")):
        compile(found[source], source, "exec")


@pytest.mark.parametrize("what", WHATS)
def test_the_metadata_says_which_core_and_which_entry_point(tmp_path: Path, what: What) -> None:
    write(tmp_path / "new", what, author='Ada "A." L', email="ada@example.org", licence="MIT")
    project = tomllib.loads((tmp_path / "new/pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "fslm-my-shop" and project["license"] == "MIT"
    assert project["authors"] == [{"name": 'Ada "A." L', "email": "ada@example.org"}]
    assert project["entry-points"]["fslm"] == {"my-shop": "fslm_my_shop"}
    core = next(Requirement(text) for text in project["dependencies"] if text.startswith("fslm-core"))
    assert core.extras == {"torch"} and core.specifier.contains(version("fslm-core"))
    assert {"eval", "test", "train"} == set(project["optional-dependencies"])
    assert "Put the text of this licence here" in (tmp_path / "new/LICENSE").read_text("utf-8")


def test_the_usual_licence_comes_with_its_text(tmp_path: Path) -> None:
    write(tmp_path / "new")
    assert (tmp_path / "new/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_lint_rules_are_ours(tmp_path: Path) -> None:
    write(tmp_path / "new")
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    theirs = tomllib.loads((tmp_path / "new/pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    assert theirs["lint"]["select"] == ours["lint"]["select"]
    assert theirs["line-length"] == ours["line-length"] and theirs["target-version"] == ours["target-version"]


def test_the_base_is_named_where_it_is_used(tmp_path: Path) -> None:
    write(tmp_path / "new", base="hf:owner/model@" + "0" * 40)
    found = contents(tmp_path / "new")
    assert f'SLM(base="hf:owner/model@{"0" * 40}")' in found["src/fslm_my_shop/__init__.py"]
    assert 'base_model: "owner/model"' in found["MODEL_CARD.md"]


@pytest.mark.parametrize("what", WHATS)
def test_no_template_asks_for_what_no_other_needs(what: What) -> None:
    """Each answer is used by a template, so that none is left over when a template changes."""
    text = "\n".join(
        f"{path}\n{path.read_text('utf-8')}"
        for path in TEMPLATES.rglob("*")
        if path.is_file() and path.name != "copier.yml"
    )
    for name in answers_of(plan_of(what, NAMES.name), NAMES, About()):
        assert re.search(rf"(?:\[\[|\[%)[^\]]*\b{name}\b", text), f"no template uses {name}"


def test_an_empty_folder_is_filled_and_anything_else_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty/tox.ini").is_file()
    for taken in ("file", "full", "link"):
        place = tmp_path / taken
        if taken == "file":
            place.write_text("mine")
        elif taken == "full":
            place.mkdir()
            (place / "mine.txt").write_text("mine")
        else:
            place.symlink_to(tmp_path / "nowhere")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UsageError, match="something is there already"):
            write(place)
        assert sorted(tmp_path.rglob("*")) == before


def test_it_is_not_written_over_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="the folder that the command runs in"):
        write(Path("."))


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import copier

    def half(template: str, out: Path, *rest: Any, **more: Any) -> None:
        (out / "half.txt").write_text("half")
        raise ValueError("broken")

    monkeypatch.setattr(copier, "run_copy", half)
    with pytest.raises(InternalError, match="ValueError: broken"):
        write(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "file" / "new")


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "copier", None)
    with pytest.raises(MissingExtraError) as caught:
        write(tmp_path / "deep" / "new")
    assert "fslm-core[new]" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_files_can_be_written_whatever_the_templates_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    templates = tmp_path / "templates"
    shutil.copytree(TEMPLATES, templates)
    for path in templates.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(project, "TEMPLATES", templates)
    write(tmp_path / "new")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {0o755, 0o644}
    for path in templates.rglob("*"):
        os.chmod(path, 0o755)


def test_the_range_of_the_core_ends_where_it_may_break(monkeypatch: pytest.MonkeyPatch) -> None:
    from fslm_core.scaffold import answers

    for now, expected in (("0.1.0", ">=0.1,<0.2"), ("0.9.3.dev1", ">=0.9,<0.10"), ("2.4.1", ">=2.4,<3")):
        monkeypatch.setattr(answers, "version", lambda name, now=now: now)
        assert core_range() == expected


def test_data_as_source() -> None:
    assert literal({"a": "x", "b": [1, None, True], "c": {}, "d": []}) == (
        '{\n    "a": "x",\n    "b": [1, None, True],\n    "c": {},\n    "d": [],\n}'
    )
    assert literal(["x" * 50, "y" * 50]) == f'[\n    "{"x" * 50}",\n    "{"y" * 50}",\n]'
