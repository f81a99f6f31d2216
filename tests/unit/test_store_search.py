"""Searching the trace: what was said is found, the newest first, and what was not kept or was forgotten is not."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core.errors import StoreError, UsageError
from fslm_core.events import MessageEmitted, RunFinished, RunStarted
from fslm_core.message import Message, Origin, node_id
from fslm_core.schema import canonical, content_id, schema_id_of
from fslm_core.store import ContentMode, Found, TraceStore, words
from fslm_core.store.database import connect
from fslm_core.store.search import parts_of, snippet_of


class Letter(BaseModel):
    text: str
    sender: str = Field(default="", json_schema_extra={"sensitive": True})
    pages: int = 1


class Answer(BaseModel):
    reply: str


ORIGIN = Origin("post.answer", input=Letter, output=Answer)


def message(run: str, step: str, content: BaseModel) -> Message[Any]:
    return Message(step, content, node_id(run, step), content_id(content), origin=ORIGIN, started=0.0)


def tell(
    store: TraceStore,
    run: str,
    text: str,
    at: float,
    *,
    stack: str = "post",
    status: str = "succeeded",
    reply: str = "Thank you",
    sender: str = "",
    end: bool = True,
) -> None:
    recorder = store.recorder()
    answer = Answer(reply=reply)
    letter = Letter(text=text, sender=sender)
    recorder.record_sync(RunStarted(run, stack, message(run, "input", letter), 0, at))
    recorder.record_sync(MessageEmitted(run, message(run, "answer", answer)))
    if end:
        recorder.record_sync(RunFinished(run, stack, status, at + 1, 1.0, message(run, "output", answer)))


def told(found: list[Found]) -> list[tuple[str, str]]:
    return [(one.run, one.step) for one in found]


def indexed(path: Path) -> set[str]:
    """Every word in the index."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE VIRTUAL TABLE temp.known USING fts5vocab(main, words, 'row')")
    known = {term for (term,) in connection.execute("SELECT term FROM temp.known")}
    connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    connection.close()
    return known


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.db"


@pytest.fixture
def store(path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(path, content="full") as opened:
        yield opened


def test_words_and_phrases_are_found_newest_first_with_a_piece_of_the_text(store: TraceStore) -> None:
    tell(store, "R1", "The kettle is broken and the lid is gone", 100.0)
    tell(store, "R2", "A broken kettle again", 200.0)
    tell(store, "R3", "Nothing of the kind", 300.0, reply="A KÉTTLE, or none")
    assert told(store.search("kettle")) == [("R3", "answer"), ("R2", "input"), ("R1", "input")]
    assert told(store.search("broken kettle")) == [("R2", "input"), ("R1", "input")]
    assert told(store.search('"broken kettle"')) == [("R2", "input")]
    assert told(store.search("thank")) == [("R2", "answer"), ("R1", "answer")]  # not again as the output
    assert store.search("kettles") == store.search("text") == store.search("broken nothing") == []
    (found,) = store.search("lid")
    assert found == Found("R1", "post", "input", "succeeded", 100.0, "The kettle is broken and the lid is gone 1")


def test_what_is_found_can_be_narrowed_by_stack_step_status_and_time(store: TraceStore) -> None:
    for number in range(12):
        status = "failed" if number % 4 == 0 else "succeeded"
        stack = "post" if number % 2 else "mail"
        tell(store, f"R{number:02}", "a word", 100.0 * number, stack=stack, status=status, reply=f"word {number}")
    assert told(store.search("word", step="input", limit=2)) == [("R11", "input"), ("R10", "input")]
    assert [one.run for one in store.search("word", stack="mail", step="answer")] == [
        f"R{number:02}" for number in (10, 8, 6, 4, 2, 0)
    ]
    assert [one.run for one in store.search("word", status="failed", step="input")] == ["R08", "R04", "R00"]
    assert told(store.search("word", since=1100.0)) == [("R11", "answer"), ("R11", "input")]
    assert [one.run for one in store.search("word", status="failed", since=500.0, step="answer")] == ["R08"]
    assert store.search("word", stack="nobody") == store.search("word", status="review") == []
    assert store.search("word", step="answe") == store.search("word", since=float("inf")) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
    | st.lists(
        st.sampled_from(['"', "NEAR(", ")", "AND", "OR", "NOT", "*", "^", "text:", "-", "{a b}:", "x", "\0", "'"])
    ).map(" ".join)
)
def test_no_query_is_taken_for_anything_but_words(store: TraceStore, query: str) -> None:
    if not store.runs():
        tell(store, "R1", "x AND OR NOT NEAR text", 1.0)
    if parts_of(query):
        for status in (None, "succeeded"):
            assert all(one.run == "R1" for one in store.search(query, stack="post", status=status))
    else:
        with pytest.raises(UsageError, match="nothing to search for"):
            store.search(query)


