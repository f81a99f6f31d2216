"""Every error of the tree, provoked by a mistake somebody makes; ``error_texts/<code>.txt`` holds what it then says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from fslm_core import SLM, Decoding, Engine, Stack, Stage, tool
from fslm_core.errors import (
    AdapterError,
    CapabilityError,
    CheckpointError,
    ContextOverflowError,
    DataError,
    DeadlineExceeded,
    EngineBusy,
    EngineStateError,
    GateError,
    InputError,
    PromptError,
    ReviewNeeded,
    RunFailed,
    SchemaError,
    SessionConflict,
    StackError,
    StageError,
    StoreError,
    TrainInterrupted,
    UsageError,
)
from fslm_core.store import Sessions

from .scene import Scene


class Case(NamedTuple):
    """One text: the code it belongs to, what it is about, and how to come by it."""

    code: str
    title: str
    provoke: Callable[[Scene], str]
    torch: bool


CASES: list[Case] = []


def case(code: str, title: str, *, torch: bool = False) -> Callable[[Callable[[Scene], str]], Callable[[Scene], str]]:
    """Note a function as the one that provokes ``code``; ``torch`` says that it needs that extra."""

    def note(provoke: Callable[[Scene], str]) -> Callable[[Scene], str]:
        CASES.append(Case(code, title, provoke, torch))
        return provoke

    return note


# -- the command and its input ---------------------------------------------------------------------------------------


@case("usage", "a verb that does not exist")
def _(scene: Scene) -> str:
    return scene.fslm("rum", "shop", "hello")


@case("usage", "an argument that is missing")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop")


@case("usage", "an option that does not exist")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "-5 degrees")


@case("usage", "--debug after the verb")
def _(scene: Scene) -> str:
    return scene.fslm("run", "--debug", "shop", "hello")


@case("usage", "in a program, something else than a stack")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        return scene.raised(UsageError, lambda: engine.run(scene.shop.loud, {"text": "hello"}))


@case("settings", "a key that fslm does not know")
def _(scene: Scene) -> str:
    (scene.home / "fslm.toml").write_text('[trace]\ncontents = "none"\n')
    return scene.fslm("list")


@case("settings", "a value of the wrong type")
def _(scene: Scene) -> str:
    (scene.home / "fslm.toml").write_text('[torch]\nthreads = "many"\n')
    return scene.fslm("list")


@case("settings", "a value that may be a secret is not repeated")
def _(scene: Scene) -> str:
    (scene.home / "fslm.toml").write_text('[openai]\napi_key = "sk-live-4711"\n')
    return scene.fslm("list")


@case("settings", "a file that is not TOML")
def _(scene: Scene) -> str:
    (scene.home / "fslm.toml").write_text("offline = true\nbackend = torch\n")
    return scene.fslm("list")


@case("settings", "a variable that means nothing")
def _(scene: Scene) -> str:
    scene.set("FSLM_OFLINE", 1)
    return scene.fslm("list")


@case("settings", "a variable with a value that cannot be")
def _(scene: Scene) -> str:
    scene.set("FSLM_TRACE__CONTENT", "some")
    return scene.fslm("list")


@case("settings", "FSLM_CONFIG names no file")
def _(scene: Scene) -> str:
    scene.set("FSLM_CONFIG", scene.home / "none.toml")
    return scene.fslm("list")


@case("unknown-name", "a name that is nearly right")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.topik", "hello")


@case("unknown-name", "a name that is like no other")
def _(scene: Scene) -> str:
    return scene.fslm("run", "weather", "hello")


@case("unknown-name", "the plugin is disabled")
def _(scene: Scene) -> str:
    scene.set("FSLM_DISABLE", "shop")
    return scene.fslm("run", "shop", "hello")


@case("unknown-name", "a run that is not in the trace")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        engine.run("shop", {"text": "hello"})
    return scene.fslm("trace", "show", "zzz")


@case("input", "JSON that is cut short")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.order", '{"number": "7", "count"')


@case("input", "a field of the wrong type")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.order", '{"number": "7", "count": "many"}')


@case("input", "a field that the model does not have")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.order", '{"number": "7", "count": 1, "colour": "red"}')


@case("input", "bytes that are not UTF-8")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "-", stdin=b"caf\xe9")


@case("input", "in a program, another model")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        return scene.raised(InputError, lambda: engine.run("shop", scene.shop.Order(number="7", count=1)))


@case("engine-state", "the engine is closed")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        pass
    return scene.raised(EngineStateError, lambda: engine.run("shop", {"text": "hello"}))


@case("engine-state", "run where an event loop is running")
def _(scene: Scene) -> str:
    async def inside() -> str:
        async with scene.engine() as engine:
            return scene.raised(EngineStateError, lambda: engine.run("shop", {"text": "hello"}))

    return asyncio.run(inside())


@case("engine-state", "use after a fork")
def _(scene: Scene) -> str:
    code = (
        "import os, sys, fslm_shop_plugin as shop\n"
        "from fslm_core import Engine\n"
        "with Engine(backend='shop.play') as engine:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            engine.run('shop', {'text': 'hello'})\n"
        "        except BaseException as error:\n"
        "            os.write(1, f'{type(error).__name__}: {error}'.encode())\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return scene.normal(done.stdout)


@case("engine-state", "a number out of range")
def _(scene: Scene) -> str:
    return scene.raised(EngineStateError, lambda: scene.engine(max_in_flight=0))


@case("missing-extra", "training without what it needs")
def _(scene: Scene) -> str:
    from fslm_core.backends.torch.extra import PACKAGES

    for name in (*PACKAGES, "accelerate", "matplotlib"):
        scene.patch.setitem(sys.modules, name, None)
    return scene.fslm("train", _recipe(scene))


# -- what authors write ----------------------------------------------------------------------------------------------


class Node(BaseModel):
    """Holds more of itself."""

    child: Node | None


class Loose(BaseModel):
    """Holds a number that JSON does not know."""

    weight: float


@case("schema", "a model that contains itself")
def _(scene: Scene) -> str:
    from fslm_core.schema import normalise

    return scene.raised(SchemaError, lambda: normalise(Node))


@case("schema", "a value that JSON cannot hold")
def _(scene: Scene) -> str:
    from fslm_core.schema import canonical

    return scene.raised(SchemaError, lambda: canonical(Loose(weight=float("nan"))))


def _template(scene: Scene, text: str) -> str:
    stage = Stage(
        "shop.note", input=scene.shop.Enquiry, output=scene.shop.Topic, prompt=text, model=SLM("smollm2-135m")
    )
    return scene.raised(PromptError, lambda: stage.render(scene.shop.Enquiry(text="hello")))


@case("prompt", "a template that does not parse")
def _(scene: Scene) -> str:
    return _template(scene, "Topic of:\n{{ text ")


@case("prompt", "a name that the input does not have")
def _(scene: Scene) -> str:
    return _template(scene, "Topic of: {{ message }}")


@case("prompt", "a way out of the sandbox")
def _(scene: Scene) -> str:
    return _template(scene, "{{ text.__class__ }}")


@case("stage", "a name that cannot be")
def _(scene: Scene) -> str:
    shop = scene.shop
    make = lambda: Stage("Shop Topic", input=shop.Enquiry, output=shop.Topic, prompt="", model=SLM("smollm2-135m"))  # noqa: E731
    return scene.raised(StageError, make)


@case("stage", "attempts that would all be the same")
def _(scene: Scene) -> str:
    return scene.raised(StageError, lambda: Decoding(attempts=3))


@case("stage", "a tool without annotations")
def _(scene: Scene) -> str:
    def shout(message):  # type: ignore[no-untyped-def]
        return message

    return scene.raised(StageError, lambda: tool("shop.shout", version="1")(shout))


@case("stack", "two steps of one name")
def _(scene: Scene) -> str:
    shop = scene.shop
    steps = [shop.loud, shop.loud]
    return scene.raised(StackError, lambda: Stack("shop.twice", input=shop.Enquiry, output=shop.Said, steps=steps))


@case("stack", "no step at all")
def _(scene: Scene) -> str:
    shop = scene.shop
    return scene.raised(StackError, lambda: Stack("shop.none", input=shop.Enquiry, output=shop.Said, steps=[]))


@case("check", "fields that nobody supplies, and a template that asks for more")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.lost", "hello")


# -- plugins, models and adapters ------------------------------------------------------------------------------------


@case("plugin-load", "its import fails")
def _(scene: Scene) -> str:
    scene.install("sick", "import no_such_package\n")
    scene.set("FSLM_PLUGINS", "shop,sick")
    return scene.fslm("run", "sick", "hello")


@case("plugin-load", "a name outside its own")
def _(scene: Scene) -> str:
    code = "from fslm_core import hookimpl\nimport fslm_shop_plugin\n@hookimpl\n"
    scene.install("greedy", code + "def fslm_stacks():\n    return fslm_shop_plugin.fslm_stacks()\n")
    scene.set("FSLM_PLUGINS", "shop,greedy")
    return scene.fslm("run", "greedy", "hello")


@case("plugin-load", "it was made for another core")
def _(scene: Scene) -> str:
    scene.install("cart", "raise SystemExit('imported')")
    with (scene.site / "fslm_cart-1.0.dist-info" / "METADATA").open("a", encoding="utf-8") as metadata:
        metadata.write("Requires-Dist: fslm-core[torch]>=0.4,<0.5\n")
    scene.set("FSLM_PLUGINS", "shop,cart")
    return scene.fslm("run", "cart", "hello")


@case("duplicate-name", "two distributions offer one stack")
def _(scene: Scene) -> str:
    scene.install("shop", (Path(scene.shop.__file__ or "")).read_text("utf-8"), distribution="acme-shop")
    return scene.fslm("run", "shop", "hello")


@case("lock", "a plugin was upgraded since the lock was written")
def _(scene: Scene) -> str:
    scene.lock("shop")
    metadata = scene.site / "fslm_shop-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8").replace("Version: 1.0", "Version: 2.0"), "utf-8")
    return scene.fslm("--locked", "run", "shop", "hello")


@case("lock", "there is no lock file")
def _(scene: Scene) -> str:
    return scene.fslm("--locked", "run", "shop", "hello")


@case("lock", "going back where nothing was locked before")
def _(scene: Scene) -> str:
    scene.lock("shop")
    return scene.fslm("lock", "--restore")


@case("lock", "a plugin that pip cannot install again")
def _(scene: Scene) -> str:
    scene.lock("shop")
    path = scene.home / "fslm.lock"
    path.write_text(path.read_text("utf-8").replace('source = "unknown"', 'source = "editable"'), "utf-8")
    with (scene.site / "fslm_shop_plugin.py").open("a", encoding="utf-8") as module:
        module.write("# changed\n")
    return scene.fslm("lock", "--install")


@case("checkpoint", "pickled weights")
def _(scene: Scene) -> str:
    folder = scene.home / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    return scene.fslm("models", "verify", "./model")


@case("checkpoint", "a Hub name that is not pinned")
def _(scene: Scene) -> str:
    from fslm_core.checkpoints import resolve

    return scene.raised(CheckpointError, lambda: resolve("hf:acme/small@main", scene.settings()))


@case("checkpoint-unavailable", "not here, and told to stay offline")
def _(scene: Scene) -> str:
    scene.set("FSLM_OFFLINE", 1)
    return scene.fslm("models", "pull", "smollm2-135m")


@case("checkpoint-unavailable", "no such folder")
def _(scene: Scene) -> str:
    return scene.fslm("models", "verify", "./none")


def _tensors(name: str, width: int) -> bytes:
    """A safetensors file of one tensor of float32 zeros."""
    header = json.dumps({name: {"dtype": "F32", "shape": [width], "data_offsets": [0, 4 * width]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * width)


@case("checkpoint-corrupt", "a file that is cut short")
def _(scene: Scene) -> str:
    folder = scene.home / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(_tensors("weight", 64)[:-8])
    return scene.fslm("models", "verify", "./model")


def _adapter(scene: Scene, weights: bytes, **config: object) -> Path:
    folder = scene.home / "adapter"
    folder.mkdir()
    known = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "smollm2-135m"}
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def _inspected(scene: Scene, folder: Path) -> str:
    from fslm_core.adapter import inspect

    return scene.raised(AdapterError, lambda: inspect(folder))


@case("adapter", "no such folder")
def _(scene: Scene) -> str:
    return _inspected(scene, scene.home / "adapter")


@case("adapter", "weights that are cut short")
def _(scene: Scene) -> str:
    return _inspected(scene, _adapter(scene, _tensors("base_model.model.q.lora_A.weight", 64)[:-8]))


@case("adapter", "another kind than LoRA")
def _(scene: Scene) -> str:
    return _inspected(scene, _adapter(scene, _tensors("prompt", 64), peft_type="PROMPT_TUNING"))


@case("adapter", "made for another base", torch=True)
def _(scene: Scene) -> str:
    shop = scene.shop
    base = scene.tiny_model("llama")
    scene.shown[str(base)] = "/home/me/tiny"
    folder = _adapter(scene, _tensors("base_model.model.q.lora_A.weight", 64), base_model_name_or_path=str(base))
    stage = Stage(
        "shop.topic", input=shop.Enquiry, output=shop.Topic, prompt="{{ text }}", model=SLM(str(base), adapter=folder)
    )
    stack = Stack("shop.topic", input=shop.Enquiry, output=shop.Topic, steps=[stage])
    return scene.raised(AdapterError, lambda: Engine([stack], settings=scene.settings(backend="torch")).__enter__())


# -- runs ------------------------------------------------------------------------------------------------------------


@contextmanager
def _server(scene: Scene, status: int, body: object) -> Iterator[None]:
    """A server that lists the stage's model and refuses every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(status, body)

        def do_GET(self) -> None:
            self._answer(200, {"data": [{"id": "shop.topic"}]})

        def _answer(self, status: int, body: object) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scene.set("FSLM_BACKEND", "openai")
    scene.set("FSLM_OPENAI__BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@case("backend", "the server is not there")
def _(scene: Scene) -> str:
    with _server(scene, 200, {}):
        pass
    said = scene.fslm("run", "shop.topic", "hello")
    return said.partition("broke off: ")[0] + "broke off: ConnectError: …\n" + said.partition("\n")[2]


@case("backend", "the server refuses the key")
def _(scene: Scene) -> str:
    with _server(scene, 401, {"error": {"message": "invalid api key"}}):
        return scene.fslm("run", "shop.topic", "hello")


@case("backend", "a backend that ends without an answer")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.topic", "silent")


@case("context-overflow", "a server's model reads less than the prompt")
def _(scene: Scene) -> str:
    message = "This model's maximum context length is 512 tokens, however you requested 1043 tokens"
    with _server(scene, 400, {"error": {"code": "context_length_exceeded", "message": message}}):
        return scene.fslm("run", "shop.topic", "hello")


@case("context-overflow", "a model in this process reads less than the prompt", torch=True)
def _(scene: Scene) -> str:
    shop = scene.shop
    base = scene.tiny_model("llama")
    model = SLM(str(base), tuned=True)
    stage = Stage("shop.topic", input=shop.Enquiry, output=shop.Topic, prompt="{{ text }}", model=model)
    stack = Stack("shop.topic", input=shop.Enquiry, output=shop.Topic, steps=[stage])
    with Engine(settings=scene.settings(backend="torch")) as engine:
        try:
            engine.run(stack, {"text": "word " * 400})
        except RunFailed as failed:
            assert type(failed.error) is ContextOverflowError
            return scene.normal(f"ContextOverflowError: {failed}")
    raise AssertionError("it fitted")


@case("capability", "scores from a backend that has none")
def _(scene: Scene) -> str:
    from fslm_core.backends.protocol import ModelRef, Request
    from fslm_core.backends.scripted import ScriptedBackend
    from fslm_core.prompt import Prompt

    request = Request("1", Prompt(()), ModelRef("none", stage="shop.topic"), grammar=None, max_tokens=9)
    return scene.raised(CapabilityError, lambda: asyncio.run(ScriptedBackend({}).score(request, ["yes", "no"])))


@case("stage-failed", "an answer that does not fit the output model")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.topic", "rain")


@case("stage-failed", "a plugin's check refuses the message")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "rude")


