"""Make the rows each stage is trained on, and those the stack is scored by.

    python prepare.py --data DIR --out DIR

reads ``train.jsonl`` and ``dev.jsonl`` of the schema-guided dialogues and writes ``STAGE.train.jsonl`` and
``STAGE.select.jsonl`` for service, facts and summary, ``note.train.jsonl`` (whole notes, for the linear control of
``fslm eval``), and ``dev.jsonl``: the stack's input and the note that would be right. Rows are
``{"input": {...}, "output": {...}}``. The same input gives the same files, byte for byte.

Of the development dialogues those are taken that have 200 to 400 tokens and a summary of 40 to 80, by the base model.
Training ones are shorter, which costs less: 100 to 240 and 30 to 80. A tenth of these, by the hash of the id, is held
back to select by.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from dialogues import Note, notes
from tokenizers import Tokenizer

from fslm_core import checkpoints
from fslm_core.settings import Settings

SEED = 7
Row = dict[str, Any]


def fitting(all_notes: Iterable[Note], text: range, summary: range) -> Iterator[Note]:
    """The notes whose dialogue and written summary have so many tokens."""
    tokenizer = Tokenizer.from_file(str(checkpoints.resolve("smollm2-135m", Settings()).path / "tokenizer.json"))
    for note in all_notes:
        written = json.dumps({"summary": note.summary}, ensure_ascii=False, separators=(",", ":"))
        if count(tokenizer, note.text) in text and count(tokenizer, written) in summary:
            yield note


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def held_back(note: Note) -> bool:
    """Whether a training dialogue is one to select by."""
    return int(hashlib.sha256(note.id.encode()).hexdigest(), 16) % 10 == 0


def service(note: Note) -> Row:
    return {"input": {"text": note.text}, "output": subject(note)}


def facts(note: Note) -> Row:
    return {"input": {"text": note.text}, "output": note.facts}


def summary(note: Note) -> Row:
    return {"input": {"text": note.text, **subject(note), **note.facts}, "output": {"summary": note.summary}}


def whole(note: Note) -> Row:
    return {"input": {"text": note.text}, "output": {**subject(note), **note.facts, "summary": note.summary}}


def subject(note: Note) -> dict[str, str]:
    return {"domain": note.domain, "outcome": note.outcome}


STAGES = {"service": service, "facts": facts, "summary": summary}


def prepare(data: Path) -> Iterator[tuple[str, list[Row]]]:
    """Each file's name and its rows."""
    training = list(fitting(notes(data / "train.jsonl"), range(100, 241), range(30, 81)))
    Random(SEED).shuffle(training)
    select = [note for note in training if held_back(note)]
    train = [note for note in training if not held_back(note)]
    seen = {note.service for note in train}
    for stage, row in STAGES.items():
        yield f"{stage}.train.jsonl", [row(note) for note in train]
        yield f"{stage}.select.jsonl", [row(note) for note in select]
    yield "note.train.jsonl", [whole(note) for note in train]
    yield (
        "dev.jsonl",
        [
            {**whole(note), "id": note.id, "service": "seen" if note.service in seen else "new"}
            for note in fitting(notes(data / "dev.jsonl"), range(200, 401), range(40, 81))
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train.jsonl and dev.jsonl")
    default = Path(__file__).with_name("rows")
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="where to write (rows/ beside this)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in prepare(arguments.data):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        (arguments.out / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