@given(
    text=st.text(st.characters(codec=None, exclude_categories=()), max_size=300), wanted=st.lists(st.text(), max_size=3)
)
def test_a_snippet_is_made_of_any_text(text: str, wanted: list[str]) -> None:
    snippet = snippet_of(text, wanted)
    assert "\n" not in snippet and len(snippet) <= len(text) + 2


def test_a_long_text_is_cut_around_what_was_found() -> None:
    snippet = snippet_of("a " * 300 + "the ﬁne Ünïcorn was here" + " b" * 300, ["unicorn"])
    assert "Ünïcorn" in snippet and len(snippet) < 200 and snippet[0] == snippet[-1] == "…"


def test_a_run_is_found_while_the_recorder_goes_on_and_not_before_it_ended(store: TraceStore) -> None:
    tell(store, "R1", "under way", 1.0, end=False)
    store.recorder().flush()
    assert store.search("way") == [] and store.is_indexed()
    store.recorder().record_sync(RunFinished("R1", "post", "failed", 2.0, 1.0))
    assert told(store.search("way")) == [("R1", "input")]
    with TraceStore.open(store.path, readonly=True) as other:
        assert told(other.search("way")) == [("R1", "input")]


def test_a_run_that_goes_on_after_it_was_given_up_is_found_whole(store: TraceStore) -> None:
    tell(store, "R1", "given up", 1.0, end=False)
    store.recorder().flush()
    store.interrupt(["R1"])
    assert told(store.search("given", status="interrupted")) == [("R1", "input")]
    again = Answer(reply="there after all")
    store.recorder().record_sync(MessageEmitted("R1", message("R1", "more", again)))
    store.recorder().record_sync(RunFinished("R1", "post", "succeeded", 2.0, 1.0))
    assert told(store.search("given")) == [("R1", "input")] and told(store.search("after")) == [("R1", "more")]
    assert store.search("given", status="interrupted") == []
    assert told(store.search("given", status="succeeded")) == [("R1", "input")]
    store.forget(["R1"])
    assert indexed(store.path) == set()


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_nothing_that_a_mode_keeps_out_is_in_the_index(path: Path, mode: ContentMode) -> None:
    with TraceStore.open(path, content=mode) as store:
        tell(store, "R1", "zebedee wrote of roses", 1.0, sender="Zebedee", reply="Dear Zebedee, tulips")
        store.recorder().flush()
        assert store.search("zebedee") == []
        assert store.is_indexed()
    known = indexed(path)
    assert "zebedee" not in known and b"ebedee" not in path.read_bytes()
    assert not known if mode == "none" else "redacted" not in known


def test_none_of_the_words_of_a_forgotten_run_is_in_any_file(path: Path) -> None:
    chance = random.Random(5)
    secret = {f"R{number:03}": f"{chance.getrandbits(80):020x}" for number in range(150)}
    with TraceStore.open(path, content="full") as store:
        for number, (run, word) in enumerate(secret.items()):
            tell(store, run, f"{word} said", float(number))
        store.recorder().flush()
    assert set(secret.values()) <= indexed(path)
    gone = chance.sample(sorted(secret), 75)
    with TraceStore.open(path) as store:
        store.forget(gone)
        assert not any(store.search(secret[run]) for run in gone)
        assert all(told(store.search(word)) == [(run, "input")] for run, word in secret.items() if run not in gone)
        left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(secret[run][:12].encode() in left or secret[run][4:].encode() in left for run in gone)
    assert indexed(path).isdisjoint(secret[run] for run in gone)
    with TraceStore.open(path) as store:
        store.prune(keep=0)
    assert indexed(path) == set()


