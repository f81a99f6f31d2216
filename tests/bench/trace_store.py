"""How fast is a trace of a million messages: listed, shown, searched, and written to?

    python -m tests.bench.trace_store --messages 1000000 --store DIR --json trace-store.json

A store is made of scripted runs of four messages (an input, a label, a reply, and the output that equals it), in three
stacks, one run in fifty failed. The rows are those that a recorder writes, made by the same code, but committed in
large groups. Every question is asked of a store that is open, again and again with other words and runs, and the median
and the slowest are told; a question counts as fast where its median is under 200 ms. Then runs are recorded into the
same store by as many clients at once as are named, each event by event through the recorder, and the runs a second are
counted that were on the disk when their client went on. A store that is there already is used as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fslm_core.events import Event, MessageEmitted, RunFinished, RunStarted
from fslm_core.explain.stats import Stats, stats
from fslm_core.message import Attempt, Message, Origin, TokenTrace, Usage, node_id
from fslm_core.prompt import Template
from fslm_core.schema import content_id
from fslm_core.store import TraceStore
from fslm_core.store.database import connect, transaction
from fslm_core.store.encode import Encoder
from fslm_core.store.owner import this_writer
from fslm_core.store.words import catch_up

MESSAGES_OF_A_RUN = 4
LIMIT = 0.2
"""Seconds."""
STACKS = ("support", "notes", "post")
GROUP = 2_000
"""Runs in a commit while the store is made."""
FIRST_MOMENT = 1_700_000_000.0
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TEMPLATE = Template("Answer the letter: {{ text }}")
Json = dict[str, Any]


class Letter(BaseModel):
    """What a run is given."""

    text: str


class Label(BaseModel):
    """What its first step says."""

    label: str
    urgent: bool


class Reply(BaseModel):
    """What its second step says."""

    reply: str


_LABEL = Origin("post.label", "fslm-post", "1", "scripted", "scripted", True, "f" * 64, Letter, Label)
_REPLY = Origin("post.reply", "fslm-post", "1", "scripted", "scripted", True, "e" * 64, Letter, Reply)


class Script:
    """Runs that say what people write about: few words often, most of them seldom, some once in a long while."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.words = [self._word() for _ in range(30_000)]
        self._weights = [1 / (place + 1) for place in range(len(self.words))]
        self.common = self.words[0]

    def _word(self) -> str:
        return "".join(self._chance.choice("bdfgklmnprstvz") + self._chance.choice("aeiou") for _ in range(4))

    def _text(self, count: int) -> str:
        return " ".join(self._chance.choices(self.words, self._weights, k=count))

    def texts(self, count: int) -> list[str]:
        """Texts of twenty-five words."""
        drawn = self._chance.choices(self.words, self._weights, k=25 * count)
        return [" ".join(drawn[25 * place : 25 * place + 25]) for place in range(count)]

    def runs(self, first: int, count: int) -> Iterator[list[Event]]:
        """The events of runs, numbered from ``first``."""
        for number, text in zip(range(first, first + count), self.texts(count), strict=True):
            yield list(self._events(number, text))

    def _events(self, number: int, text: str) -> Iterator[Event]:
        run, stack, at = name_of(number), STACKS[number % 3], FIRST_MOMENT + number
        only = f" only{stack}" if number % 2 else ""
        letter = Letter(text=f"{text}{only} rare{number // 5}")
        label = Label(label=("refund", "parcel", "other")[number % 7 % 3], urgent=number % 11 == 0)
        reply = Reply(reply=f"Dear {text[:60]}, we have read your letter of {number}.")
        yield RunStarted(
            run, stack, _message(run, "input", letter), number, at, "scripted", {"label": "f", "reply": "e"}
        )
        for step, content, origin in (("label", label, _LABEL), ("reply", reply, _REPLY)):
            raw = content.model_dump_json()
            tokens = tuple(range(len(raw) // 4))
            trace = TokenTrace(
                tokens, tuple("abcd" for _ in tokens), tuple(-0.25 for _ in tokens), (False,) * len(tokens)
            )
            usage = Usage(prompt=60, output=len(tokens), forwards=len(tokens), seconds=0.01)
            tried = Attempt(0, _TEMPLATE.render({"text": letter.text}), raw, usage=usage, tokens=trace)
            parents = (node_id(run, "input"),)
            sent = _message(
                run, step, content, attempts=(tried,), origin=origin, parents=parents, usage=usage, started=at + 0.01
            )
            yield MessageEmitted(run, sent)
        status = "failed" if number % 50 == 0 else "succeeded"
        yield RunFinished(run, stack, status, at + 0.5, 0.5, _message(run, "output", reply))


def name_of(number: int) -> str:
    """An id as runs have it: its beginning tells the time."""
    letters = []
    for _ in range(16):
        number, place = divmod(number, 32)
        letters.append(_ALPHABET[place])
    return "01HF0" + "".join(reversed(letters)) + "WXYZ0"


def _message(run: str, step: str, content: BaseModel, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id(run, step), content_id(content), **rest)


def make(path: Path, script: Script, runs: int) -> float:
    """Write that many runs into the store and index them; return the seconds that it took."""
    began = time.perf_counter()
    TraceStore.open(path).close()
    encoder = Encoder("full", None, engine="bench", owner=this_writer())
    with closing(connect(path, readonly=False)) as connection:
        for first in range(0, runs, GROUP):
            with transaction(connection):
                for events in script.runs(first, min(GROUP, runs - first)):
                    for event in events:
                        for sql, values in encoder.encode(event):
                            connection.execute(sql, values)
            while catch_up(connection, runs=GROUP):
                pass
            print(f"\r{first + GROUP:,} of {runs:,} runs, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return time.perf_counter() - began


def questions(store: TraceStore, script: Script, runs: int, chance: random.Random) -> dict[str, Callable[[], Any]]:
    """What is asked, by name; each call asks of something else."""

    def some() -> int:
        return chance.randrange(runs)

    def rare() -> str:
        return f"rare{some() // 5}"

    early = FIRST_MOMENT + runs / 2
    return {
        "list": lambda: store.runs(20),
        "list, of a stack and failed": lambda: store.runs(20, stack=chance.choice(STACKS), status="failed"),
        "list, interrupted (none)": lambda: store.runs(20, status="interrupted"),
        "show, the last": lambda: store.run("last"),
        "show, by its id": lambda: store.run(name_of(some())),
        "show, by the beginning of its id": lambda: store.run(name_of(some())[:21].lower()),
        "search, a rare word": lambda: store.search(rare()),
        "search, a word in most messages": lambda: store.search(script.common),
        "search, a word in every reply": lambda: store.search("read your letter"),
        "search, a phrase in every reply": lambda: store.search('"read your letter"'),
        "search, common, stack and step": lambda: store.search(script.common, stack="notes", step="input"),
        "search, common, failed runs": lambda: store.search(script.common, status="failed"),
        "search, common, since the middle": lambda: store.search(script.common, since=early),
        "search, two words in half the inputs": lambda: store.search(f"{script.common} {script.words[1]}"),
        "search, common, never in that stack": lambda: store.search("onlysupport", stack="notes"),
        "search, common, never of that status": lambda: store.search("onlysupport", status="review"),
        "search, common, never of a common status": lambda: store.search("onlysupport", status="failed"),
        "search, common and never together": lambda: store.search("onlysupport onlynotes"),
    }


def day_of(store: TraceStore) -> Stats:
    """What the runs of a stack come to in one day, a third of all runs that began in it."""
    return stats(store, STACKS[0], since=FIRST_MOMENT, until=FIRST_MOMENT + 86_400)


def counted(path: Path) -> int:
    """The runs in the store, which are numbered from nought."""
    with closing(connect(path, readonly=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def ask(question: Callable[[], Any], times: int) -> Json:
    """The median and the slowest of so many askings, after one that is not counted."""
    question()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        question()
        took.append(time.perf_counter() - began)
    return {"median": statistics.median(took), "slowest": max(took)}


async def record(store: TraceStore, script: Script, first: int, runs: int, clients: int) -> Json:
    """Runs recorded a second by so many clients at once."""
    recorder = store.recorder()
    waiting = iter(list(script.runs(first, runs)))
    commits = recorder.commits

    async def client() -> None:
        for events in waiting:
            for event in events:
                await recorder.record(event)

    began, busy = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return {
        "clients": clients,
        "runs": runs,
        "a_second": runs / seconds,
        "cpu_of_a_run": cpu / runs,
        "commits": recorder.commits - commits,
    }


def show(found: Json) -> None:
    """Print the figures for people."""
    print(f"{found['messages']:,} messages in {found['runs']:,} runs, {found['bytes'] / 1e6:,.0f} MB")
    if found["made"] is not None:
        print(f"made and indexed in {found['made']:.0f} s")
    for name, took in found["questions"].items():
        slow = "" if took["median"] < LIMIT else "  SLOW"
        print(f"{name:42}{took['median'] * 1e3:10.1f} ms{took['slowest'] * 1e3:10.1f} ms at most{slow}")
    took = found["stats"]
    print(f"{'stats, a day of a stack':42}{took['median'] * 1e3:10.1f} ms for {took['runs']:,} runs")
    for one in found["recorded"]:
        rate = f"{one['a_second']:,.0f} runs a second"
        print(f"recorded by {one['clients']} clients: {rate}, {one['cpu_of_a_run'] * 1e3:.2f} ms of a core for each")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 if every question is answered in time."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.trace_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, required=True, help="the folder to make the store in")
    parser.add_argument("--times", type=int, default=25, help="how often each question is asked")
    parser.add_argument("--record", type=int, default=4_000, help="runs to record for each number of clients")
    parser.add_argument("--clients", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    script, runs, path = Script(asked.seed), asked.messages // MESSAGES_OF_A_RUN, asked.store / "trace.db"
    made = None if path.exists() else make(path, script, runs)
    found: Json = {"messages": runs * MESSAGES_OF_A_RUN, "runs": runs, "bytes": path.stat().st_size, "made": made}
    with TraceStore.open(path, readonly=True) as store:
        asking = questions(store, script, runs, random.Random(asked.seed))
        found["questions"] = {name: ask(question, asked.times) for name, question in asking.items()}
        runs_of_day = sum(day_of(store).runs.values())
        found["stats"] = {**ask(lambda: day_of(store), 3), "runs": runs_of_day}
    found["recorded"] = []
    with TraceStore.open(path, content="full") as store:
        for clients in asked.clients:
            recorded = record(store, script, counted(path), asked.record, clients)
            found["recorded"].append(asyncio.run(recorded))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(took["median"] < LIMIT for took in found["questions"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
