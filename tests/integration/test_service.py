"""The documented service under real gunicorn, with real sockets: the page's own files, and a stack that tests pace.

In place of ``fslm_support`` stands a package of that name with a tool stage, so that a worker starts in a moment. What
a customer writes tells the tool what to do: ``wait NAME`` ends when the file NAME is there, ``hang`` never.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from fslm_core.store import TraceStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gunicorn")

PAGE = Path(__file__).parents[2] / "docs/service.md"
PATIENCE = 300.0
"""Seconds after which something counts as hanging."""

MESSAGES = """
from pydantic import BaseModel

class Enquiry(BaseModel):
    text: str

class Ticket(BaseModel):
    answer: str
    worker: int
"""
SUPPORT = """
import asyncio, os
from pathlib import Path
from fslm_core import Stack, hookimpl, tool
from .messages import Enquiry, Ticket

@tool("support.answer", version="1")
async def answer(enquiry: Enquiry) -> Ticket:
    what, _, name = enquiry.text.partition(" ")
    with open("begun", "a") as begun:
        begun.write(f"{what}\\n")
    if what == "hang":
        await asyncio.Event().wait()
    while what == "wait" and not Path(name).exists():
        await asyncio.sleep(0.01)
    return Ticket(answer=enquiry.text.upper(), worker=os.getpid())

class More(Ticket):
    missing: str

triage = Stack("support", input=Enquiry, output=Ticket, steps=[answer])

@hookimpl
def fslm_stages(): return [answer]

@hookimpl
def fslm_stacks(): return [triage]
"""


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` gives something, and return that."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """A running gunicorn."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        preload: bool = True,
        real: bool = False,
        support: str = SUPPORT,
        change: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        changes = {**({} if preload else {"preload_app = True": "preload_app = False"}), **(change or {})}
        page = PAGE.read_text("utf-8")
        for old, new in changes.items():
            assert page.count(old) == 1, old
            page = page.replace(old, new)
        for title, text in re.findall(r'^```python title="(.+?)"\n(.*?)^```$', page, re.M | re.S):
            (folder / title).write_text(text, "utf-8")
        if not real:
            (folder / "fslm_support").mkdir()
            (folder / "fslm_support/__init__.py").write_text(support, "utf-8")
            (folder / "fslm_support/messages.py").write_text(MESSAGES, "utf-8")
        self.port = free_port()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "gunicorn", "app:app", "--no-control-socket", *options]
            self.process = subprocess.Popen(
                [*command, f"--bind=127.0.0.1:{self.port}"],
                cwd=folder,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("FSLM_")},
                    **({"FSLM_CACHE_DIR": os.environ["FSLM_CACHE_DIR"]} if "FSLM_CACHE_DIR" in os.environ else {}),
                    "FSLM_DATA_DIR": str(folder),
                    "FSLM_CONFIG": "/dev/null",
                    "PYTHONPATH": str(folder),
                    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
                    **(environment or {}),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, trust_env=False)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with self.client() as client:
                return client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def ask(self, text: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/triage", json={"text": text})

    @contextmanager
    def departing(self, text: str) -> Iterator[None]:
        """A client that asks, and at the end closes its connection without waiting for the answer."""
        body = json.dumps({"text": text})
        head = f"POST /triage HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"{head}\r\n\r\n{body}".encode())
            yield

    def begun(self, what: str) -> int:
        """How many runs of this kind reached the stage."""
        path = self.folder / "begun"
        return path.read_text().split().count(what) if path.exists() else 0

    def statuses(self) -> list[str]:
        with TraceStore.open(self.folder / "trace.db", readonly=True) as store:
            return sorted(row.status for row in store.runs(limit=1000))

    def stop(self) -> int:
        """SIGTERM, and the exit code; ``TimeoutExpired`` if it hangs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        """Whatever is left of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def serving(folder: Path, workers: int, **more: Any) -> Iterator[Service]:
    """A service all of whose workers are ready. Which of them answers is the system's choice, so it is asked again."""
    service = Service(folder, f"--workers={workers}", **more)
    try:
        eventually(lambda: service.log.read_text().count("Application startup complete") == workers)
        eventually(lambda: all(service.ready() for _ in range(8 * workers)))
        yield service
    finally:
        service.kill()


@contextmanager
def asked(service: Service, text: str, count: int = 1) -> Iterator[list[Any]]:
    """``count`` requests that are at work inside; their answers are there after."""
    answers: list[Any] = []
    what = text.split()[0]
    before = service.begun(what)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(service.ask, text) for _ in range(count)]
        eventually(lambda: service.begun(what) == before + count)
        yield answers
        answers += [future.result() for future in futures]