def test_an_index_whose_words_cannot_be_told_any_more_is_made_anew(store: TraceStore) -> None:
    for number in range(5):
        tell(store, f"R{number}", f"word{number}", float(number))
    assert store.search("word3")
    raw = sqlite3.connect(store.path)
    raw.execute("DELETE FROM contents WHERE json LIKE '%word3%'")
    raw.commit()
    raw.close()
    store.forget(["R3"])
    assert told(store.search("thank")) == [(f"R{number}", "answer") for number in (4, 2, 1, 0)]
    assert store.search("word3") == [] and "word3" not in indexed(store.path)


OLD = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, stack TEXT NOT NULL, status TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, seconds REAL, seed,
    input TEXT, output TEXT, output_parents TEXT, error TEXT,
    engine TEXT NOT NULL, backend TEXT NOT NULL, fingerprints TEXT NOT NULL,
    content TEXT NOT NULL, owner TEXT NOT NULL
);
CREATE INDEX runs_started ON runs (started);
CREATE INDEX runs_stack ON runs (stack, started);
CREATE INDEX runs_running ON runs (id) WHERE status = 'running';
CREATE TABLE nodes (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL, step TEXT NOT NULL, idx INTEGER NOT NULL, attempt INTEGER NOT NULL,
    status TEXT NOT NULL, skipped_by TEXT, parents TEXT NOT NULL,
    stage TEXT, plugin TEXT, version TEXT, model TEXT, backend TEXT, tuned INTEGER, fingerprint TEXT,
    work_key TEXT, content_id TEXT, usage TEXT, confidence TEXT, narrowed TEXT,
    started REAL, seconds REAL{later}
);
CREATE INDEX nodes_run ON nodes (run, seq);
CREATE INDEX nodes_content ON nodes (content_id);
CREATE TABLE attempts (
    node TEXT NOT NULL, idx INTEGER NOT NULL, prompt TEXT, raw TEXT, raw_chars INTEGER NOT NULL,
    problems TEXT NOT NULL, usage TEXT NOT NULL, finish_reason TEXT NOT NULL, truncated INTEGER NOT NULL,
    PRIMARY KEY (node, idx)
) WITHOUT ROWID;
CREATE TABLE contents (
    id TEXT PRIMARY KEY, schema_id TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE blobs (
    node TEXT NOT NULL, idx INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node, idx)
) WITHOUT ROWID;
PRAGMA application_id = 1718840429;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
"""Version 1 as it was first written; `later` are the columns that were added before there was an index."""
LATER = ["", ", compared TEXT", ", compared TEXT, doubt TEXT"]
OLD_FORGET = (
    "CREATE TABLE IF NOT EXISTS forgetting (run TEXT PRIMARY KEY) WITHOUT ROWID",
    "INSERT OR IGNORE INTO forgetting VALUES ('old000')",
)


def old_database(path: Path, later: str, count: int = 150) -> list[str]:
    """A database as an fslm wrote it that knew no index, with runs in it; their ids, the oldest first."""
    raw = sqlite3.connect(path)
    raw.executescript(OLD.format(later=later))
    runs = [f"old{number:03}" for number in range(count)]
    for number, run in enumerate(runs):
        old_run(raw, run, 1000.0 + number, f"letter {number} about kettles")
    raw.commit()
    raw.close()
    return runs


def old_run(raw: sqlite3.Connection, run: str, at: float, text: str) -> None:
    letter, answer = Letter(text=text), Answer(reply=f"we thank {run}")
    for content in (letter, answer):
        kind = type(content)
        values = (content_id(content), schema_id_of(kind), kind.__name__, "full", canonical(content))
        raw.execute("INSERT OR IGNORE INTO contents (id, schema_id, model, kind, json) VALUES (?, ?, ?, ?, ?)", values)
    raw.execute(
        "INSERT INTO runs (id, stack, status, started, ended, seconds, seed, input, output, engine, backend,"
        " fingerprints, content, owner) VALUES (?, 'post', 'succeeded', ?, ?, 1.0, 7, ?, ?, '0.1.0', '', '{}', 'full',"
        " '{}')",
        (run, at, at + 1, content_id(letter), content_id(answer)),
    )
    raw.execute(
        "INSERT INTO nodes (id, run, step, idx, attempt, status, parents, content_id, started, seconds)"
        " VALUES (?, ?, 'answer', 0, 0, 'ok', '[]', ?, ?, 0.5)",
        (f"{run}/answer/0/0", run, content_id(answer), at + 0.5),
    )


