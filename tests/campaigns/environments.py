"""``fslm`` where the machine says no: locked and damaged traces, full disks, read-only folders, a read-only root.

::

    python -m tests.campaigns.environments --json environments.json
    python -m tests.campaigns.environments --model      # also with the real model and its cache

It needs Linux and root, for it mounts small and read-only file systems, each in a namespace of its own. Every case says
what must come of a command: its exit code, what standard error must say, and what must be true of the files afterwards.
No traceback and no internal error may ever come.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns.household import Household, rows_of, settle, texts, write_rows
from tests.campaigns.kills import require

_HELD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode = " + sys.argv[2])
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE runs SET seed = seed")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass
class Campaign:
    """One machine, and what was tried on it."""

    home: Household
    counts: Counter[str] = field(default_factory=Counter)

    def fslm(self, *arguments: str, mounts: str = "true", code: int, says: str = "", **variables: str) -> str:
        """Run ``fslm`` after ``mounts`` were made; it must end with ``code`` and say ``says``. Returns all it said."""
        command = shlex.join([sys.executable, "-m", "fslm_core", *arguments])
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"set -e; {mounts}; cd {self.home.folder}; exec {command}"],
            env={**self.home.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        what = f"fslm {' '.join(arguments)} after `{mounts}` with {variables}: {done.returncode}\n{done.stderr}"
        require(done.returncode == code, what)
        require(says in done.stderr, f"{says!r} is said by {what}")
        require("Traceback" not in done.stderr and "error[internal]" not in done.stderr, what)
        self.counts["commands"] += 1
        return done.stdout + done.stderr

    def run(self, *, mounts: str = "true", code: int, says: str = "", **variables: str) -> str:
        """One ``fslm run``."""
        return self.fslm("run", self.home.stack, "hello", mounts=mounts, code=code, says=says, **variables)

    def case(self, name: str, tried: Callable[[], None]) -> None:
        """Try one case, from a trace that is whole."""
        shutil.rmtree(self.home.folder / "data", ignore_errors=True)
        self.run(code=0)
        tried()
        self.counts["cases"] += 1
        print(f"ok  {name}", file=sys.stderr)

    def refused(self, says: str, **how: str) -> None:
        """A run fails with the trace's words, or goes on without a trace where the settings say so."""
        self.run(code=4, says=says, **how)
        said = self.run(code=0, says=says, FSLM_TRACE__ON_FAILURE="continue", **how)
        require("no trace is kept" in said or "incomplete" in said, f"what is not kept is told: {said}")

    # -- the trace ----------------------------------------------------------------------------------------------

    def locked(self) -> None:
        with held(self.home.trace, "NORMAL"):
            self.refused("locked")
            self.fslm("trace", "list", code=0)
        with held(self.home.trace, "EXCLUSIVE"):
            self.fslm("trace", "list", code=4, says="locked")
        self.run(code=0)

    def damaged(self) -> None:
        whole = self.home.trace.read_bytes()
        for harm, says in (
            (b"x" * 16 + whole[16:], "not a database"),
            (whole[:5000], "damaged"),
            (whole[:4096] + bytes(4096) + whole[8192:], "damaged"),
            (b"hello", "not a database"),
        ):
            self.home.trace.write_bytes(harm)
            self.refused(says)
            self.fslm("trace", "list", code=4, says=says)
            if says == "not a database":
                require(self.home.trace.read_bytes() == harm, "what is no database is left as it is")

    def newer(self) -> None:
        with closing(sqlite3.connect(self.home.trace)) as connection:
            connection.execute("PRAGMA user_version = 99")
        self.refused("newer fslm")
        self.fslm("trace", "show", code=4, says="newer fslm")

    def read_only(self) -> None:
        data = self.home.folder / "data"
        file = f"mount --bind {self.home.trace} {self.home.trace}; mount -o remount,ro,bind {self.home.trace}"
        folder = f"mount --bind {data} {data}; mount -o remount,ro,bind {data}"
        for mounts in (file, folder):
            self.refused("cannot be", mounts=mounts)
            self.fslm("trace", "list", mounts=mounts, code=0)
            self.fslm("trace", "show", mounts=mounts, code=0)

    def full(self) -> None:
        """A disk with a little room left, with none, and the key of a redacting trace on it."""
        data = self.home.folder / "data"
        small = f"mount -t tmpfs -o size=64k none {data}"
        none = f"{small}; (dd if=/dev/zero of={data}/fill bs=4k || true) 2>/dev/null"
        for mounts in (small, none):
            self.refused("full", mounts=mounts)
        self.run(code=4, says="full", mounts=none, FSLM_TRACE__CONTENT="redacted")

    # -- a batch ------------------------------------------------------------------------------------------------

    def batch_on_a_full_disk(self) -> None:
        """The output's disk, then the trace's; each is given room, and the batch goes on."""
        rows = self.home.folder / "in.jsonl"
        write_rows(rows, [f"{text} {'x' * 150}" for text in texts("tool", 2000) if "fail" not in text], broken=False)
        expected = len(rows.read_text("utf-8").splitlines())
        for folder, size in (("disk", "256k"), ("data", "700k")):
            place = self.home.folder / folder
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
            try:
                out = (place if folder == "disk" else self.home.folder) / f"full-{folder}.jsonl"
                batch = ("batch", self.home.stack, str(rows), "--out", str(out))
                self.fslm(*batch, code=4, says="full" if folder == "data" else "No space left on device")
                written = rows_of(out)
                require(0 < len(written) < expected, f"the disk was full half way: {len(written)} rows")
                require(all("output" in row for row in written), "no row is blamed for the disk")
                require(out.read_bytes().endswith(b"\n"), "no row is written by half")
                self.fslm(*batch, "--resume", code=4)
                subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
                self.fslm(*batch, "--resume", code=0)
                require([row["row"] for row in rows_of(out)] == list(range(expected)), "every row is there once")
                require(rows_of(out)[: len(written)] == written, "rows that were written stay")
                require(not list(out.parent.glob(f"{out.name}?*")), "nothing is left beside it")
            finally:
                subprocess.run(["umount", place], check=True)

    def batch_where_nothing_may_be_written(self) -> None:
        rows = self.home.folder / "few.jsonl"
        write_rows(rows, texts("tool", 3), broken=False)
        place = self.home.folder / "closed"
        place.mkdir(exist_ok=True)
        mounts = f"mount --bind {place} {place}; mount -o remount,ro,bind {place}"
        self.fslm(
            "batch", "campaign", str(rows), "--out", str(place / "out.jsonl"), mounts=mounts, code=4, says="cannot be"
        )
        (place / "out.jsonl").write_text("mine\n")
        for flag in ("--force", "--resume"):
            self.fslm("batch", "campaign", str(rows), "--out", str(place / "out.jsonl"), flag, mounts=mounts, code=4)
        require((place / "out.jsonl").read_text() == "mine\n", "the file is as it was")
        missing = str(place / "no" / "out.jsonl")
        self.fslm("batch", "campaign", str(rows), "--out", missing, code=4, says="No such file")

    # -- the whole machine --------------------------------------------------------------------------------------

    def read_only_root(self) -> None:
        """Nothing can be written anywhere, not even a temporary file."""
        mounts = "mount -o remount,ro,bind /"
        write_rows(self.home.folder / "few.jsonl", texts("tool", 3), broken=False)
        self.refused("cannot be", mounts=mounts)
        for arguments in (("list",), ("check", "campaign"), ("plugins",), ("doctor",), ("trace", "list"), ("--help",)):
            self.fslm(*arguments, mounts=mounts, code=0)
        self.fslm("batch", "campaign", "few.jsonl", "--estimate", mounts=mounts, code=0)
        self.fslm("batch", "campaign", "few.jsonl", "--out", "out.jsonl", mounts=mounts, code=4, says="cannot be")
        self.fslm("plugins", "disable", "campaign", mounts=mounts, code=2, says="cannot be")
        self.run(code=0, FSLM_TRACE__ON_FAILURE="continue", HOME="/nowhere", mounts=mounts, says="no trace is kept")
        self.run(code=0, mounts=f"{mounts}; mount -t tmpfs none /mnt", FSLM_DATA_DIR="/mnt")

    def damaged_key(self) -> None:
        self.run(code=0, FSLM_TRACE__CONTENT="redacted")
        key = Path(f"{self.home.trace}.key")
        key.write_bytes(b"short")
        self.run(code=4, says="key is damaged", FSLM_TRACE__CONTENT="redacted")
        require(key.read_bytes() == b"short", "a damaged key is left as it is")

    # -- checkpoints --------------------------------------------------------------------------------------------

    def cache(self) -> None:
        """A cache on a disk that is too small, then with room; a read-only one that has the model."""
        found = self.fslm("models", "path", "smollm2-135m", code=0).strip()
        pull = ("models", "pull", "smollm2-135m", "--from", found)
        place = self.home.folder / "cache"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", place], check=True)
        try:
            self.fslm(*pull, code=4, says="No space left", FSLM_CACHE_DIR=str(place))
            left = [path for path in place.rglob("*") if path.is_file() and path.stat().st_size]
            require(not left, f"nothing is left of what did not fit: {left}")
            subprocess.run(["mount", "-o", "remount,size=400m", place], check=True)
            self.fslm(*pull, code=0, FSLM_CACHE_DIR=str(place))
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            self.fslm(*pull, code=0, FSLM_CACHE_DIR=str(place))
            self.fslm("models", "list", code=0, FSLM_CACHE_DIR=str(place))
        finally:
            subprocess.run(["umount", place], check=True)

    def model_on_a_read_only_root(self) -> None:
        """With the model in the cache, a run needs to write nothing but its trace.

        Temporary files have a place here, as in most containers: libraries that torch loads where they are installed
        (dill is one) ask for it, though fslm does not.
        """
        mounts = "mount -o remount,ro,bind /; mount -t tmpfs none /mnt"
        self.run(code=0, mounts=mounts, TMPDIR="/mnt", FSLM_DATA_DIR="/mnt")
        self.run(code=0, mounts=mounts, TMPDIR="/mnt", FSLM_TRACE__ON_FAILURE="continue", says="no trace")


@contextmanager
def held(trace: Path, mode: str) -> Iterator[None]:
    """Another process holds the database's lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HELD, str(trace), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        holder.communicate()


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true", help="also what needs the real model")
    parser.add_argument("--only", metavar="CASE", help="one case")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts there")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    names = ["locked", "damaged", "newer", "read_only", "full", "damaged_key", "batch_on_a_full_disk"]
    names += ["batch_where_nothing_may_be_written", "read_only_root"]
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(settle(Path(folder), "tool"))
        for name in [chosen.only] if chosen.only else names:
            if hasattr(campaign, name):
                campaign.case(name, getattr(campaign, name))
        if chosen.model:
            campaign.case("cache", campaign.cache)
            (Path(folder) / "model").mkdir()
            campaign.home = settle(Path(folder) / "model", "support")
            campaign.case("model_on_a_read_only_root", campaign.model_on_a_read_only_root)
    record: dict[str, Any] = {**dict(sorted(campaign.counts.items())), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(record, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
