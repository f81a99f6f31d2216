"""The documentation's examples are run, so that they cannot rot.

In a page, blocks marked ``python`` run in order, in one namespace, and print what a block of ``text`` right below them
says; blocks with a ``title`` are written to that file first, below an empty folder in which the page runs; those marked
``py``, and those with relative imports, are only compiled. A project's tests run on its wheel. A block of ``console``
shows commands: what the documentation says ``fslm`` prints on standard output is what it prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(?P<language>[\w-]+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.M | re.S)
NEEDS_TORCH = {
    "abstain.md",
    "documents.md",
    "evaluate.md",
    "first-tool.md",
    "lm-eval.md",
    "tour.md",
    "training.md",
    "README.md",
}
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is (if any), its text, and the line it stands on."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["title"], found["text"], source.count("\n", 0, found.start("text")))
        for found in FENCE.finditer(source)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=str(p.relative_to(ROOT)), marks=[pytest.mark.torch] * (p.name in NEEDS_TORCH)) for p in PAGES],
)
def test_python_examples_run(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.language in ("py", "python"):
            code = compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True)
            if block.language == "python" and block.title is None and "\nfrom ." not in block.text:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(code, namespace)
                if (said := said_after(page, block)) is not None and printed.getvalue():
                    assert printed.getvalue() == said
    if (folder / "tests").is_dir():
        check_the_project_of(folder)


def said_after(page: Path, block: Block) -> str | None:
    """The text that stands right below a block: what the page says that it prints."""
    below = block.line + block.text.count("\n") + 3
    return next((b.text for b in blocks(page) if b.language in ("text", "mermaid") and b.line == below), None)


def check_the_project_of(folder: Path) -> None:
    """Run a page's tests on its project, installed from its wheel; what the kit keeps is written first."""
    where = "src"
    if (folder / "pyproject.toml").exists():
        where = "site"
        install = ["--quiet", "--no-deps", "--no-build-isolation", "--target", where, "."]
        succeeds(folder, sys.executable, "-m", "pip", "install", *install)
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-m", "not fslm_weights", "tests"]
    if (folder / "tests/conftest.py").exists():
        succeeds(folder, *pytest_, "--fslm-update", PYTHONPATH=where)
    succeeds(folder, *pytest_, PYTHONPATH=where)


def succeeds(folder: Path, *command: str, **variables: str) -> None:
    env = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> list[Any]:
    """Every ``$ fslm …`` of the documentation with the JSON it is said to print, once."""
    found: dict[tuple[str, str], str] = {}
    for page in PAGES:
        for block in blocks(page):
            for shown in re.split(r"^\$ ", block.text, flags=re.M)[1:] if block.language == "console" else ():
                command, _, output = shown.replace("\\\n", " ").partition("\n")
                said = re.match(r"\{\n.*?\n\}", output, re.S)
                if command.startswith("fslm ") and said:
                    found.setdefault((command, said[0]), f"{page.relative_to(ROOT)}: {command}")
    return [pytest.param(command, json.loads(said), id=name) for (command, said), name in found.items()]


@pytest.mark.torch
@pytest.mark.parametrize(("command", "said"), commands())
def test_commands_print_what_the_page_says(command: str, said: object, folder: Path) -> None:
    call = "import sys; from fslm_core.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", call, *shlex.split(command)[1:]], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == said


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    assert listed == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.torch
def test_the_recipes_of_the_training_guide_are_some(folder: Path) -> None:
    from fslm_core.train import load_recipe

    found = [b for b in blocks(DOCS / "training.md") if b.title and b.title.endswith(".toml")]
    assert len(found) == 2
    for block in found:
        path = folder / "recipe.toml"
        path.write_text(block.text, encoding="utf-8")
        assert load_recipe(path).stage == "reviews.opinion"
