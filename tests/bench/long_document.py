"""A document of many contexts through split, map and reduce, on a shipped stage.

    python -m tests.bench.long_document --data DIR [--contexts 10]

``DIR`` holds ``dev.jsonl`` of the schema-guided dialogues. They are written one after another, as a log of calls, until
the log is so many contexts of the base model long; it is cut into chunks, ``notes.service`` says of each what it was
about, and a reduction counts. The chunks know nothing of where a call begins, so the counts are no score.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import psutil
from pydantic import BaseModel

from fslm_core import Engine, Map, Reduce, Split, Stack, tool
from fslm_core.shapes import Chunks, LongText
from fslm_notes import service

CONTEXT = 8192
"""Tokens that SmolLM2-135M reads at most."""
CHUNK = 400


class Counts(BaseModel):
    """How many chunks were about what."""

    counts: dict[str, int]


class Many(BaseModel):
    """One of each chunk, or of each group."""

    parts: list[dict[str, int]]


class Domain(BaseModel):
    """What a chunk was about."""

    domain: str


@tool("log.count", version="1", pure=True)
def count(of: Domain) -> Counts:
    return Counts(counts={of.domain: 1})


@tool("log.add", version="1", pure=True)
def add(group: Many) -> Counts:
    return Counts(counts=dict(sum((Counter(part) for part in group.parts), Counter())))


def log_of(data: Path, tokens: int) -> str:
    """Dialogues one after another, about so many tokens (3.6 characters each)."""
    calls: list[str] = []
    size = 0
    with (data / "dev.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            turns = json.loads(line)["turns"]
            call = "\n".join(f"{'Customer' if t['who'] == 'U' else 'Agent'}: {t['text']}" for t in turns)
            calls.append(call)
            size += len(call)
            if size > 3.6 * tokens:
                break
    return "\n\n".join(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--contexts", type=float, default=10)
    arguments = parser.parse_args()
    text = log_of(arguments.data, int(arguments.contexts * CONTEXT))
    cut = Split("log.split", tokens=CHUNK, overlap=0, base="smollm2-135m")
    one = Stack("log.one", input=LongText, output=Counts, steps=[service, count])
    each = Map("log.each", one, over="chunks", item="chunk", into="parts", pick="counts", input=Chunks, output=Many)
    total = Reduce("log.total", add, over="parts", into="counts", pick="counts", fan=16, input=Many, output=Counts)
    whole = Stack("log", input=LongText, output=Counts, steps=[cut, each, total])
    with Engine(stacks=[whole], trace=False) as engine:
        begun = time.perf_counter()
        run = engine.run(whole, {"text": text})
        seconds = time.perf_counter() - begun
    tokens = sum(chunk.tokens for chunk in run.messages["split"].content.chunks)
    peak = psutil.Process().memory_info().rss >> 20
    print(
        f"{tokens} tokens ({tokens / CONTEXT:.1f} contexts), {len(run.messages)} messages, {seconds:.0f} s, {peak} MiB"
    )
    print(run.output.counts)


if __name__ == "__main__":
    main()
