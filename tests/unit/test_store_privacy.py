"""What reaches the disk under ``full``, ``redacted`` and ``none``, read from the bytes of the files themselves."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, computed_field

from fslm_core.errors import FslmError, StageFailedError, StoreError
from fslm_core.events import AttemptFailed, Event, MessageEmitted, RunFinished, RunStarted
from fslm_core.message import Attempt, Message, Origin, Problem, TokenTrace, Usage, node_id
from fslm_core.prompt import REDACTED, Template, variables_of
from fslm_core.schema import canonical, content_id, sensitive_fields
from fslm_core.store import ContentMode, StoredRun, TraceStore
from fslm_core.store.privacy import Key, Secrets, blank

SECRET = "Zebedee Quux"
PHONE = "+44 7700 900123"
SENSITIVE: dict[str, Any] = {"json_schema_extra": {"sensitive": True}}
TEMPLATE = Template("Caller {{ name }} ({{ greeting }}) says {{ text }} about {{ topic }}")


class Topic(Enum):
    BILL = "bill"
    OTHER = "other"


class Call(BaseModel):
    text: str = Field(max_length=500)
    name: str = Field(max_length=50, **SENSITIVE)
    topic: Topic = Topic.BILL

    @computed_field  # type: ignore[prop-decorator]
    @property
    def greeting(self) -> str:
        return "Dear " + self.name.partition(" ")[0]


class Plain(BaseModel):
    """A stage's own input, whose author forgot to mark the name."""

    text: str = Field(max_length=500)
    name: str = Field(max_length=50)
    topic: Topic = Topic.BILL
    greeting: str = "Hello"


class Answer(BaseModel):
    topic: Topic
    who: str = Field(max_length=50)
    phone: str = Field(max_length=50, **SENSITIVE)


CALL = Call(text="my bill is wrong", name=SECRET)
ANSWER = Answer(topic=Topic.BILL, who=SECRET.upper(), phone=PHONE)


def message(step: str, content: BaseModel, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id("R1", step), content_id(content), **rest)


def attempt(given: BaseModel, raw: str, **rest: Any) -> Attempt:
    pieces = tuple(raw[i : i + 4] for i in range(0, len(raw), 4))
    size = len(pieces)
    trace = TokenTrace(tuple(range(700, 700 + size)), pieces, (-0.5,) * size, (True,) * size)
    return Attempt(rest.pop("index", 0), TEMPLATE.render(variables_of(given)), raw, tokens=trace, **rest)


def record(path: Path, mode: ContentMode, *events: Event) -> StoredRun:
    with TraceStore.open(path, content=mode) as store:
        recorder = store.recorder()
        for event in events:
            recorder.record_sync(event)
        recorder.flush()
        return store.run("R1")


def whole_run(given: BaseModel = CALL, model: type[BaseModel] | None = None) -> list[Event]:
    """A run with a failed try that quotes the secret everywhere it can, a good one, and an error that quotes it."""
    origin = Origin("calls.answer", input=model or type(given), output=Answer)
    quoted = Problem("validator", f"{SECRET} has no phone {PHONE}", f"phone.{PHONE}", "calls")
    bad = attempt(given, f'{{"who":"{SECRET}"', problems=(quoted,))
    good = attempt(given, canonical(ANSWER), index=1, usage=Usage(output=9, forced=4))
    error = StageFailedError(
        f"nothing known of {SECRET}", where=f"step answer for {SECRET}", problems=[quoted], hint=PHONE
    )
    narrowed = {"properties": {"who": {"enum": [SECRET, "nobody"]}}}
    answer = message(
        "answer",
        ANSWER,
        attempts=(bad, good),
        origin=origin,
        confidence={"who": 0.5},
        narrowed=narrowed,
        work_key="bare-work-key",
    )
    return [
        RunStarted("R1", "calls", message("input", CALL), 0, 1.0),
        MessageEmitted("R1", answer),
        AttemptFailed("R1", "more", "R1/more/0/0", bad, origin),
        RunFinished("R1", "calls", "failed", 2.0, 1.0, message("output", ANSWER), error),
    ]


def bytes_of(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.iterdir())


