"""kill -9 of processes that share sessions: every turn that was told is there, once, and in its order.

::

    python -m tests.campaigns.sessions --kills 100 --json sessions.json

Several processes take turns of the same few sessions, nearly as fast as they can and without knowing of each other;
each turn appends its own name, and runs again where another's came in between. At random moments one of them is killed
and another takes its place. In the end

- the integrity check of the session store says ok, and it opens as ever;
- every turn that was told as a success is in its session exactly once, and those of one process in their order;
- nothing else is there, but for at most one turn for each process that was killed: the one it was about to tell;
- the number of turns that a session counts is the number that it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fslm_core.errors import RunFailed, SessionConflict
from fslm_core.settings import load
from fslm_core.store import Sessions
from tests.campaigns.kills import require

ROOT = Path(__file__).parents[2]


def talk(folder: str, name: str, sessions: int) -> None:
    """Take turns until killed, or told to end by a line on standard input; each turn that succeeded is printed."""
    from tests.unit.talking import engine_of
    from tests.unit.talking import talk as stack

    ended = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    with engine_of(load(files=(), data_dir=folder), trace=False) as engine:
        count = 0
        while not ended.is_set():
            session, text = f"s{count % sessions}", f"{name}.{count}"
            try:
                engine.run(stack, {"text": text}, session=session)
            except RunFailed as failed:
                if not isinstance(failed.error, SessionConflict):
                    raise
                print("conflict", flush=True)
            else:
                print(session, text, flush=True)
                count += 1
                ended.wait(0.001)  # one that is always first leaves the others nothing but conflicts


@dataclass
class Talker:
    """One process, and what it told."""

    process: subprocess.Popen[str]
    told: list[tuple[str, str]] = field(default_factory=list)
    conflicts: int = 0
    killed: bool = False

    def listen(self) -> None:
        """Read what it tells, to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n") and line != "conflict\n":
                session, text = line.split()
                self.told.append((session, text))
            self.conflicts += line == "conflict\n"

    def end(self, how: signal.Signals | None) -> None:
        """Kill it, or let it end; then everything it told is known."""
        assert self.process.stdin is not None
        if how is not None:
            self.killed = True
            self.process.send_signal(how)
        else:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.reader.join()
        code = self.process.wait()
        self.process.stdin.close()
        require(self.killed or code == 0, f"a process that is not killed ends well: {code}")

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self.listen)
        self.reader.start()


@dataclass
class Campaign:
    """The processes, and the sessions they share."""

    folder: Path
    talkers: int
    sessions: int
    chance: random.Random
    at_work: list[Talker] = field(default_factory=list)
    ended: list[Talker] = field(default_factory=list)

    def go(self, kills: int, pause: float) -> dict[str, Any]:
        """Kill so many of them, ``pause`` seconds apart on average; return the counts.

        Raises:
            Broken: a promise was not kept.
        """
        while len(self.at_work) < self.talkers:
            self._start()
        for _ in range(kills):
            self._until_all_have_told()
            time.sleep(self.chance.uniform(0, 2 * pause))
            victim = self.at_work.pop(self.chance.randrange(self.talkers))
            victim.end(signal.SIGKILL)
            self.ended.append(victim)
            self._start()
        self._until_all_have_told()
        while self.at_work:
            talker = self.at_work.pop()
            talker.end(None)
            self.ended.append(talker)
        return self._counts()

    def _start(self) -> None:
        name = f"p{len(self.ended) + len(self.at_work)}"
        command = [sys.executable, "-m", "tests.campaigns.sessions", "--talk", str(self.folder), name]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [*command, str(self.sessions)],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.at_work.append(Talker(process))

    def _until_all_have_told(self) -> None:
        deadline = time.monotonic() + 120
        while not all(talker.told for talker in self.at_work):
            require(time.monotonic() < deadline, "every process takes a turn within two minutes")
            time.sleep(0.01)

    def _counts(self) -> dict[str, Any]:
        path = self.folder / "sessions.db"
        with closing(sqlite3.connect(path)) as raw:
            require(raw.execute("PRAGMA integrity_check").fetchone() == ("ok",), "the store is whole")
        told = [turn for talker in self.ended for turn in talker.told]
        with Sessions.open(path) as store:
            kept = {one.id: one for one in store.list()}
        there = [(id, text) for id, one in kept.items() for text in one.state["turns"]]
        for id, one in kept.items():
            require(one.version == len(one.state["turns"]), f"session {id} counts its turns")
        require(max(Counter(there).values()) == 1, "no turn is there twice")
        require(not set(told) - set(there), "every turn that was told is there")
        untold = set(there) - set(told)
        killed = sum(talker.killed for talker in self.ended)
        require(
            max(Counter(text.partition(".")[0] for _, text in untold).values(), default=0) <= 1,
            "a process that is killed leaves at most the one turn that it was about to tell",
        )
        for id, one in kept.items():
            for talker in self.ended:
                mine = [text for session, text in talker.told if session == id]
                require([t for t in one.state["turns"] if t in set(mine)] == mine, "a process's turns keep their order")
        conflicts = sum(talker.conflicts for talker in self.ended)
        return {
            "processes": len(self.ended),
            "killed": killed,
            "sessions": len(kept),
            "turns told": len(told),
            "turns there that were never told": len(untold),
            "conflicts told": conflicts,
        }


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--talkers", type=int, default=3, help="processes at once")
    parser.add_argument("--sessions", type=int, default=2, help="sessions that they share")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts there")
    parser.add_argument("--talk", nargs=3, metavar=("FOLDER", "NAME", "SESSIONS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.talk:
        folder, name, sessions = chosen.talk
        talk(folder, name, int(sessions))
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), chosen.talkers, chosen.sessions, random.Random(chosen.seed))
        try:
            record = campaign.go(chosen.kills, chosen.pause)
        finally:
            for talker in campaign.at_work:  # after a promise that was not kept: nobody would end them
                talker.process.kill()
    record["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(record, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
