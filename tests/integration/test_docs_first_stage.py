"""The page "Your first stage", command by command, in an environment of its own, with a tiny model as the base."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from .projects import Place
from .test_docs import DOCS, Block, blocks

pytestmark = pytest.mark.torch

PAGE = DOCS / "first-stage.md"


def shown(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that it is said to print."""
    parts = re.split(r"^\$ ", block.text, flags=re.M)[1:]
    return [(part.partition("\n")[0], part.partition("\n")[2].splitlines()) for part in parts]


def prints(output: str, lines: list[str]) -> None:
    """Every line stands in the output, in this order; ``…`` stands for anything."""
    rest = re.sub(r"[ \t]+", " ", output)
    for line in lines:
        pattern = re.escape(re.sub(r"[ \t]+", " ", line.strip())).replace("…", ".*")
        found = re.search(pattern, rest)
        assert found, f"{line!r} is not printed:\n{output}"
        rest = rest[found.end() :]


def edit(folder: Path, diff: str) -> None:
    """Make the change that a diff shows, in the one file that has its old line."""
    old, new = (re.findall(rf"^\{sign}(.*)$", diff, re.M) for sign in "-+")
    holding = [path for path in folder.rglob("*.py") if old[0] in path.read_text(encoding="utf-8")]
    assert len(holding) == 1, f"{old[0]!r} stands in {holding}"
    text = holding[0].read_text(encoding="utf-8")
    assert text.count(old[0]) == 1
    holding[0].write_text(text.replace(old[0], new[0]), encoding="utf-8")


def test_every_command_of_the_page_works(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    place = Place(tmp_path / "place", "reviews")
    place.use_as_base(tiny_model("llama"))
    place.try_few_examples()
    here = tmp_path / "work"
    here.mkdir()
    done = []
    for block in blocks(PAGE):
        if block.title:
            (here / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            edit(here / "src", block.text) if "SLM" in block.text else edit(here / "tests", block.text)
        elif block.language == "console":
            for command, lines in shown(block):
                words = shlex.split(command)
                done.append(words[0])
                if words[0] == "cd":
                    here = here / words[1]
                    continue
                prints(place.call(*words, cwd=here, PYTEST_ADDOPTS="-p few_examples"), lines)
    assert done.count("fslm") == 10 and done.count("python") == 4
    assert list((here / "dist").glob("*.whl")) and (here / "src/fslm_reviews/mood/adapter/fslm.json").is_file()
    assert (here / "tests/golden/reviews.mood.json").is_file()
