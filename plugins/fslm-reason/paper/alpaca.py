"""Alpaca's own rows as rows of the stack: ``python alpaca.py alpaca_data.json`` writes ``rows/alpaca.jsonl``.

A row that does not fit the stack's models (an instruction over 300 characters, an input or an output over 600, no
output) is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from fslm_paper import Instruction, Response
from pydantic import ValidationError

HERE = Path(__file__).parent


def read(path: Path) -> list[Any]:
    """The rows of a file: one JSON array, as Alpaca is published, or a row a line."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def converted(row: Any) -> dict[str, Any] | str:
    """A row of the stack; or why there is none."""
    try:
        texts = {name: row[name].strip() for name in ("instruction", "input", "output")}
    except (LookupError, TypeError, AttributeError):
        return "no row of Alpaca"
    try:
        given = Instruction(instruction=texts["instruction"], input=texts["input"])
        wanted = Response(response=texts["output"])
    except ValidationError as error:
        problem = error.errors()[0]
        kind = "too long" if problem["type"] == "string_too_long" else "empty"
        return f"{problem['loc'][0]} {kind}"
    return {"input": given.model_dump(), "output": wanted.model_dump()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="alpaca_data.json, or the same as JSON Lines")
    parser.add_argument("--out", type=Path, default=HERE / "rows/alpaca.jsonl")
    parser.add_argument("--rows", type=int, help="draw this many")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        found = [converted(row) for row in read(given.data)]
    except (OSError, ValueError) as error:
        parser.error(f"{given.data} cannot be read: {error}")
    kept = [row for row in found if not isinstance(row, str)]
    if given.rows is not None:
        kept = random.Random(given.seed).sample(kept, min(given.rows, len(kept)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    print(f"{given.out}: {len(kept)} rows of {len(found)}")
    for why, count in Counter(row for row in found if isinstance(row, str)).most_common():
        print(f"left out, {why}: {count}")


if __name__ == "__main__":
    main()