@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "not preloaded"])
@pytest.mark.parametrize("workers", [1, 4])
def test_it_answers_and_ends_in_order(tmp_path: Path, workers: int, preload: bool) -> None:
    with serving(tmp_path, workers, preload=preload) as service:
        assert len(service.workers()) == workers
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(service.ask, [f"hello {i}" for i in range(24)]))
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json()["answer"] for answer in answers] == [f"HELLO {i}" for i in range(24)]
        assert {answer.json()["worker"] for answer in answers} <= service.workers()
        assert service.ask("").status_code == 200
        with service.client() as client:
            assert client.post("/triage", json={"txet": "hello"}).status_code == 422
        assert service.stop() == 0
        assert service.statuses() == ["succeeded"] * 25
        assert "Traceback" not in service.log.read_text()


def test_a_worker_sheds_what_is_too_much_and_measures_it(tmp_path: Path) -> None:
    with serving(tmp_path, 1) as service:
        with asked(service, "wait go", 32) as answers:
            refused = [service.ask("hello") for _ in range(3)]
            (tmp_path / "go").touch()
        assert [answer.status_code for answer in answers] == [200] * 32
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 3
        assert refused[0].json()["code"] == "engine-busy"
        assert service.ask("hello").status_code == 200
        assert service.stop() == 0
        measured = {metric["name"]: metric["data"]["data_points"] for metric in printed(service.log)}
        assert [point["value"] for point in measured["fslm.runs.refused"]] == [3]
        assert [(p["value"], p["attributes"]) for p in measured["fslm.runs"]] == [
            (33, {"gen_ai.workflow.name": "support", "fslm.run.status": "succeeded"})
        ]
        assert [point["count"] for point in measured["gen_ai.execute_tool.duration"]] == [33]
        assert [point["value"] for point in measured["fslm.runs.in_flight"]] == [0]


def printed(log: Path) -> Iterator[dict[str, Any]]:
    """The metrics that the console exporter wrote when the process ended."""
    text = log.read_text()
    data = json.JSONDecoder().raw_decode(text[text.index('{\n    "resource_metrics"') :])[0]
    for resource in data["resource_metrics"]:
        for scope in resource["scope_metrics"]:
            yield from scope["metrics"]


def test_deadlines_and_departures_stop_the_work(tmp_path: Path) -> None:
    with serving(tmp_path, 1, change={"timeout=10": "timeout=3"}) as service:
        with service.departing("hang"):
            eventually(lambda: service.begun("hang") == 1)
        eventually(lambda: service.statuses() == ["cancelled"])
        late = service.ask("hang")
        assert (late.status_code, late.json()["code"]) == (504, "deadline")
        assert service.ask("hello").status_code == 200
        assert service.stop() == 0
        assert service.statuses() == ["cancelled", "failed", "succeeded"]
        assert "Traceback" not in service.log.read_text()


def test_sigterm_lets_what_is_at_work_end(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as service:
        with asked(service, "wait go", 4) as answers:
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: service.log.read_text().count("Shutting down") >= 2)
            (tmp_path / "go").touch()
        assert [answer.status_code for answer in answers] == [200] * 4
        assert service.stop() == 0
        assert service.statuses() == ["succeeded"] * 4


