"""What a page at a time needs of the store: outlines, parts of runs, lists and searches that are read on."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from fslm_core import Engine, Map, Run, Stack, settings, tool
from fslm_core.errors import UnknownNameError
from fslm_core.store import TraceStore


class Words(BaseModel):
    words: list[str]


class Word(BaseModel):
    word: str


class Loud(BaseModel):
    loud: str


class Louds(BaseModel):
    louds: list[str]


@tool("hall.loud", version="1", pure=True)
def loud(word: Word) -> Loud:
    return Loud(loud=word.word.upper())


EACH = Map("each", loud, over="words", item="word", into="louds", pick="loud", input=Words, output=Louds)
HALL = Stack("hall", input=Words, output=Louds, steps=[EACH])
YARD = Stack("yard", input=Words, output=Louds, steps=[EACH])


@pytest.fixture
def runs(tmp_path: object) -> list[Run[Louds]]:
    """Five runs of two stacks in a trace of their own."""
    mine = settings.load(files=[], data_dir=tmp_path)
    with Engine(settings=mine, content="full") as engine:
        return [engine.run(stack, {"words": ["to", "be", str(n)]}) for n, stack in enumerate([HALL, YARD] * 2 + [HALL])]


@pytest.fixture
def store(tmp_path: object, runs: list[Run[Louds]]) -> TraceStore:
    return TraceStore.open(f"{tmp_path}/trace.db", readonly=True)


def test_an_outline_names_the_steps_that_the_run_has(store: TraceStore, runs: list[Run[Louds]]) -> None:
    with store:
        outline, whole = store.outline(runs[0].id), store.run(runs[0].id)
    assert outline.row == whole.row and not outline.candidates
    assert [(n.id, n.step, n.status) for n in outline.nodes] == [(n.id, n.step, n.status) for n in whole.nodes]


def test_of_a_run_only_the_named_steps_are_read(store: TraceStore, runs: list[Run[Louds]]) -> None:
    with store:
        whole = store.run(runs[0].id)
        wanted = [node.id for node in whole.nodes[1:3]]
        part = store.run(runs[0].id, nodes=[*reversed(wanted), "no such node", store.run(runs[1].id).nodes[0].id])
        assert store.run(runs[0].id, nodes=[]).nodes == ()
    assert part.nodes == whole.nodes[1:3] and part.input == whole.input


def test_a_list_is_read_on_from_a_run(store: TraceStore, runs: list[Run[Louds]]) -> None:
    newest = [run.id for run in reversed(runs)]
    with store:
        read: list[str] = []
        while page := store.runs(2, before=read[-1] if read else None):
            read += [row.id for row in page]
        assert read == newest
        assert [row.id for row in store.runs(before=newest[0], stack="hall")] == [newest[2], newest[4]]
        with pytest.raises(UnknownNameError):
            store.runs(before="01nothing")


def test_the_stacks_are_named_once(store: TraceStore) -> None:
    with store:
        assert store.stacks() == ("hall", "yard")


def test_a_search_can_end_at_a_moment(store: TraceStore) -> None:
    with store:
        found = store.search("be")
        early = store.search("be", until=found[2].when)
        assert early == [one for one in found if one.when < found[2].when]
        assert store.search("be", until=found[0].when + 1) == found


def test_a_pulse_changes_with_what_is_recorded(tmp_path: object) -> None:
    store: list[TraceStore] = []
    told: list[str | None] = []

    @tool("hall.look", version="1")
    def look(words: Words) -> Loud:
        running = store[0].runs(1)[0].id
        told.append(store[0].pulse(running))
        return Loud(loud=running)

    @tool("hall.twice", version="1")
    def twice(loud: Loud) -> Loud:
        told.append(store[0].pulse(loud.loud))
        return loud

    looking = Stack("looking", input=Words, output=Loud, steps=[look, twice], bind={"loud": "twice.loud"})
    mine = settings.load(files=[], data_dir=tmp_path)
    with Engine(settings=mine, content="full") as engine, TraceStore.open(mine.trace_path) as opened:
        store.append(opened)
        run = engine.run(looking, {"words": []})
        told.append(opened.pulse(run.id))
        assert opened.pulse("gone") is None
    assert told[0] != told[-1] and None not in told  # what lies between is recorded a moment after it happened
