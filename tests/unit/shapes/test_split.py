"""Splits: chunks that cover the text, stay within their tokens and cut no character, by tokenizers of several kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

from fslm_core import SLM, Engine, Map, Reduce, Split, Stack, Stage, hookimpl
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine.here import look
from fslm_core.engine.lock import text_of
from fslm_core.errors import CheckError, CheckpointError, LockError, RunFailed, StackError, StageFailedError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.shapes import Chunk, Chunks, LongText
from fslm_core.shapes.cutting import TooSmall, cut

pytestmark = pytest.mark.torch

SENTENCES = "The ship left at noon. Nobody saw it go! Was the sea calm? It was, for a while. Then the wind rose.\n\n"


@cache
def bytewise() -> Tokenizer:
    """As the base model's: byte-level BPE, characters of several tokens."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [SENTENCES] * 9, BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made


@cache
def metaspace() -> Tokenizer:
    """As sentence pieces are: a prefixed space, and text made over before it is cut."""
    made = Tokenizer(BPE(byte_fallback=True, unk_token="?"))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["?", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    made.train_from_iterator([SENTENCES] * 9, trainer)
    return made


@cache
def words() -> Tokenizer:
    """Whole words, whitespace in no token."""
    made = Tokenizer(WordLevel(unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([SENTENCES], WordLevelTrainer(special_tokens=["?"], show_progress=False))
    return made


KINDS = [bytewise, metaspace, words]


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


# -- what holds of every text ------------------------------------------------------------------------------------------

texts = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet="ab .!?\n\r\t", max_size=40),
        st.sampled_from(
            [
                SENTENCES,
                "x" * 60,
                "🏳️‍🌈👩‍👩‍👧",
                "🇩🇪🇫🇷🇬🇧",
                "é" * 9 + "e\u0301\u0302" * 5,
                "漢字です。はい\uff01",
                "\n" * 20,
            ]
        ),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts, tokens=st.integers(24, 60), part=st.floats(0, 0.5))
def test_chunks_cover_the_text_in_order_within_their_tokens(kind: Any, text: str, tokens: int, part: float) -> None:
    tokenizer, overlap = kind(), int(tokens * part)
    pieces = list(cut(text, tokenizer, tokens, overlap))
    assert (pieces == []) == (text == "")
    covered, whole, begin = 0, "", -1
    for piece in pieces:
        assert begin < piece.start <= covered < piece.end
        assert piece.tokens == count(tokenizer, text[piece.start : piece.end]) <= tokens
        assert count(tokenizer, text[piece.start : covered]) <= overlap
        whole += text[covered : piece.end]
        begin, covered = piece.start, piece.end
    assert whole == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    parts=st.lists(
        st.sampled_from(["👩‍👩‍👧", "e\u0301", "🇩🇪", "👍🏽", "\r\n", "a", " ", "漢"]), min_size=20, max_size=60
    )
)
def test_no_chunk_begins_or_ends_within_what_a_reader_takes_for_one_character(kind: Any, parts: list[str]) -> None:
    text = "".join(parts)
    ends = {len("".join(parts[:n])) for n in range(len(parts) + 1)}
    for piece in cut(text, kind(), 48, 8):
        assert {piece.start, piece.end} <= ends


def test_chunks_end_where_a_sentence_or_a_paragraph_does_and_share_whole_words() -> None:
    text = SENTENCES * 6
    pieces = list(cut(text, bytewise(), 60, 12))
    assert len(pieces) == 5
    for piece in pieces[:-1]:
        assert text[: piece.end].rstrip()[-1] in ".!?"
    for before, piece in pairwise(pieces):
        shared = text[piece.start : before.end]
        assert shared.strip()
        assert text[: piece.start].rstrip()[-1] in ".!?"
    assert any(text[: piece.end].endswith("\n\n") for piece in pieces[:-1])


def test_a_word_longer_than_a_chunk_is_cut() -> None:
    text = "x" * 5000
    pieces = list(cut(text, bytewise(), 50, 10))
    assert max(piece.tokens for piece in pieces) <= 50
    assert pieces[-1].end == 5000