@pytest.mark.parametrize("later", LATER, ids=["first", "compared", "doubt"])
def test_a_database_of_every_earlier_fslm_is_read_written_and_searched(path: Path, later: str) -> None:
    runs = old_database(path, later)
    with TraceStore.open(path, readonly=True) as store:
        before = [store.run(run) for run in runs]
        assert [row.id for row in store.runs(limit=999)] == runs[::-1] and before[0].row.parent is None
        assert not store.is_indexed()
        with pytest.raises(StoreError, match="no index for searching yet") as missing:
            store.search("kettles")
        assert "run any stack" in str(missing.value)
    with TraceStore.open(path, content="full") as store:
        assert store.is_indexed()
        tell(store, "new", "a new kettle of kettles", 5000.0)
        assert [store.run(run) for run in runs] == before
        assert [one.run for one in store.search("kettles", limit=999)] == ["new", *runs[::-1]]
        assert [one.run for one in store.search("thank old007")] == ["old007"]
        assert store.search("kettles", since=1149.0)[-1].when == 1149.0
        store.forget(runs[:100])
        assert [one.run for one in store.search("kettles", limit=999)] == ["new", *runs[:99:-1]]
    assert "old007" not in indexed(path) and b"old007" not in path.read_bytes()


def test_an_old_database_is_indexed_a_few_runs_at_a_time(path: Path) -> None:
    runs = old_database(path, LATER[-1])
    connection = connect(path, readonly=False)
    assert words.catch_up(connection) == words.RUNS_AT_ONCE < len(runs)
    other = sqlite3.connect(path, timeout=0)  # between two transactions anybody can write
    with other:
        old_run(other, "between", 2000.0, "written in between")
    other.close()
    connection.close()
    with TraceStore.open(path) as store:
        assert told(store.search("between")) == [("between", "answer"), ("between", "input")]
        assert len(store.search("kettles", limit=999)) == len(runs)


def test_an_older_fslm_can_write_beside_but_is_not_let_forget(path: Path) -> None:
    """It would leave the words in the index."""
    old_database(path, LATER[-1], 3)
    TraceStore.open(path).close()
    raw = sqlite3.connect(path)
    with raw:
        old_run(raw, "later", 9000.0, "by the older one")
    raw.execute(OLD_FORGET[0])
    with pytest.raises(sqlite3.OperationalError, match="2 columns"):
        raw.execute(OLD_FORGET[1])
    raw.close()
    with TraceStore.open(path) as store:
        assert told(store.search('"older one"')) == [("later", "input")]


def test_what_an_older_fslm_could_not_forget_to_its_end_is_completed(path: Path) -> None:
    old_database(path, LATER[-1], 3)
    raw = sqlite3.connect(path)
    with raw:
        for statement in OLD_FORGET:
            raw.execute(statement)
    raw.close()
    with TraceStore.open(path) as store:
        assert store.pending() == 1
        store.forget()
        assert store.pending() == 0


def test_without_full_text_search_runs_are_kept_and_searching_says_what_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for module in ("tables", "words", "search"):
            patch.setattr(f"fslm_core.store.{module}.offers_index", lambda connection: False)
        with TraceStore.open(path, content="full") as store:
            tell(store, "R1", "the kettle", 1.0)
            assert store.run("R1").row.status == "succeeded"
            with pytest.raises(StoreError, match=r"no full-text search \(FTS5\)") as missing:
                store.search("kettle")
            assert "use a Python whose sqlite3 has it" in str(missing.value)
    with TraceStore.open(path, content="full") as store:
        assert told(store.search("kettle")) == [("R1", "input")]
    with monkeypatch.context() as patch:
        patch.setattr("fslm_core.store.forget.offers_index", lambda connection: False)
        with TraceStore.open(path) as store:
            with pytest.raises(StoreError, match="cannot be taken out of the index"):
                store.forget(["R1"])
            assert store.run("R1").input is not None


def test_an_index_that_is_not_ours_is_damage(store: TraceStore) -> None:
    tell(store, "R1", "the kettle", 1.0)
    store.recorder().flush()
    assert store.search("kettle")
    raw = sqlite3.connect(store.path)
    raw.execute("DROP TABLE words")
    raw.execute("CREATE VIRTUAL TABLE words USING fts5(text, place, content='runs')")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match="is damaged"):
        store.search("kettle")
    with pytest.raises(StoreError, match="is damaged"):
        store.forget(["R1"])
