"""Make the rows that the adapters and the controls are trained on and chosen by.

    python prepare.py --data DIR --out DIR

reads the training parts of ``arc``, ``rationales`` (ECQA, QASC) and ``strategyqa`` below DIR and writes
``KIND.train.jsonl`` and ``KIND.select.jsonl`` for the four stages and the two controls, and
``questions.select.jsonl``: whole held-back questions with their gold facts. Rows are
``{"input": {...}, "output": {...}}``. Of ``arc``'s development rows and of ``tinybenchmarks`` and ``mmlu`` only the
questions are read, so that training questions nearly the same are left out. The same input gives the same files, byte
for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from alike import families, near_pairs
from keywords import KeyWords
from sources import Item, items, read, with_families

SEED = 8
Row = dict[str, Any]
KINDS = ("topic", "facts", "reasoning", "answer", "direct", "whole")
MIX = {"arc": 2700, "qasc": 1100, "ecqa": 1100, "strategyqa": 1100}
"""At most this many questions of each set, before near duplicates and held-back ones are taken away."""


@dataclass(frozen=True)
class Fold:
    """Which questions are held back: part ``part`` of ``parts``, drawn by family, so that no family is torn apart."""

    parts: int = 10
    part: int = 0

    def has(self, item: Item) -> bool:
        return int(hashlib.sha256(f"family {item.family}".encode()).hexdigest(), 16) % self.parts == self.part


def reported(data: Path) -> list[str]:
    """The questions, and no more, of all rows that are only reported on."""
    files = ["arc/easy_dev", "arc/challenge_dev", "tinybenchmarks/tinyArc", "tinybenchmarks/tinyMMLU", "mmlu/dev"]
    return [row["question"] for name in files for row in read(data / f"{name}.jsonl")]


def questions(data: Path) -> tuple[list[Item], Counter[str]]:
    """Training questions, none of them nearly the same as a reported one; and how many were left out, by set."""
    found = items(data)
    leaks = {place for place, _ in near_pairs([item.question for item in found], reported(data))}
    left_out = Counter(found[place].source for place in leaks)
    kept = [item for place, item in enumerate(found) if place not in leaks]
    return with_families(kept, families([item.question for item in kept], [item.facts for item in kept])), left_out


def mixed(found: Iterable[Item]) -> list[Item]:
    """At most so many of each set as :data:`MIX` says, those with facts first, in an order that the seed draws."""
    random = Random(SEED)
    drawn: list[Item] = []
    for source, most in MIX.items():
        own = [item for item in found if item.source == source]
        random.shuffle(own)
        drawn += sorted(own, key=lambda item: not item.facts)[:most]
    random.shuffle(drawn)
    return drawn


def rows_of(item: Item, key_words: KeyWords) -> Iterator[tuple[str, Row]]:
    """The rows that a question gives: of every kind whose gold message is known."""
    facts, concluded = item.told, item.concluded
    topic = key_words(item) if facts else None
    choice = {"choice": item.choices[item.answer]}
    known = {"facts": facts, "reasoning": concluded}
    if topic:
        yield "topic", {"input": item.input, "output": topic}
        yield "facts", {"input": item.input | topic, "output": {"facts": facts}}
    if facts and concluded:
        yield "reasoning", {"input": item.input | {"facts": facts}, "output": {"reasoning": concluded}}
    if facts or not item.facts:
        yield "answer", {"input": item.input | known, "output": choice}
    yield "direct", {"input": item.input, "output": choice}
    nothing = {"topic": None, "words": [], "facts": None, "reasoning": None}
    spoken = (topic or {}) | {name: text for name, text in known.items() if text}
    yield "whole", {"input": item.input, "output": nothing | spoken | choice}


def prepare(data: Path, fold: Fold | None = None) -> tuple[dict[str, list[Row]], Counter[str]]:
    """Every file's rows by its name, and how many near duplicates were left out, by set."""
    found, left_out = questions(data)
    fold = fold or Fold()
    drawn = mixed(found)
    key_words = KeyWords.of([item for item in found if not fold.has(item)])
    files: dict[str, list[Row]] = {f"{kind}.{part}.jsonl": [] for part in ("train", "select") for kind in KINDS}
    files["questions.select.jsonl"] = []
    for item in drawn:
        part = "select" if fold.has(item) else "train"
        for kind, row in rows_of(item, key_words):
            files[f"{kind}.{part}.jsonl"].append(row)
        if part == "select":
            known = {"facts": item.told, "reasoning": item.concluded}
            files["questions.select.jsonl"].append(
                {"input": item.input, "output": {"answer": item.answer}, "source": item.source, **known}
            )
    return files, left_out


def write(path: Path, rows: Iterable[Row]) -> None:
    """A row a line."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds arc, rationales, strategyqa …")
    default = Path(__file__).with_name("rows")
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="where to write (rows/ beside this)")
    given = parser.parse_args()
    files, left_out = prepare(given.data)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write(given.out / name, rows)
        print(f"{name}: {len(rows)} rows")
    print("left out, nearly the same as a reported question:", dict(sorted(left_out.items())))


if __name__ == "__main__":
    main()
