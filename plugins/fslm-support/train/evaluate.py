"""Write the development rows for ``fslm eval``, and score the one-stage control on them.

    python evaluate.py --bitext DIR --clinc DIR --out dev.jsonl [--support N] [--other N]
    python evaluate.py … --one-stage DIR [--train rows/ticket.train.jsonl]

The stack itself is scored by ``fslm eval support dev.jsonl``. The development rows are opened here alone, and nothing
is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from prepare import OTHER, other, read

FIELDS = ("category", "intent", "entity_type", "entity_value")
TAGS = {"Z": "errors and typos", "Q": "colloquial", "W": "offensive"}


def rows_of(
    bitext: Path, clinc: Path, n_support: int | None = None, n_other: int | None = None
) -> list[dict[str, Any]]:
    """The development rows of bitext_support, and those of clinc150 that are outside support; all, or some of each.

    Their columns say where a row is from, what the data set's tags say of its language, and whether its topic is
    one that clinc150 itself calls out of scope (``oos``).
    """
    asked = [
        {
            "input": {"text": row["text"]},
            "output": {name: row[name] for name in FIELDS},
            "source": "support",
            "tags": [name for sign, name in TAGS.items() if sign in str(row["tags"])],
            "detail": "named" if row["entity_type"] else "none",
        }
        for row in read(bitext / "dev.jsonl")
    ]
    outside = [
        {
            "input": {"text": row.text},
            "output": {"category": OTHER, **dict.fromkeys(FIELDS[1:])},
            "source": "clinc150",
            "topic": "oos" if topic == "oos" else "in scope elsewhere",
        }
        for topic, row in other(clinc / "dev.jsonl")
    ]
    return [*_some(asked, n_support), *_some(outside, n_other)]


def _some(rows: list[dict[str, Any]], n: int | None) -> list[dict[str, Any]]:
    return rows if n is None else Random(0).sample(rows, min(n, len(rows)))


def score_one_stage(rows: Iterable[dict[str, Any]], train: Path | None, out: Path) -> None:
    """Score the control that writes the whole ticket in one stage; its report goes to a folder."""
    from fslm_core.evaluate import evaluate, write_report

    sys.path.insert(0, str(Path(__file__).parent / "control"))
    from one_stage import single

    fitted = None if train is None else map(json.loads, train.read_text("utf-8").splitlines())
    write_report(evaluate(single, rows, train=fitted, by=["source", "tags", "topic", "detail"], content="full"), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitext", type=Path, required=True, metavar="DIR", help="holds bitext_support's dev.jsonl")
    parser.add_argument("--clinc", type=Path, required=True, metavar="DIR", help="holds clinc150's dev.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the rows go")
    parser.add_argument("--support", type=int, metavar="N", help="only N support rows, drawn by a fixed seed")
    parser.add_argument("--other", type=int, metavar="N", help="only N other rows, drawn by a fixed seed")
    parser.add_argument("--one-stage", type=Path, metavar="DIR", help="score the one-stage control, too")
    parser.add_argument("--train", type=Path, metavar="FILE", help="rows for the linear control beside it")
    arguments = parser.parse_args()
    rows = rows_of(arguments.bitext, arguments.clinc, arguments.support, arguments.other)
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    arguments.out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if arguments.one_stage:
        score_one_stage(rows, arguments.train, arguments.one_stage)


if __name__ == "__main__":
    main()