def test_sigterm_cancels_what_does_not_end(tmp_path: Path) -> None:
    change = {'"timeout_graceful_shutdown": 20': '"timeout_graceful_shutdown": 1', "timeout=10": "timeout=1000"}
    with serving(tmp_path, 1, change=change) as service:
        ends: list[int] = []

        def ask() -> None:
            try:
                ends.append(service.ask("hang").status_code)
            except httpx.TransportError:
                ends.append(0)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: service.begun("hang"))
        assert service.stop() == 0
        asking.join()
        assert ends in ([0], [500])  # the connection is cut, or the server says that it gave up
        assert service.statuses() == ["cancelled"]


def test_when_a_worker_is_killed_the_others_go_on_and_its_runs_are_interrupted(tmp_path: Path) -> None:
    with serving(tmp_path, 2, change={"timeout=10": "timeout=1000"}) as service:
        before = service.workers()
        killed: set[int] = set()
        answers: list[int] = []

        def ask() -> None:
            try:
                answers.append(service.ask("wait go").status_code)
            except httpx.TransportError:
                answers.append(0)

        asking = [threading.Thread(target=ask) for _ in range(12)]
        for thread in asking:
            thread.start()
        eventually(lambda: service.begun("wait") == 12)
        killed.add(min(before))
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(service.workers() - before) == 1)
        eventually(lambda: service.statuses().count("interrupted") == 12 - service.statuses().count("running"))
        (tmp_path / "go").touch()
        for thread in asking:
            thread.join()
        lost = answers.count(0)
        assert answers.count(200) == 12 - lost
        eventually(service.ready)
        assert {service.ask("hello").status_code for _ in range(8)} == {200}
        assert service.stop() == 0
        assert service.statuses() == sorted(["interrupted"] * lost + ["succeeded"] * (12 - lost + 8))


def test_it_says_when_it_is_ready_and_why_it_never_will_be(tmp_path: Path) -> None:
    service = Service(tmp_path, "--workers=1")
    try:
        with service.client() as client:
            eventually(lambda: _status(client, "/live") == 200)
            assert _status(client, "/ready") in (200, 503)
        eventually(service.ready)
        assert service.stop() == 0
    finally:
        service.kill()
    broken = tmp_path / "broken"
    broken.mkdir()
    service = Service(broken, "--workers=1", support=SUPPORT.replace("output=Ticket, ", "output=More, "))
    try:
        with service.client() as client:
            eventually(lambda: _status(client, "/ready") not in (0, 503))
            answer = client.get("/ready")
        assert (answer.status_code, answer.json()["code"]) == (500, "check")
    finally:
        service.kill()


def _status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def test_an_engine_opened_while_preloading_is_refused_in_the_workers_and_nothing_hangs(tmp_path: Path) -> None:
    opened = "engine = Engine(stacks=[triage]).__enter__()\napp = FastAPI()\napp.state.engine = engine"
    change = {"app = FastAPI(lifespan=lifespan)": opened}
    service = Service(tmp_path, "--workers=2", change=change)
    try:
        with service.client() as client:
            eventually(lambda: _status(client, "/ready"))
            answers = [client.get("/ready") for _ in range(4)] + [service.ask("hello")]
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "engine-state")}
        assert "after the fork" in answers[0].json()["next"]
        assert service.stop() == 0
    finally:
        service.kill()


@pytest.mark.torch
def test_the_real_stack_answers_and_stops_when_the_client_leaves(tmp_path: Path) -> None:
    with serving(tmp_path, 1, real=True, change={"timeout=10": "timeout=300"}) as service:
        answer = service.ask("where is my order 12345?")
        assert answer.status_code == 200
        assert answer.json()["category"] == "ORDER"
        for _ in range(10):
            with service.departing("where is my order? " * 60):
                eventually(lambda: "running" in service.statuses() or "cancelled" in service.statuses())
            eventually(lambda: "running" not in service.statuses())
            if "cancelled" in service.statuses():  # this time it had not ended yet
                break
        assert "cancelled" in service.statuses()
        assert service.ask("where is my order 12345?").json() == answer.json()
        assert service.stop() == 0
