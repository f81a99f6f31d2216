"""A post office, for the page's tests: two stages of a scripted model, a tool, and a map for runs of many steps.

The model tells of each token how probable it was and whether it was forced, as a real one does.
"""

from __future__ import annotations

import json
import math
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field

from fslm_core import SLM, Engine, Map, Stack, Stage, Step, hookimpl, settings, tool
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, ModelRef, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.page.desk import Desk, Replayer
from fslm_core.page.serving import address_of, listen, server
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.store import TraceStore

T = TypeVar("T")
HOSTILE = '<script>window.hurt=1</script><img src=x onerror="window.hurt=2">&amp;{{ 7 * 7 }}\x1b[31mred\u202eback'
_PIECES = re.compile(r'"[a-z_]+":|[{}\[\],]|"|[A-Za-z]+ ?|[^A-Za-z"{}\[\],]+')
_FORCED = re.compile(r'"[a-z_]+":|[{}\[\],"]')
_CHANCES = (0.998, 0.97, 0.91, 0.74, 0.995, 0.52, 0.88, 0.23)
_CATALOGUE = {"A-1047": ("kettle, steel, 1.7 l", "delivered"), "A-2210": ("toaster", "on its way")}


class Letter(BaseModel):
    """What a customer wrote."""

    text: Annotated[str, Field(max_length=2000)]


class Kind(BaseModel):
    """What a letter is about."""

    kind: Literal["praise", "complaint", "question"]
    urgent: bool
    order: Annotated[str, Field(max_length=20)] | None


class Order(BaseModel):
    """What was ordered."""

    article: str
    state: str


class Answer(BaseModel):
    """What is written back."""

    reply: Annotated[str, Field(max_length=2000)]


class Words(BaseModel):
    """Many."""

    words: list[str]


class Word(BaseModel):
    """One of them."""

    word: str


class Loud(BaseModel):
    """The same, louder."""

    loud: str


class Louds(BaseModel):
    """All of them."""

    louds: list[str]


THANKS, SORRY = "Thank you for your kind words.", "We are sorry, and a new one is on its way."
SMALL = SLM("smollm2-135m", tuned=True)
kind = Stage(
    "post.kind",
    input=Letter,
    output=Kind,
    prompt="{% block system %}Say what the letter is about, whether it is urgent, and which order it names."
    "{% endblock %}"
    "{% block user %}Letter: {{ text }}{% endblock %}",
    model=SMALL,
)


class Asked(BaseModel):
    """What the last stage is given."""

    text: Annotated[str, Field(max_length=2000)]
    kind: Literal["praise", "complaint", "question"]
    state: str | None


reply = Stage(
    "post.reply",
    input=Asked,
    output=Answer,
    prompt="{% block system %}Answer the letter in one sentence.{% endblock %}"
    "{% block user %}A {{ kind }}{% if state %}, {{ state }}{% endif %}: {{ text }}{% endblock %}",
    model=SMALL,
)


class Named(BaseModel):
    """An order's number."""

    order: str | None


@tool("post.order", version="1", pure=True)
def order(named: Named) -> Order:
    """Look an order up."""
    article, state = _CATALOGUE.get(named.order or "", ("unknown", "unknown"))
    return Order(article=article, state=state)