def test_a_character_of_more_tokens_than_a_chunk_is_told() -> None:
    with pytest.raises(TooSmall) as caught:
        list(cut("abc 漢", bytewise(), 2, 0))
    assert caught.value.offset == 4


class Counting:
    """Remembers how much was tokenised."""

    def __init__(self) -> None:
        self.characters = 0

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Any:
        self.characters += len(sequence)
        return bytewise().encode(sequence, add_special_tokens=add_special_tokens)


def test_the_work_grows_with_the_text_and_not_faster() -> None:
    def work(times: int) -> int:
        counting = Counting()
        assert list(cut(SENTENCES * times, counting, 100, 20))
        return counting.characters

    assert work(400) < 11 * work(40)


# -- as a shape --------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a checkpoint without weights to speak of."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 100}), encoding="utf-8")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    bytewise().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


@pytest.fixture
def engine(plain: Settings) -> Iterator[Engine]:
    def note(request: Request) -> str:
        return json.dumps({"note": (request.prompt.text("user") or "").split(".")[0][-20:].strip()})

    def join(request: Request) -> str:
        return json.dumps({"note": str(len((request.prompt.text("user") or "").split("|")))})

    host = PluginHost(plain, plugins={}, installed=False)
    backend = ScriptedBackend({"t.note": note, "t.join": join})
    with Engine(settings=plain, host=host, backend=backend, trace=False) as opened:
        yield opened


class Question(BaseModel):
    body: str
    question: str


class Parts(BaseModel):
    parts: list[Chunk]
    question: str


def test_chunks_know_where_they_stand_and_other_fields_pass(engine: Engine, base: Path) -> None:
    split = Split(
        "split", text="body", into="parts", tokens=40, overlap=8, base=str(base), input=Question, output=Parts
    )
    stack = Stack("t", input=Question, output=Parts, steps=[split], bind={"question": "split.question"})
    text = SENTENCES * 5
    out = engine.run(stack, {"body": text, "question": "who?"}).output
    assert out.question == "who?"
    assert len(out.parts) > 3
    assert all(text[part.start : part.end] == part.text and part.tokens <= 40 for part in out.parts)


def test_an_empty_text_has_no_chunks(engine: Engine, base: Path) -> None:
    stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base=str(base))])
    assert engine.run(stack, {"text": ""}).output.chunks == []


class Asked(BaseModel):
    text: str


class Note(BaseModel):
    note: str


class Short(BaseModel):
    note: str = Field(max_length=20)


class Notes(BaseModel):
    notes: list[str]


def test_a_document_ten_contexts_long_is_split_mapped_and_reduced(engine: Engine, base: Path) -> None:
    model = SLM(str(base), tuned=True)

    note = Stage("t.note", input=Asked, output=Short, prompt="{{ text }}", model=model)
    join = Stage("t.join", input=Notes, output=Short, prompt="{{ notes|join('|') }}", model=model)
    split = Split("split", tokens=60, overlap=10, base=str(base))
    notes = Map("notes", note, over="chunks", item="chunk", into="notes", pick="note", input=Chunks, output=Notes)
    digest = Reduce("digest", join, over="notes", into="note", pick="note", fan=4, input=Notes, output=Note)
    stack = Stack("t", input=LongText, output=Note, steps=[split, notes, digest])
    text = SENTENCES * 40
    assert count(bytewise(), text) > 10 * 100
    run = engine.run(stack, {"text": text})
    chunks: Any = run.messages["split"]
    made = sum(name.startswith("notes.note[") for name in run.messages)
    assert made == len(chunks.content.chunks) > 10
    assert run.output.note in {"2", "3", "4"}
    prompts = [r.prompt.text("user") for r in engine._works.backend.requests if r.model.stage == "t.note"]  # type: ignore[attr-defined]
    assert sorted(prompts) == sorted(chunk.text for chunk in chunks.content.chunks)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tokens": 0}, "tokens is out of range"),
        ({"overlap": -1}, "overlap is out of range"),
        ({"tokens": 10, "overlap": 6}, "overlap is out of range"),
        ({"text": "words"}, "text names no field of LongText"),
        ({"text": "question", "input": Parts}, ""),
        ({"text": "parts", "input": Parts}, "text names a field that is no text"),
        ({"into": "pieces"}, "into names no field of Chunks"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], said: str) -> None:
    if not said:
        assert Split("split", **more).input is Parts
        return
    with pytest.raises(StackError, match=said):
        Split("split", **more)