@case("tool", "its function raises")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "empty")


@case("tool", "it returns another model")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "wrong")


@case("tool", "it does not end in time")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.slow", "hello")


@case("run-failed", "in a program, it carries the error that ended the run")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        return scene.raised(RunFailed, lambda: engine.run("shop", {"text": "empty"}))


@case("review", "no step of a cascade is sure enough")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.asks", "hello")


@case("review", "in a program, the run is given back, and its output raises")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        run = engine.run("shop.asks", {"text": "hello"})
        assert run.status == "review"
        return scene.raised(ReviewNeeded, lambda: run.output)


@case("engine-busy", "one run more than is let in")
def _(scene: Scene) -> str:
    async def crowd() -> str:
        async with scene.engine(max_in_flight=1) as engine:
            both = [asyncio.ensure_future(engine.arun("shop", {"text": "wait"})) for _ in range(2)]
            refused, let_in = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for run in let_in:
                run.cancel()
            await asyncio.gather(*let_in, return_exceptions=True)
            (error,) = (run.exception() for run in refused)
            assert isinstance(error, EngineBusy)
            return scene.normal(f"EngineBusy: {error}")

    return asyncio.run(crowd())


@case("deadline", "a run that takes longer than it may")
def _(scene: Scene) -> str:
    with scene.engine() as engine:
        try:
            engine.run("shop", {"text": "wait"}, timeout=0.05)
        except RunFailed as failed:
            assert type(failed.error) is DeadlineExceeded
            return scene.normal(f"DeadlineExceeded: {failed}")
    raise AssertionError("it ended")