def holds(path: Path, *words: str) -> list[str]:
    """Which words stand somewhere in the store's files, whatever their case."""
    found = bytes_of(path).lower()
    return [word for word in words if word.lower().encode() in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.db"


def test_full_keeps_everything_under_its_plain_name(path: Path) -> None:
    run = record(path, "full", *whole_run())
    assert holds(path, SECRET, PHONE) == [SECRET, PHONE]
    assert run.nodes[0].content and run.nodes[0].content.id == content_id(ANSWER)
    assert run.nodes[0].work_key == "bare-work-key"
    assert run.nodes[0].attempts[1].raw == canonical(ANSWER)
    assert not Path(f"{path}.key").exists()


def test_redacted_keeps_all_but_what_is_sensitive(path: Path) -> None:
    run = record(path, "redacted", *whole_run())

    assert holds(path, SECRET, PHONE, "Zebedee", "Quux", "7700", content_id(CALL), content_id(ANSWER)) == []
    assert holds(path, "bare-work-key") == []
    assert run.input and run.input.data == {"text": "my bill is wrong", "name": REDACTED, "topic": "bill"}
    node, failed = run.nodes
    assert node.content and node.content.data == {"topic": "bill", "who": REDACTED, "phone": REDACTED}
    assert node.confidence == {"who": 0.5}
    assert node.narrowed == {"properties": {"who": {"enum": [REDACTED, "nobody"]}}}
    bad, good = node.attempts
    assert good.prompt and "".join(s.text for s in good.prompt.spans) == (
        f"Caller {REDACTED} ({REDACTED}) says my bill is wrong about bill"
    )
    assert (bad.raw, good.raw) == (REDACTED, node.content.json)
    assert bad.problems == (Problem("validator", REDACTED, "phone", "calls"),)
    assert good.usage.forced == 4
    assert good.tokens and good.tokens.tokens == () and good.tokens.texts == ()
    assert good.tokens.logprobs and len(good.tokens.logprobs) == len(good.tokens.forced) > 10
    assert failed.attempts[0].raw == REDACTED
    assert run.row.error == {
        "code": "stage-failed",
        "what": "A step gave no valid message",
        "where": f"step answer for {REDACTED}",
    }


def test_a_name_that_a_later_stage_forgot_to_mark_is_still_found(path: Path) -> None:
    careless = Plain(text=f"it is {SECRET.lower()} again", name=SECRET)
    run = record(path, "redacted", *whole_run(careless, Plain))
    assert holds(path, SECRET, "Zebedee") == []
    prompt = run.nodes[0].attempts[1].prompt
    assert prompt and [s.text for s in prompt.spans if s.field == "text"] == [f"it is {REDACTED} again"]


def test_data_of_a_stage_nobody_knows_is_hidden(path: Path) -> None:
    class Open(BaseModel):
        text: str = Field(max_length=50)

    given = Open(text="whatever this is")
    tried = Attempt(0, Template("Say {{ text }}").render({"text": given.text}), '{"text":"whatever"}')
    unknown = message("say", Open(text="x"), attempts=(tried,))
    known = message("said", Open(text="x"), attempts=(tried,), origin=Origin("s", input=Open, output=Open))
    start = RunStarted("R1", "calls", message("input", Open(text="y")), 0, 1.0)

    run = record(path, "redacted", start, MessageEmitted("R1", unknown))
    assert holds(path, "whatever this is") == []
    assert run.nodes[0].attempts[0].spans is not None

    run = record(path.parent / "known" / "trace.db", "redacted", start, MessageEmitted("R1", known))
    assert run.nodes[0].attempts[0].prompt == tried.prompt  # nothing here is sensitive, so nothing is hidden
    assert run.nodes[0].attempts[0].raw == tried.raw


def test_a_record_whose_run_never_began_is_hidden(path: Path) -> None:
    events = whole_run()
    record(path, "redacted", *events[1:])
    assert holds(path, SECRET, PHONE, "my bill") == []


def test_none_keeps_no_text_at_all(path: Path) -> None:
    run = record(path, "none", *whole_run())

    words = (
        SECRET,
        PHONE,
        "my bill",
        "Caller",
        "says",
        "nobody",
        content_id(CALL),
        content_id(ANSWER),
        "bare-work-key",
    )
    assert holds(path, *words) == []
    assert run.input and run.input.data == {"text": "string[16]", "name": "string[10]", "topic": "string[4]"}
    node, _ = run.nodes
    assert node.confidence == {"who": 0.5}
    _, good = node.attempts
    assert good.raw is None and good.raw_chars == len(canonical(ANSWER)) and good.prompt is None
    assert good.spans and [(s.text, s.static, s.chars) for s in good.spans][:2] == [(None, True, 7), (None, False, 12)]
    assert node.attempts[0].problems == (Problem("validator", "", "phone", "calls"),)
    assert good.tokens and good.tokens.texts == () and good.tokens.logprobs and good.usage.forced == 4
    assert run.row.error == {"code": "stage-failed", "what": "A step gave no valid message"}


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_hashes_are_keyed_by_store(tmp_path: Path, mode: ContentMode) -> None:
    ids = []
    for name in ("a", "b"):
        place = tmp_path / name / "trace.db"
        first = record(place, mode, RunStarted("R1", "calls", message("input", CALL), 0, 1.0))
        with TraceStore.open(place, content=mode) as store:
            store.recorder().record_sync(RunStarted("R2", "calls", message("input", CALL), 0, 2.0))
            second = store.run("R2")
        assert first.input and second.input and first.input.id == second.input.id
        ids.append(first.input.id)
    assert ids[0] != ids[1]


def test_what_one_run_hides_another_does_not_unveil(path: Path) -> None:
    """Equal contents, of which one run must hide a part and the other need not, are kept apart."""

    class Name(BaseModel):
        who: str = Field(max_length=50)

    origin = Origin("s", input=Name, output=Name)
    with TraceStore.open(path, content="redacted") as store:
        recorder = store.recorder()
        open_, closed = Name(who="nobody"), Call(text="x", name="nobody")
        for run, given in (("R1", open_), ("R2", closed)):
            start = Message("input", given, f"{run}/input/0/0", content_id(given))
            said = Message("say", open_, f"{run}/say/0/0", content_id(open_), origin=origin)
            recorder.record_sync(RunStarted(run, "calls", start, 0, 1.0))
            recorder.record_sync(MessageEmitted(run, said))
        recorder.flush()
        contents = [store.run(run).nodes[0].content for run in ("R1", "R2")]
    assert [content and content.data for content in contents] == [{"who": "nobody"}, {"who": REDACTED}]


def test_an_error_that_cannot_be_written_does_not_quote_what_it_is_about(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Call.model_construct(text="\ud800", name=SECRET, topic=Topic.BILL)
    start = RunStarted("R1", "calls", Message("input", broken, "R1/input/0/0", "c"), 0, 1.0)
    with TraceStore.open(path, content="redacted", on_failure="continue") as store:
        store.recorder().record_sync(start)
        assert store.recorder().lost == 1
    assert caplog.records and SECRET not in caplog.text
    with TraceStore.open(path, content="redacted") as store, pytest.raises(StoreError) as refused:
        store.recorder().record_sync(start)
    assert SECRET not in str(refused.value)


def test_sensitive_fields_are_found_wherever_they_are_marked() -> None:
    class Card(BaseModel):
        number: str = Field(json_schema_extra={"sensitive": True})
        brand: str

    def mark(schema: dict[str, Any]) -> None:
        schema["sensitive"] = True

    class Order(BaseModel):
        card: Card | None
        others: list[Card]
        by_name: dict[str, Card]
        tags: list[Annotated[str, Field(json_schema_extra={"sensitive": True})]]
        called: Annotated[str, Field(json_schema_extra=mark)]
        plain: Literal["a"]
        unmarked: str = Field(json_schema_extra={"sensitive": False})

    assert sensitive_fields(Order) == {"card.number", "others.number", "by_name", "tags", "called"}


def test_blank_reaches_through_lists_and_hides_what_it_does_not_know() -> None:
    assert blank({"a": [{"b": 1, "c": None}], "d": 2}, {"a.b", "a.c"}) == {"a": [{"b": REDACTED, "c": None}], "d": 2}
    assert blank({"phoneNumber": "1"}, {"phone"}) == REDACTED


def test_secrets_are_found_as_a_whole_as_a_part_and_around() -> None:
    secrets = Secrets()
    assert secrets.scrub_text("anything") == REDACTED  # before anything is known
    secrets.known = True
    secrets.add({"name": "Zoë Straße", "age": 42, "member": True, "x": ["ab"]})
    assert secrets.scrub({"a": "zoë straße", "b": "Zoë", "c": 42, "d": True, "e": "fine"}) == {
        "a": REDACTED,
        "b": REDACTED,
        "c": REDACTED,
        "d": True,
        "e": "fine",
    }
    assert secrets.scrub_text("to ZOË STRASSE, with love") == f"to {REDACTED}, with love"
    assert secrets.scrub_text("to Zoë Straße, with love") == REDACTED  # found by other letters, so it has no place
    assert secrets.scrub_text("cab") == "cab"
    assert secrets.scrub_text("dear STRASSE, straßen are") == f"dear {REDACTED}, straßen are"
    assert secrets.scrub_text("dear Straße") == REDACTED
    long = Secrets()
    long.known = True
    long.add("a whole text about an invoice and a delivery")
    assert long.scrub_text("the invoice") == "the invoice"  # its words are everybody's
    assert secrets.scrub("Zoë", keep=frozenset({"Zoë"})) == "Zoë"


def test_a_damaged_key_is_an_error(path: Path) -> None:
    Path(f"{path}.key").write_bytes(b"short")
    with pytest.raises(StoreError, match="key is damaged"):
        Key.beside(path)


def test_an_error_of_an_untouched_run_is_told_in_full(path: Path) -> None:
    class Open(BaseModel):
        text: str = Field(max_length=50)

    error = FslmError("it did not work", where="step say", found="x")
    start = RunStarted("R1", "calls", message("input", Open(text="y")), 0, 1.0)
    run = record(path, "redacted", start, RunFinished("R1", "calls", "failed", 2.0, 1.0, None, error))
    assert run.row.error == error.to_dict()


def test_the_key_is_its_owners_alone_and_made_once(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    key = Key.beside(path)
    assert key.fresh and not Key.beside(path).fresh
    assert Path(f"{path}.key").stat().st_mode & 0o777 == 0o600
    assert key.hash("a") == Key.beside(path).hash("a")


def test_a_key_that_others_can_read_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Key.beside(path)
    Path(f"{path}.key").chmod(0o644)
    Key.beside(path)
    assert "can be read by others: run `chmod 600" in caplog.text


def test_a_key_that_cannot_be_read_is_an_error_that_names_it(path: Path) -> None:
    Path(f"{path}.key").mkdir()
    with pytest.raises(StoreError, match="key cannot be read") as refused:
        Key.beside(path)
    assert refused.value.where == f"{path}.key"


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_without_its_key_a_store_stays_readable_and_new_hashes_match_no_older(
    path: Path, mode: ContentMode, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the key is lost, and where the database alone is copied to another machine."""
    first = record(path, mode, RunStarted("R1", "calls", message("input", CALL), 0, 1.0))
    assert "was lost" not in caplog.text
    Path(f"{path}.key").unlink()
    with TraceStore.open(path, readonly=True) as store:
        assert store.run("R1").input == first.input and not Path(f"{path}.key").exists()  # reading needs no key
    with TraceStore.open(path, content=mode) as store:
        store.recorder().record_sync(RunStarted("R2", "calls", message("input", CALL), 0, 2.0))
        runs = store.run("R1"), store.run("R2")
    assert caplog.text.count("was lost and a new one is made") == 1
    assert runs[0].input and runs[1].input and first.input
    assert runs[0].input == first.input
    assert runs[1].input.data == first.input.data and runs[1].input.id != first.input.id


def test_a_kind_that_a_plugin_makes_up_is_not_kept(path: Path) -> None:
    problem = Problem(SECRET, SECRET, SECRET)
    modes: tuple[ContentMode, ...] = ("redacted", "none")
    for mode in modes:
        place = path.parent / mode / "trace.db"
        events = whole_run()
        failed = AttemptFailed("R1", "say", "R1/say/0/0", attempt(CALL, "x", problems=(problem,)), Origin("s"))
        run = record(place, mode, *events[:1], failed)
        assert run.nodes[0].attempts[0].problems[0].kind == "refused"
        assert holds(place, SECRET) == []


@pytest.mark.parametrize("mode", ["full", "redacted"])
def test_an_error_of_the_store_has_what_it_quotes_behind_it_only_where_all_is_kept(
    path: Path, mode: ContentMode
) -> None:
    broken = Call.model_construct(text="\ud800", name=SECRET, topic=Topic.BILL)
    start = RunStarted("R1", "calls", Message("input", broken, "R1/input/0/0", "c"), 0, 1.0)
    with TraceStore.open(path, content=mode) as store, pytest.raises(StoreError) as refused:
        store.recorder().record_sync(start)
    assert (refused.value.__cause__ is None) == (mode != "full")
    assert refused.value.__context__ is None or mode == "full"


def test_the_files_are_their_owners_alone(path: Path) -> None:
    with TraceStore.open(path, content="none") as store:
        store.recorder().record_sync(RunStarted("R1", "calls", message("input", CALL), 0, 1.0))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes) == {"trace.db", "trace.db-wal", "trace.db-shm", "trace.db.key"}
    assert set(modes.values()) == {0o600}
