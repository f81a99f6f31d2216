"""Names and things that made-up questions are about, from ``lexicon.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path


def _lists() -> dict[str, list[str]]:
    texts = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: [part.strip() for part in text.replace("\n", " ").split(",")] for name, text in texts.items()}


LISTS = _lists()
PEOPLE = [*LISTS["boys"], *LISTS["girls"]]
THINGS = LISTS["things"]
PAIRS = [pair.split("/") for pair in LISTS["pairs"]]
"""Two kinds of things that are counted together."""
CONTAINERS = [pair.split("/") for pair in LISTS["containers"]]
"""One, and several."""