# -- the trace -------------------------------------------------------------------------------------------------------


def _kept(scene: Scene) -> Path:
    """A trace database with a run in it."""
    with scene.engine() as engine:
        engine.run("shop", {"text": "hello"})
    return scene.home / "data" / "trace.db"


@case("store", "another program holds it")
def _(scene: Scene) -> str:
    path = _kept(scene)
    scene.patch.setattr("fslm_core.store.database.BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        return scene.fslm("run", "shop", "hello")
    finally:
        holder.close()


@case("store", "the disk is full")
def _(scene: Scene) -> str:
    from fslm_core.store import database

    _kept(scene)
    connect = database._connected

    def without_room(uri: str, *args: Any, **more: Any) -> sqlite3.Connection:
        connection = connect(uri, *args, **more)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # to sqlite, the disk is full
        return connection

    scene.patch.setattr(database, "_connected", without_room)
    return scene.fslm("run", "shop", "word " * 400)


@case("store", "it is damaged")
def _(scene: Scene) -> str:
    path = _kept(scene)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    return scene.fslm("trace", "list")


@case("store", "a newer fslm wrote it")
def _(scene: Scene) -> str:
    path = _kept(scene)
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    return scene.fslm("run", "shop", "hello")


@case("store", "it cannot be written")
def _(scene: Scene) -> str:
    from fslm_core.store import TraceStore

    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # to root, permissions mean nothing
    try:
        with tempfile.TemporaryDirectory() as folder:
            scene.shown[folder] = "/srv/fslm"
            path = Path(folder) / "trace.db"
            TraceStore.open(path, content="full").close()
            path.chmod(0o400)
            path.parent.chmod(0o500)
            try:
                return scene.raised(StoreError, lambda: TraceStore.open(path))
            finally:
                path.parent.chmod(0o700)
    finally:
        os.seteuid(user)


@case("store", "the file is something else")
def _(scene: Scene) -> str:
    (scene.home / "notes.txt").write_text("These are notes, not a database. " * 100)
    scene.set("FSLM_TRACE__PATH", scene.home / "notes.txt")
    return scene.fslm("run", "shop", "hello")


@case("store", "there is no trace yet")
def _(scene: Scene) -> str:
    return scene.fslm("trace", "list")


@case("store", "there is no session yet")
def _(scene: Scene) -> str:
    return scene.fslm("sessions", "list")


# -- sessions --------------------------------------------------------------------------------------------------------


def _talk(scene: Scene, state: str = "", stack: str = "talk") -> None:
    """Install the plugin whose stack has a session; with a state, a session of it is kept as ``ann``."""
    code = Path(__file__).parents[1] / "integration" / "cli" / "talk_plugin.py"
    scene.install("talk", code.read_text("utf-8"))
    scene.set("FSLM_PLUGINS", "shop,talk")
    if state:
        with Sessions.open(scene.home / "data" / "sessions.db") as sessions:
            sessions.put("ann", state, stack=stack, schema_id="older", run="01k", read=None)


@case("session", "a stack that has none")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop", "hello", "--session", "ann")


@case("session", "an id that is none")
def _(scene: Scene) -> str:
    _talk(scene)
    return scene.fslm("run", "talk", "hello", "--session", "Ann Smith")


@case("session", "a session of another stack")
def _(scene: Scene) -> str:
    _talk(scene, '{"turns":[]}', stack="talk.older")
    return scene.fslm("run", "talk", "hello", "--session", "ann")


@case("session", "a state that its model no longer takes")
def _(scene: Scene) -> str:
    _talk(scene, '{"turns":["hello",{"by":"ann"}]}')
    return scene.fslm("run", "talk", "hello", "--session", "ann")


@case("session", "sessions that are not to be kept")
def _(scene: Scene) -> str:
    _talk(scene)
    scene.set("FSLM_SESSIONS__KEEP", "false")
    return scene.fslm("run", "talk", "hello", "--session", "ann")


@case("session-conflict", "two programs take the same turn")
def _(scene: Scene) -> str:
    _talk(scene, '{"turns":[]}')
    with Sessions.open(scene.home / "data" / "sessions.db") as sessions:
        read = sessions.get("ann")
        say = {"state": '{"turns":["hello"]}', "stack": "talk", "schema_id": "older", "read": read}
        sessions.put("ann", run="01m", **say)
        return scene.raised(SessionConflict, lambda: sessions.put("ann", run="01n", **say))


# -- data and training -----------------------------------------------------------------------------------------------


def _recipe(scene: Scene, more: str = "") -> str:
    """A recipe for the stage that has a model, and the name of its file."""
    text = f'stage = "shop.topic"\noutput = "out"\n{more}[data]\ntrain = "rows.jsonl"\n'
    (scene.home / "topic.toml").write_text(text)
    return "topic.toml"


@case("gate", "another Python that is not there")
def _(scene: Scene) -> str:
    rows = scene.home / "rows.jsonl"
    rows.write_text('{"input": {"text": "where is my chair"}, "output": {"topic": "ORDER"}}\n', "utf-8")
    asked = ("--baseline-python", "old/bin/python", "--stack", "shop.topic", "--data", "rows.jsonl")
    return scene.fslm("plugins", "gate", *asked)


@case("gate", "another version that dies half-way")
def _(scene: Scene) -> str:
    from fslm_core.govern.sides import Side, died

    side = Side("baseline", "old/bin/python", {}, "fslm 0.1.0", ())

    def act() -> None:
        raise died(side, "line 42", 41, 200, "its process was ended by signal 9")

    return scene.raised(GateError, act)


@case("data", "a table without the column that is asked for")
def _(scene: Scene) -> str:
    from fslm_core.data import Target, read_rows

    (scene.home / "mails.csv").write_text("Message,Kind\nwhere is my chair,ORDER\n")
    target, mapping = Target.of(scene.host().stack("shop.topic")), {"text": "Messages", "topic": "Kind"}
    return scene.raised(DataError, lambda: list(read_rows(Path("mails.csv"), target, mapping=mapping)))


@case("train", "a recipe with keys that mean nothing")
def _(scene: Scene) -> str:
    return scene.fslm("train", _recipe(scene, "epoch = 3\nseed = -1\n"))


@case("train", "a recipe that is not TOML")
def _(scene: Scene) -> str:
    return scene.fslm("train", _recipe(scene, "epochs: 3\n"))


@case("train", "rows that do not fit the stage", torch=True)
def _(scene: Scene) -> str:
    row = {"input": {"text": "where is my chair"}, "output": {"topic": "WEATHER"}}
    (scene.home / "rows.jsonl").write_text(json.dumps(row) + "\nnot JSON\n")
    return scene.fslm("train", _recipe(scene))


@case("train-interrupted", "Ctrl-C after some steps", torch=True)
def _(scene: Scene) -> str:
    from fslm_core.train import Stepped, run_recipe

    shop = scene.shop
    model = SLM(str(scene.tiny_model("llama")))
    shop.topic.model = model
    rows = ({"input": {"text": f"order {i}"}, "output": {"topic": ("ORDER", "REFUND")[i % 2]}} for i in range(40))
    (scene.home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Path(_recipe(scene, "epochs = 2\n"))

    def press(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    overrides = ["data.fraction=0.2", "optim.batch_rows=8", "lora.rank=4", "lora.layers=1"]
    act = lambda: run_recipe(  # noqa: E731
        recipe, settings=scene.settings(), host=scene.host(), overrides=overrides, progress=press
    )
    return scene.raised(TrainInterrupted, act)


# -- the machine, and what nobody foresaw ----------------------------------------------------------------------------


@case("system", "standard output has no room")
def _(scene: Scene) -> str:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fslm_core", "errors", "system"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4
    return scene.normal(done.stderr)


@case("system", "the memory has no room")
def _(scene: Scene) -> str:
    return scene.fslm("leave", "memory")


@case("internal", "a plugin's verb raises")
def _(scene: Scene) -> str:
    return scene.fslm("audit")


@case("internal", "a plugin's backend raises")
def _(scene: Scene) -> str:
    return scene.fslm("run", "shop.topic", "trips")