def test_chunks_must_fit_where_they_go() -> None:
    with pytest.raises(CheckError, match=r"field 'notes' wants list\[str\], but cut.notes is list"):
        _ = Split("split", into="notes", output=Notes).wiring


def test_an_unknown_checkpoint_is_refused_by_the_check(engine: Engine) -> None:
    stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base="smollm-135")])
    with pytest.raises(CheckError, match=r"step split: .*no checkpoint named"):
        engine.run(stack, {"text": "a"})


def test_a_checkpoint_that_is_not_there_is_told_before_the_run(engine: Engine, tmp_path: Path) -> None:
    stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base=str(tmp_path / "nowhere"))])
    with pytest.raises(CheckpointError, match="is not there"):
        engine.run(stack, {"text": "a"})


def test_a_tokenizer_that_is_none_is_told(engine: Engine, base: Path) -> None:
    (base / "tokenizer.json").write_text("{}", encoding="utf-8")
    stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base=str(base))])
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        engine.run(stack, {"text": "a"})


class Plugin:
    """A stack that cuts by the tokens of a folder's checkpoint."""

    def __init__(self, base: Path) -> None:
        self.stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base=str(base))])

    @hookimpl
    def fslm_stacks(self) -> list[Stack[Any, Any]]:
        return [self.stack]


@pytest.mark.parametrize("stacks", [None, ["t"]])
def test_a_lock_holds_the_checkpoint_whose_tokens_it_counts(plain: Settings, base: Path, stacks: Any) -> None:
    settings = plain.model_copy(update={"lock_file": base.parent / "fslm.lock"})
    host = PluginHost(settings, plugins={"t": Plugin(base)}, installed=False)
    found = look(host, settings, ScriptedBackend(), stacks=stacks)
    assert list(found.checkpoints) == [str(base)]
    settings.lock_file.write_text(text_of(found), encoding="utf-8")

    def cut_one() -> int:
        with Engine(settings=settings, host=host, backend=ScriptedBackend(), trace=False, locked=True) as engine:
            return len(engine.run("t", {"text": SENTENCES}).output.chunks)

    assert cut_one() == 1
    words().save(str(base / "tokenizer.json"))
    with pytest.raises(LockError, match=r"checkpoint .*base, sha256: locked"):
        cut_one()


def test_without_the_package_the_check_says_what_to_install(engine: Engine, base: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fslm_core.engine.tokens.find_spec", lambda name: None)
    stack = Stack("t", input=LongText, output=Chunks, steps=[Split("split", base=str(base))])
    with pytest.raises(CheckError, match=r"pip install 'fslm-core\[torch\]'"):
        engine.run(stack, {"text": "a"})


@pytest.mark.parametrize(
    ("more", "said"), [({"most": 2}, "makes more than 2 chunks"), ({"tokens": 2}, "has more than 2 tokens")]
)
def test_a_text_that_cannot_be_cut_so_fails_its_step(
    engine: Engine, base: Path, more: dict[str, Any], said: str
) -> None:
    split = Split("split", base=str(base), **{"tokens": 10, "overlap": 0, **more})
    stack = Stack("t", input=LongText, output=Chunks, steps=[split])
    with pytest.raises(RunFailed) as caught:
        engine.run(stack, {"text": "漢" + SENTENCES})
    assert isinstance(caught.value.error, StageFailedError)
    assert said in caught.value.error.what
    assert "漢" not in str(caught.value.error)
