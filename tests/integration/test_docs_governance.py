"""The page on governance, from its first command to its last, in an environment of its own, with pip and real wheels.

A line of a block ``shell-session`` that begins with ``$`` is run by a shell; what stands below it must be printed, line
by line, on standard output or standard error. ``…`` stands for any text in a line, and alone for any lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..throwaway import Throwaway
from ..wheels import tiny_wheel

PAGE = Path(__file__).parents[2] / "docs" / "governance.md"
BLOCK = re.compile(r"^```shell-session\n(.*?)^```$", re.M | re.S)


class Shown(NamedTuple):
    """A command of the page, with what it is said to print and its exit code."""

    command: str
    lines: list[str]
    code: int


def shown() -> list[Shown]:
    found = []
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            code = re.search(r"# exit code (\d+)$", command)
            found.append(Shown(command, lines, int(code[1]) if code else 0))
    return found


def normal(line: str) -> str:
    return " ".join(line.split())


def matches(wanted: list[str], said: list[str]) -> bool:
    """Whether what was said is what is wanted, where ``…`` leaves something out."""
    if not wanted:
        return not any(map(normal, said))
    if wanted[0] == "…":
        return any(matches(wanted[1:], said[at:]) for at in range(len(said) + 1))
    pattern = ".*".join(map(re.escape, normal(wanted[0]).split("…")))
    return bool(said) and re.fullmatch(pattern, normal(said[0])) is not None and matches(wanted[1:], said[1:])


def test_the_comparison_sees_what_differs() -> None:
    assert matches(["a  b", "…", "z…"], ["a b", "more", "zed"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", "…", "z"], ["a", "b"])
    assert not matches([], ["a"])


def test_every_command_prints_what_the_page_says(tmp_path: Path) -> None:
    env = Throwaway(tmp_path / "env", "tiny")
    for version in ("1.0", "2.0"):
        tiny_wheel(env.wheels, version)
    steps = shown()
    assert len(steps) > 15
    for step in steps:
        done = env.run("bash", "-c", step.command)
        said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        assert done.returncode == step.code, f"{step.command}\n{done.stdout}{done.stderr}"
        assert matches(step.lines, said), f"{step.command}\n{done.stdout}{done.stderr}"
