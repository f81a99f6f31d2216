"""The session store: rows, forks, how long they are kept, and files that are full, damaged or something else."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fslm_core.errors import (
    SessionConflict,
    SessionError,
    StoreError,
    UnknownNameError,
)
from fslm_core.store import Sessions, TraceStore

from .talking import open_sessions, put


def test_a_session_that_is_forgotten_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    with Sessions.open(tmp_path / "sessions.db") as store:
        read = put(store, "ann", None)
        store.forget("ann")
        with pytest.raises(SessionConflict, match="or forgotten"):
            put(store, "ann", read)
        again = put(store, "ann", None, run="other")
        assert again.version == read.version
        with pytest.raises(SessionConflict):  # the same version, and yet another session
            put(store, "ann", read)
        assert store.get("ann") == again


def test_a_fork_goes_its_own_way(tmp_path: Path) -> None:
    with open_sessions(tmp_path) as store:
        ann = put(store, "ann", put(store, "ann", None), '{"n":2}')
        fork = store.fork("ann")
        assert (fork.id, fork.parent, fork.version, fork.state) == ("ann.2", "ann@2", 2, {"n": 2})
        put(store, "ann.2", fork, '{"n":3}')
        assert store.get("ann") == ann
        assert store.fork("ann").id == "ann.3" and store.fork("ann", "bob").id == "bob"
        with pytest.raises(SessionError, match="of that id already"):
            store.fork("ann", "bob")
        with pytest.raises(SessionError, match="no id"):
            store.fork("ann", "b b")
        with pytest.raises(UnknownNameError):
            store.fork("nobody")
        assert len(store.fork("a" * 200 if put(store, "a" * 200, None) else "").id) <= 200


def test_they_are_listed_the_one_written_last_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = turn_clock(monkeypatch)
    with open_sessions(tmp_path) as store:
        for id, stack in (("a", "talk"), ("b", "other"), ("c", "talk")):
            clock(1.0)
            put(store, id, None, stack=stack)
        assert [one.id for one in store.list()] == ["c", "b", "a"]
        assert [one.id for one in store.list("talk")] == ["c", "a"]


def turn_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1_800_000_000.0]
    monkeypatch.setattr("fslm_core.store.sessions.time.time", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def test_they_are_forgotten_so_many_days_after_their_last_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = turn_clock(monkeypatch)
    with open_sessions(tmp_path, keep_days=2) as store:
        put(store, "old", None)
        later(86400)
        read = put(store, "new", None)
        later(86400 + 1)
        assert store.find("old") is None and [one.id for one in store.list()] == ["new"]
        assert put(store, "old", None, '{"n":9}', run="again").version == 1  # its id is free again
        later(86400)
        assert store.find("new") is None
        put(store, "new", read)  # a turn that began when it was there still
        later(86400 * 3)
        put(store, "other", None)
        with closing(sqlite3.connect(store.path)) as raw:
            assert raw.execute("SELECT id FROM sessions").fetchall() == [("other",)]
    with open_sessions(tmp_path, keep_days=0) as store:
        later(86400 * 10_000)
        assert store.get("other")


def test_what_is_forgotten_is_in_no_file(tmp_path: Path) -> None:
    with open_sessions(tmp_path) as store:
        read = None
        for n in range(30):
            read = put(store, "ann", read, json.dumps({"text": f"canary-{n}" * 300}))
        put(store, "bob", None, '{"text":"stays"}')
        assert store.forget("ann", "nobody") == ("ann",)
        raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"canary" not in raw and b"stays" in raw
        assert store.forget(stack="other") == () and store.forget(stack="talk") == ("bob",)
        put(store, "bob", None)
        assert store.forget(everything=True) == ("bob",)


def test_what_cannot_be_overwritten_yet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.store.sessions._PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("fslm_core.store.database.BUSY_SECONDS", 0.05)
    with open_sessions(tmp_path) as store:
        put(store, "ann", None)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM sessions").fetchall()
            with pytest.raises(StoreError, match="not overwritten yet"):
                store.forget("ann")
        assert store.find("ann") is None
        assert store.forget() == ()


def test_a_state_has_a_largest_size(tmp_path: Path) -> None:
    with open_sessions(tmp_path) as store, pytest.raises(SessionError, match="too large"):
        put(store, "ann", None, json.dumps({"text": "x" * (16 << 20)}))


def test_a_full_disk_says_so_and_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_sessions(tmp_path) as store:
        read = put(store, "ann", None)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="the disk is full") as error:
            put(store, "ann", read, json.dumps({"text": "x" * 100_000}))
        assert "run without a session" in str(error.value)
        assert store.get("ann") == read


@pytest.mark.parametrize("column", ["state", "version", "updated", "stack"])
def test_what_somebody_changed_in_the_file_is_told_and_not_quoted(tmp_path: Path, column: str) -> None:
    with open_sessions(tmp_path) as store:
        put(store, "ann", None)
        with closing(sqlite3.connect(store.path)) as raw:
            raw.execute(f"UPDATE sessions SET {column} = ?", (b"\xffsecret",))
            raw.commit()
        with pytest.raises(StoreError, match="the session store is damaged") as error:
            store.get("ann")
        assert "secret" not in str(error.value)


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with pytest.raises(StoreError, match="there is no session yet"):
        Sessions.open(path, readonly=True)
    TraceStore.open(path).close()
    with pytest.raises(StoreError, match="but not a session store of fslm"):
        Sessions.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="a folder stands where the session store should be"):
        Sessions.open(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_of_the_process_opens_its_own(tmp_path: Path) -> None:
    with open_sessions(tmp_path) as store:
        put(store, "ann", None)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.get("ann")
            except StoreError as error:
                code = 0 if "opened before a fork" in error.what else 2
                with open_sessions(tmp_path) as own:
                    code = code or own.get("ann").version - 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.get("ann").version == 1
