"""One target in this process, fed until its time is over. Started by the campaign, not by hand."""

from __future__ import annotations

import argparse
import gc
import mmap
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from . import Target
from .taking import mutate


class TooSlow(BaseException):
    """One input took longer than it may."""


class Counter:
    """Counts in a file, so that whoever started the process can read them whatever becomes of it."""

    def __init__(self, folder: Path) -> None:
        file = folder / "counts"
        file.write_bytes(bytes(16))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 16)
        self.inputs = 0

    def one_more(self) -> None:
        """Count an input, and note the memory."""
        self.inputs += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self._shared[:16] = self.inputs.to_bytes(8, "little") + peak.to_bytes(8, "little")


def main() -> None:
    """Run to the end of the time, or to the first defect."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--engine", default="mutation")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--rss", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.engine == "atheris":
        _atheris(asked)
    else:
        _mutations(asked)


def _mutations(asked: argparse.Namespace) -> None:
    from . import targets

    target = targets()[asked.target]
    dice, counter = random.Random(asked.seed), Counter(asked.folder)
    pool = target.seeds()
    resource.setrlimit(resource.RLIMIT_DATA, (asked.rss << 20, asked.rss << 20))
    signal.signal(signal.SIGALRM, _too_slow)
    target.attempt(pool[0])  # what is imported late takes its time
    for seed in pool:
        _try(target, seed, counter, asked)
    end = time.monotonic() + asked.seconds
    while time.monotonic() < end:
        _try(target, mutate(dice.choice(pool), target.words, dice), counter, asked)


def _try(target: Target, data: bytes, counter: Counter, asked: argparse.Namespace) -> None:
    signal.alarm(asked.limit)
    try:
        target.attempt(data)
    except BaseException as error:
        signal.alarm(0)
        kind = {TooSlow: "timeout", MemoryError: "oom"}.get(type(error), "crash")
        (asked.folder / f"{kind}-input").write_bytes(data)
        traceback.print_exc()
        sys.exit(1)
    finally:
        signal.alarm(0)
        counter.one_more()


def _too_slow(*_: object) -> None:
    raise TooSlow


def _atheris(asked: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["fslm_core", "jinja2"]):
        from . import targets

        target = targets()[asked.target]
        seeds = target.seeds()
        for seed in seeds[:1]:
            target.attempt(seed)  # what is imported late is instrumented too
    corpus = asked.folder / "corpus"
    corpus.mkdir()
    for place, seed in enumerate(seeds):
        (corpus / f"{place:04}").write_bytes(seed)
    words = asked.folder / "words"
    lines = ['"' + "".join(f"\\x{b:02x}" for b in word) + '"\n' for word in target.words if word]
    words.write_text("".join(lines), "ascii")
    counter = Counter(asked.folder)

    def attempt(data: bytes) -> None:
        counter.one_more()
        target.attempt(data)
        if counter.inputs % 5000 == 0:
            gc.collect()

    options = {
        "max_total_time": max(1, int(asked.seconds)),
        "timeout": asked.limit,
        "rss_limit_mb": asked.rss,
        "malloc_limit_mb": asked.rss,
        "max_len": max(20_000, *map(len, seeds)),
        "seed": asked.seed,
        "artifact_prefix": f"{asked.folder}/",
        **({"dict": words} if lines else {}),  # an empty one is refused
        "verbosity": 1,
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
