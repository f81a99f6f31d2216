"""Maps: the items' order whatever ends first, what an item supplies, bounds, items left out, and cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel

from fslm_core import SLM, Engine, Map, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CheckError, DeadlineExceeded, RunFailed, StackError, StageFailedError, ToolError
from fslm_core.events import MessageEmitted, StepSkipped, StepStarted, TextWritten
from fslm_core.message import Message
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.shapes import LeftOut, Skips
from fslm_core.store import TraceStore


class Page(BaseModel):
    lines: list[str]
    title: str = "page"


class Line(BaseModel):
    line: str
    title: str
    position: int


class Note(BaseModel):
    note: str = Field(max_length=60)
    length: int


class Notes(BaseModel):
    notes: list[Note]
    title: str = ""


class Lengths(BaseModel):
    notes: list[int]


@tool("t.note", version="1")
async def note(line: Line) -> Note:
    for _ in range(7 - line.position % 7):  # later items of seven end first
        await asyncio.sleep(0)
    if "boom" in line.line:
        raise ValueError("it broke")
    return Note(note=f"{line.title} {line.position}: {line.line}", length=len(line.line))


def page(step: Any = note, output: type[BaseModel] = Notes, **more: Any) -> Map[Any, Any]:
    arguments = {"over": "lines", "item": "line", "into": "notes", "input": Page, "output": output, **more}
    return Map("notes", step, **arguments)


def stack_of(shape: Map[Any, Any]) -> Stack[Any, Any]:
    bind = {field: f"{shape.name}.{field}" for field in shape.output.model_fields}
    return Stack("t", input=shape.input, output=shape.output, steps=[shape], bind=bind)


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


Opened = Callable[..., Engine]


@pytest.fixture
def opened(plain: Settings) -> Iterator[Opened]:
    """Opens engines without plugins and without a trace, and closes them."""
    engines: list[Engine] = []

    def open_(backend: Any = None, **more: Any) -> Engine:
        more.setdefault("trace", False)
        host = PluginHost(plain, plugins={}, installed=False)
        engine = Engine(settings=plain, host=host, backend=backend or ScriptedBackend(), **more)
        engine.__enter__()
        engines.append(engine)
        return engine

    yield open_
    for engine in engines:
        engine.close()


def failure(engine: Engine, shape: Map[Any, Any], value: Any, **more: Any) -> Any:
    with pytest.raises(RunFailed) as caught:
        engine.run(stack_of(shape), value, **more)
    return caught.value.error


# -- what comes out ----------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(lines=st.lists(st.text(max_size=8), max_size=20), concurrency=st.integers(1, 9))
def test_results_come_in_the_items_order_whatever_ends_first(lines: list[str], concurrency: int) -> None:
    with Engine(trace=False, backend=ScriptedBackend()) as engine:
        run = engine.run(stack_of(page(concurrency=concurrency)), {"lines": lines, "title": "A"})
    assert [n.note for n in run.output.notes] == [f"A {i}: {line}" for i, line in enumerate(lines)]
    assert run.output.title == "A"
    ended = [name for name in run.messages if name != "notes"]
    assert sorted(ended) == sorted(f"notes.note[{i}]" for i in range(len(lines)))
    if concurrency == 1:
        assert ended == [f"notes.note[{i}]" for i in range(len(lines))]


def test_the_parents_are_the_items_messages(opened: Opened) -> None:
    run = opened().run(stack_of(page()), {"lines": ["a", "b"]})
    made = run.messages["notes"]
    assert isinstance(made, Message)
    assert [p.split("/")[1] for p in made.parents] == ["notes.note[0]", "notes.note[1]", "input"]
    item = run.messages["notes.note[1]"]
    assert isinstance(item, Message)
    assert [p.split("/")[1] for p in item.parents] == ["input"]


def test_one_field_of_each_can_be_picked(opened: Opened) -> None:
    assert opened().run(stack_of(page(pick="length", output=Lengths)), {"lines": ["a", "bcd"]}).output.notes == [1, 3]


def test_at_most_so_many_run_at_once(opened: Opened) -> None:
    now, most = 0, 0

    @tool("t.note", version="1")
    async def counted(line: Line) -> Note:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return Note(note="", length=0)

    opened().run(stack_of(page(counted, concurrency=3)), {"lines": ["a"] * 40})
    assert most == 3


def test_an_empty_list_gives_an_empty_list(opened: Opened) -> None:
    run = opened().run(stack_of(page()), {"lines": []})
    assert (run.output.notes, list(run.messages)) == ([], ["notes"])


# -- what an item supplies ---------------------------------------------------------------------------------------------


class Part(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    text: str
    start: int = Field(alias="from")


class Book(BaseModel):
    parts: list[Part]
    text: str = "the whole book"
    question: str = "who?"


class Asked(BaseModel):
    part: Part
    text: str
    start: int
    question: str


class Answer(BaseModel):
    answer: str


class Answers(BaseModel):
    answers: list[str]


@tool("t.ask", version="1")
def ask(asked: Asked) -> Answer:
    assert (asked.part.text, asked.part.start) == (asked.text, asked.start)
    return Answer(answer=f"{asked.question} {asked.text} {asked.start}")


def test_fields_of_an_item_that_is_a_model_are_supplied_by_name_before_those_of_the_input(opened: Opened) -> None:
    shape = Map("m", ask, over="parts", item="part", into="answers", pick="answer", input=Book, output=Answers)
    parts = [{"text": "a", "from": 3}, {"text": "b", "from": 5}]
    assert opened().run(stack_of(shape), {"parts": parts}).output.answers == ["who? a 3", "who? b 5"]


def test_explicit_bindings_choose_the_input(opened: Opened) -> None:
    body = Step(ask, bind={"text": "input.text", "part": "item.part", "start": "item.part.start"})
    shape = Map("m", body, over="parts", item="part", into="answers", pick="answer", input=Book, output=Answers)
    error = failure(opened(), shape, {"parts": [{"text": "a", "from": 3}]})
    assert isinstance(error, ToolError)  # the tool's own assertion: the two differ now


class Row(RootModel[list[int]]):
    pass


class Table(BaseModel):
    rows: tuple[Row, ...]


class OneRow(BaseModel):
    row: Row


class Total(BaseModel):
    total: int


class Totals(BaseModel):
    totals: list[int]


@tool("t.total", version="1")
def total(row: OneRow) -> Total:
    return Total(total=sum(row.row.root))


def test_items_may_be_lists_and_the_list_a_tuple(opened: Opened) -> None:
    shape = Map("m", total, over="rows", item="row", into="totals", pick="total", input=Table, output=Totals)
    assert opened().run(stack_of(shape), {"rows": [[1, 2], [], [3]]}).output.totals == [3, 0, 3]


class Keyed(BaseModel):
    rows: list[dict[str, int]]


class OneKeyed(BaseModel):
    row: dict[str, int]
    position: int


@tool("t.total", version="1")
def keyed(row: OneKeyed) -> Total:
    return Total(total=row.row["position"] + row.position)


def test_a_mapping_is_no_model(opened: Opened) -> None:
    shape = Map("m", keyed, over="rows", item="row", into="totals", pick="total", input=Keyed, output=Totals)
    assert opened().run(stack_of(shape), {"rows": [{"position": 10}, {"position": 20}]}).output.totals == [10, 21]


# -- refused before anything runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"over": "nothing"}, "over names no field of Page"),
        ({"over": "title"}, "over names a field that is no list"),
        ({"into": "title"}, "into names a field that is no list"),
        ({"into": "other"}, "into names no field of Notes"),
        ({"pick": "words"}, "pick names no field of Note"),
        ({"concurrency": 0}, "concurrency is out of range"),
        ({"concurrency": True}, "concurrency is out of range"),
        ({"most": -1}, "most is out of range"),
        ({"item": "position"}, "cannot have this name"),
        ({"item": "two words"}, "cannot have this name"),
        ({"on_error": "ignore"}, "no such policy"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        page(**more)


def test_an_item_may_not_hide_its_own_field() -> None:
    with pytest.raises(StackError, match="cannot have this name"):
        Map("m", ask, over="parts", item="text", into="answers", pick="answer", input=Book, output=Answers)


class Wrong(BaseModel):
    line: int


class Lost(BaseModel):
    words: list[str]


class WrongNotes(BaseModel):
    notes: list[str]


@tool("t.wrong", version="1")
def wrong(line: Wrong) -> Note:
    raise AssertionError


@tool("t.lost", version="1")
def lost(line: Lost) -> Note:
    raise AssertionError


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (page(wrong), "field 'line' wants int, but item.line is str"),
        (page(lost), "nobody supplies field 'words'"),
        (page(output=WrongNotes), r"field 'notes' wants list\[str\]"),
        (page(Step(note, when="item.nothing")), "asks for item.nothing"),
        (page(Step(note, bind={"line": "items.line"})), "suppliers here"),
    ],
)
def test_the_check_follows_items_and_results(shape: Map[Any, Any], said: str) -> None:
    with pytest.raises(CheckError, match=said):
        _ = stack_of(shape).wiring


@pytest.mark.parametrize("name", ["item", "skipped"])
def test_the_names_of_what_it_says_itself_are_taken(name: str) -> None:
    with pytest.raises(StackError, match="itself says something"):
        page(Step(note, name=name))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_longer_list_than_is_let_in_is_an_error_before_any_work(opened: Opened) -> None:
    def never(request: Request) -> str:
        raise AssertionError

    error = failure(opened(ScriptedBackend({"t.slm": never})), page(most=3), {"lines": ["a"] * 4})
    assert isinstance(error, StageFailedError)
    assert "has 4 items, and at most 3" in error.what
    assert error.where == "stack t, step notes"


def test_the_first_item_that_fails_ends_the_map(opened: Opened) -> None:
    error = failure(opened(), page(concurrency=2), {"lines": ["a", "boom", "c", *"defghi"]})
    assert isinstance(error, ToolError)
    assert error.where == "stack t, step notes.note[1]"


@pytest.mark.parametrize("step", [{"on_error": "skip"}, {"step": Step(note, on_error="skip")}])
def test_items_that_fail_are_left_out_and_told(opened: Opened, step: dict[str, Any]) -> None:
    lines = ["a", "boom", "c", "boom"]
    run = opened().run(stack_of(page(**step)), {"lines": lines})
    assert [n.note for n in run.output.notes] == ["page 0: a", "page 2: c"]
    told = run.messages["notes.skipped"]
    assert isinstance(told, Message)
    assert told.content == Skips(count=2, first=[LeftOut(position=1, why="tool"), LeftOut(position=3, why="tool")])


def test_a_condition_filters(opened: Opened) -> None:
    run = opened().run(stack_of(page(Step(note, when="item.line|length > 1"))), {"lines": ["a", "bb", "c"]})
    assert [n.note for n in run.output.notes] == ["page 1: bb"]
    assert run.messages["notes.skipped"].content.first[0].why == "when"  # type: ignore[union-attr]


def test_what_is_told_of_items_left_out_is_bounded(opened: Opened) -> None:
    run = opened().run(stack_of(page(on_error="skip")), {"lines": ["boom"] * 150})
    told = run.messages["notes.skipped"].content  # type: ignore[union-attr]
    assert (run.output.notes, told.count, len(told.first)) == ([], 150, 100)


def test_a_map_that_fails_may_be_skipped_itself(opened: Opened) -> None:
    class Maybe(BaseModel):
        notes: list[Note] | None

    stack = Stack("t", input=Page, output=Maybe, steps=[Step(page(), on_error="skip")])
    assert opened().run(stack, {"lines": ["boom"]}).output.notes is None


def test_maps_within_maps(opened: Opened) -> None:
    class Pages(BaseModel):
        pages: list[Page]

    class All(BaseModel):
        all: list[list[Note]]

    inner = page(on_error="skip")
    outer = Map("all", inner, over="pages", item="page", into="all", pick="notes", input=Pages, output=All)
    run = opened().run(
        Stack("t", input=Pages, output=All, steps=[outer]),
        {"pages": [{"lines": ["a", "boom"]}, {"lines": []}, {"lines": ["b"], "title": "x"}]},
    )
    assert [[n.note for n in notes] for notes in run.output.all] == [["page 0: a"], [], ["x 0: b"]]
    assert {"all.notes[0].note[0]", "all.notes[0].skipped", "all.notes[2].note[0]"} <= set(run.messages)


class Held(BaseModel):
    line: str


@pytest.mark.parametrize("how", ["cancel", "timeout", "sibling"])
def test_nothing_goes_on_when_a_map_is_stopped(opened: Opened, how: str) -> None:
    started, stopped, entered = [], [], threading.Semaphore(0)

    @tool("t.held", version="1")
    async def held(line: Held) -> Note:
        started.append(line.line)
        if line.line == "boom":
            raise ValueError("it broke")
        try:
            entered.release()
            await asyncio.Event().wait()
        finally:
            stopped.append(line.line)
        return Note(note="", length=0)

    engine = opened()
    shape = page(held, concurrency=4)
    lines = [f"{i}" for i in range(50)]

    async def cancelled() -> None:
        task = asyncio.create_task(engine.arun(stack_of(shape), {"lines": lines}))
        for _ in range(4):
            assert await asyncio.to_thread(entered.acquire, timeout=60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if how == "cancel":
        asyncio.run(cancelled())
        engine.close()  # it waits until what was cancelled has ended
    elif how == "timeout":
        assert isinstance(failure(engine, shape, {"lines": lines}, timeout=0.2), DeadlineExceeded)
    else:
        assert isinstance(failure(engine, shape, {"lines": [*lines[:3], "boom", *lines[3:]]}), ToolError)
        started.remove("boom")
    assert len(started) <= 4
    assert sorted(started) == sorted(stopped)


# -- events, traces, size ----------------------------------------------------------------------------------------------

writer: Stage[Any, Any] = Stage(
    "t.slm", input=Line, output=Note, prompt="{{ line }}", model=SLM("smollm2-135m", tuned=True)
)


def test_events_come_as_they_happen_with_paths_and_fields(opened: Opened) -> None:
    backend = ScriptedBackend({"t.slm": lambda r: f'{{"note":"all about {r.prompt.text("user")}","length":12}}'})
    events = list(opened(backend).stream(stack_of(page(Step(writer, name="note"))), {"lines": ["a", "b"]}))
    assert [e.step for e in events if isinstance(e, StepStarted)] == ["notes", "notes.note[0]", "notes.note[1]"]
    assert events.index(next(e for e in events if isinstance(e, TextWritten))) < events.index(
        next(e for e in events if isinstance(e, MessageEmitted))
    )
    second = [e for e in events if isinstance(e, TextWritten) and e.step == "notes.note[1]"]
    assert [e.fields for e in second] == [
        {"note": "all "},
        {"note": "all about "},
        {"note": "all about b", "length": 12},
    ]
    assert second[-1].so_far == '{"note":"all about b","length":12}'
    assert not any(isinstance(e, StepSkipped) for e in events)


def test_a_trace_has_every_item(opened: Opened, plain: Settings) -> None:
    engine = opened(trace=True, content="full")
    run = engine.run(stack_of(page(on_error="skip")), {"lines": ["a", "boom"]})
    engine.close()
    with TraceStore.open(plain.trace_path, readonly=True) as store:
        stored = store.run(run.id)
    nodes: Sequence[Any] = stored.nodes
    assert sorted((n.step, n.status) for n in nodes if n.status != "failed") == [
        ("notes", "ok"),
        ("notes.note[0]", "ok"),
        ("notes.note[1]", "skipped"),
        ("notes.skipped", "ok"),
    ]


class Marked(Page):
    secret: str = Field(json_schema_extra={"sensitive": True})


class MarkedLine(BaseModel):
    line: str
    secret: str


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_nothing_of_an_item_is_kept_where_anything_is_marked(opened: Opened, plain: Settings, content: str) -> None:
    @tool("t.note", version="1")
    def told(line: MarkedLine) -> Note:
        if line.line == "token-b":
            raise ValueError(line.secret + line.line)
        return Note(note=line.line + line.secret, length=0)

    shape = page(told, input=Marked, on_error="skip")
    engine = opened(trace=True, content=content)
    run = engine.run(stack_of(shape), {"lines": ["token-a", "token-b", "token-c"], "secret": "token-x", "title": "t"})
    engine.close()
    assert [n.note for n in run.output.notes] == ["token-atoken-x", "token-ctoken-x"]
    kept = b"".join(file.read_bytes() for file in plain.trace_path.parent.rglob("*") if file.is_file())
    assert run.id.encode() in kept
    assert b"token-" not in kept


@pytest.mark.parametrize("trace", [False, True])
def test_ten_thousand_items_have_their_place(opened: Opened, trace: bool) -> None:
    tasks = 0

    @tool("t.note", version="1")
    async def counted(line: Line) -> Note:
        nonlocal tasks
        tasks = max(tasks, len(asyncio.all_tasks()))
        return Note(note="", length=line.position)

    count = 10_000 if not trace else 1_000
    shape = page(Step(counted, when="input.title == 'page'"), pick="length", output=Lengths)
    run = opened(trace=trace).run(stack_of(shape), {"lines": ["a"] * count})
    assert run.output.notes == list(range(count))
    assert tasks < 30