class Gate:
    """Where a tool waits until a test lets it go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()


GATE = Gate()


@tool("post.stamp", version="1")
def stamp(letter: Letter) -> Loud:
    """Wait, then stamp."""
    GATE.open.wait(60)
    return Loud(loud="stamped")


@tool("post.loud", version="1", pure=True)
def loud(word: Word) -> Loud:
    """Say it louder."""
    return Loud(loud=word.word.upper())


POST = Stack(
    "post",
    input=Letter,
    output=Answer,
    steps=[kind, Step(order, when="kind.kind != 'praise'"), reply],
)
EACH = Map("each", loud, over="words", item="word", into="louds", pick="loud", input=Words, output=Louds)
HALL = Stack("post.hall", input=Words, output=Louds, steps=[EACH])


class Stamped(BaseModel):
    """A letter that was looked at."""

    kind: str
    loud: str


SLOW = Stack("post.slow", input=Letter, output=Stamped, steps=[kind, stamp])


class Model(ScriptedBackend):
    """Answers as the letter asks for, and tells how sure it was of each token."""

    def __init__(self) -> None:
        super().__init__({"post.kind": _kind, "post.reply": _reply})

    @property
    def capabilities(self) -> Capabilities:
        """As a model's that tells probabilities."""
        return replace(super().capabilities, logprobs=True)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Nothing is to be loaded."""
        return await super().warm(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """As the scripted one, in smaller pieces."""
        async for piece in super().open(request):
            yield _by_piece(piece) if isinstance(piece, Generation) else piece


def _by_piece(made: Generation) -> Generation:
    texts = tuple(_PIECES.findall(made.text))
    assert "".join(texts) == made.text, made.text
    forced = tuple(_FORCED.fullmatch(text) is not None for text in texts)
    chances = [1.0 if known else _CHANCES[place % len(_CHANCES)] for place, known in enumerate(forced)]
    return replace(
        made,
        texts=texts,
        tokens=tuple(range(len(texts))),
        logprobs=tuple(map(math.log, chances)),
        forced=forced,
        counts=replace(made.counts, output=len(texts), forced=sum(forced)),
    )


def _text(request: Request) -> str:
    return request.prompt.spans[-1].text


def _kind(request: Request) -> str:
    text = _text(request)
    named = re.search(r"[A-Z]-\d+", text)
    found = "question" if "?" in text else "praise" if "thank" in text.lower() else "complaint"
    return _json({"kind": found, "urgent": "today" in text, "order": named[0] if named else None})


def _reply(request: Request) -> str:
    if "<script>" in _text(request):
        return _json({"reply": HOSTILE})
    asked = "".join(span.text for span in request.prompt.spans)
    return _json({"reply": THANKS if "praise" in asked else SORRY})


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def host_of(mine: Settings) -> PluginHost:
    """The post office alone is installed."""

    class Plugin:
        @hookimpl
        def fslm_stages(self) -> list[object]:
            return [kind, reply, order, stamp, loud]

        @hookimpl
        def fslm_stacks(self) -> list[object]:
            return [POST, HALL, SLOW]

    return PluginHost(mine, plugins={"post": Plugin()}, installed=False)


def engine_of(mine: Settings) -> Engine:
    """An engine that keeps everything."""
    return Engine(settings=mine, host=host_of(mine), backend=Model(), content="full")


def beside(work: Callable[[Engine], T], mine: Settings) -> T:
    """What comes of some work with an engine in a thread: Playwright's own loop holds the one that asks."""

    def done() -> T:
        with engine_of(mine) as engine:
            return work(engine)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(done).result(60)


def run_all(folder: Path, *asked: tuple[str, dict[str, Any]]) -> list[str]:
    """Ids of runs of stacks, each given by its name and its input, in the trace in ``folder``."""
    mine = settings.load(files=[], data_dir=folder)
    return beside(lambda engine: [engine.run(stack, given).id for stack, given in asked], mine)


def replay(folder: Path, run: str, **edits: Any) -> str:
    """The id of a replay; two underscores stand for the dot between step and field."""
    mine = settings.load(files=[], data_dir=folder)
    changed = {name.replace("__", "."): value for name, value in edits.items()}
    return beside(lambda engine: engine.replay(run, edits=changed).id, mine)


def labelled() -> list[dict[str, Any]]:
    """Letters with what is right. The model takes who does not say thanks for a complaint, and reads carelessly."""
    praise = ["Thank you for the quick delivery.", "Thank you, it works.", "Thanks to all of you!"]
    missed = ["Lovely colour, and it pours well.", "The best toaster I ever had.", "It works as it should."]
    wrong = ["The kettle A-1047 leaks.", "The toaster A-2210 burns everything.", "The lid broke after two days."]
    misread = ["I had nothing but praise for the kettle until it broke."]
    rows = [("praise", text, THANKS) for text in praise + missed]
    rows += [("complaint", text, SORRY) for text in wrong + misread]
    return [
        {
            "input": {"text": text},
            "output": {"reply": said},
            "steps": {"kind": {"kind": kind}, "reply": {"reply": said}},
        }
        for kind, text, said in rows
    ]


def blame_json(folder: Path) -> str:
    """What `fslm blame --json` says of those, with every run in the trace in ``folder``."""
    from fslm_core.evaluate.blaming import blame

    mine = settings.load(files=[], data_dir=folder)
    return beside(lambda engine: blame(POST, labelled(), engine=engine), mine).model_dump_json()


@dataclass(frozen=True)
class Office:
    """A trace, and the page that shows it."""

    folder: Path
    address: str
    desk: Desk


@contextmanager
def serving(
    folder: Path, *, key: str | None = None, readonly: str = "", host: str = "127.0.0.1", blame: Path | None = None
) -> Iterator[Office]:
    """The page of the trace in ``folder``, on a free port of this machine."""
    mine = settings.load(files=[], data_dir=folder)
    with TraceStore.open(mine.trace_path, readonly=bool(readonly)) as store, closing(listen(host, 0)) as made:
        replayer = None if readonly else Replayer(lambda: engine_of(mine))
        desk = Desk(store, replayer, readonly=readonly, key=key, blame=blame, stacks={POST.name: POST}.get)
        served = server(desk, host)
        thread = threading.Thread(target=served.run, kwargs={"sockets": [made]}, daemon=True)
        thread.start()
        try:
            yield Office(folder, address_of(made, host).rstrip("/"), desk)
        finally:
            served.handle_exit(signal.SIGINT, None)
            thread.join(30)
            assert not thread.is_alive()
