"""The scheduler on random schedules: who is admitted when, who is let go, and what becomes of everybody else.

Whatever is done to the worker is done on its own thread, before a chosen forward, so that no test depends on time.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fslm_core.backends.protocol import Generation, ModelRef, Request, Sampling
from fslm_core.backends.torch import hosted
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.backends.torch.encoding import Encoded
from fslm_core.backends.torch.fused import flight
from fslm_core.backends.torch.fused.flight import Flight
from fslm_core.backends.torch.hosted import Hosted
from fslm_core.backends.torch.row import Row
from fslm_core.backends.torch.vocabulary import Grammar
from fslm_core.backends.torch.worker import Done, Mailbox, Task, Worker
from fslm_core.errors import (
    AdapterError,
    BackendError,
    ContextOverflowError,
    DeadlineExceeded,
    EngineStateError,
    FslmError,
)
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import TorchSettings

from .flights import TARGETS, TIMES, Mute, assert_faithful, make_base, prompt, wreck
from .test_torch_backend_adapters import drop_key, make_adapter

pytestmark = pytest.mark.torch

STATIC = prompt(1, 20)
TEXTS = [
    STATIC,
    prompt(2, 45, STATIC),
    prompt(3, 90, STATIC),
    prompt(4, 12),
    prompt(5, 150, prompt(2, 45, STATIC)),
    (7,),
]
SLOT = 192
"""The tokens of the longest slot that these texts and their answers need."""


class House(NamedTuple):
    """A base and adapters of every kind."""

    base: Path
    top: Path
    low: Path
    misfit: Path
    broken: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("house")
    base = make_base(folder / "base", num_hidden_layers=2)
    top, low, misfit, broken = (
        make_adapter(base, folder / name, seed, target_modules=TARGETS, layers_to_transform=layers)
        for seed, (name, layers) in enumerate({"top": [1], "low": [0], "misfit": [0], "broken": [1]}.items())
    )
    drop_key(misfit)
    return House(base, top, low, misfit, wreck(broken))


class Box:
    """A mailbox that needs no event loop."""

    def __init__(self) -> None:
        self.letters: list[object] = []
        self.closed = False

    def put(self, letter: object) -> None:
        """Keep it."""
        self.letters.append(letter)


class Broken(Grammar):
    """A grammar that gives up when it is first asked."""

    def __init__(self) -> None:
        pass

    def advance(self, limit: int) -> list[int]:
        """Nothing is dictated."""
        return []

    @property
    def finished(self) -> bool:
        """Never."""
        return False

    def valid(self, tokens: list[int]) -> int:
        """No draft."""
        return 0

    def allowed(self) -> NDArray[Any]:
        """Give up."""
        raise BackendError("the grammar broke off", where="a test")


@dataclass(eq=False)
class Job:
    """A task of random shape, and what is to happen to it.

    Attributes:
        at: before which forward it is sent.
        fate: ``cancel`` and ``late`` happen ``after`` so many forwards more; the others are its own fault.
    """

    text: int = 0
    adapter: str | None = None
    most: int = 3
    group: str = "a"
    priority: int = 0
    count: int = 1
    at: int = 0
    fate: str = "well"
    after: int = 0
    task: Task = field(init=False)
    rows: list[Row] = field(init=False)
    box: Box = field(default_factory=Box)

    def make(self, house: House) -> None:
        """Make the task and its rows."""
        name = self.fate if self.fate in ("misfit", "broken") else self.adapter
        ref = ModelRef("tiny", house.base, getattr(house, name) if name else None)
        ids = () if self.fate == "empty" else TEXTS[self.text]
        self.task = Task(cast(Mailbox, self.box), ref, priority=self.priority, group=self.group)
        self.rows = [
            Row(
                prompt=Encoded(ids, static=min(len(ids), len(STATIC)) if self.text < 3 else 0),
                index=index,
                max_tokens=self.most,
                sampling=Sampling(),
                seed=0,
                ends=frozenset(),
                grammar=Broken() if self.fate == "grammar" else None,
                writer=Mute(),
                emit=lambda _: None,
                stopped=self.task.stopped,
                submitted=0.0,
            )
            for index in range(self.count)
        ]
        self.task.rows = self.rows

    def stop(self) -> None:
        """Cancel it, or let its deadline pass."""
        if self.fate == "cancel":
            self.task.over = True
        else:
            self.task.deadline = 0.0

    @property
    def cost(self) -> int:
        """Of one of its rows, as the worker reckons."""
        return len(TEXTS[self.text]) + self.most

    @property
    def ended(self) -> bool:
        """True if nothing more is to come."""
        return self.task.over or len(self.box.letters) == len(self.rows)


class Stand:
    """A worker, with everything noted that it does.

    Args:
        slots: how many of :data:`SLOT` tokens its budget allows.
        before: called before each forward with its number, from 1; may raise.
    """

    def __init__(
        self, house: House, *, most: int = 3, slots: int = 3, before: Callable[[int], None] | None = None
    ) -> None:
        self.house = house
        self.forwards = 0
        self.admitted: list[Row] = []
        self.sent: list[Job] = []
        self.problems: list[str] = []
        self._most = most
        self._slots = slots
        self._before = before
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._news = threading.Condition()
        self._patch = pytest.MonkeyPatch()
        self._flights: list[Flight] = []
        self._patch.setattr(hosted, "Flight", self._flight)
        self._patch.setattr(Hosted, "admit", self._admit(Hosted.admit))
        self.worker = Worker(TorchSettings(device="cpu", max_batch=most), self._forward)

    def _flight(self, *args: Any, **options: Any) -> Flight:
        made = Flight(*args, **options)
        made._slots._budget = self._slots * SLOT * made._slots.bytes_per_token
        self._flights.append(made)
        return made

    def _admit(self, admit: Callable[[Hosted, Row, ModelRef], bool]) -> Callable[[Hosted, Row, ModelRef], bool]:
        def noted(self_: Hosted, row: Row, ref: ModelRef) -> bool:
            admitted = admit(self_, row, ref)
            if admitted:
                self._note(row)
            return admitted

        return noted

    def _note(self, row: Row) -> None:
        self.admitted.append(row)
        (own,) = [job for job in self.sent if row in job.rows]
        for job in self.sent:
            waiting = [] if job.task.over else [r for r in job.rows if r not in self.admitted]
            if waiting and job.priority < own.priority:
                self.problems.append(f"{job} waits, and {own}, which is less urgent, goes first")
            if waiting and (job.group, job.priority) == (own.group, own.priority) and self._came(job, own):
                self.problems.append(f"{job} came before {own}")

    def _came(self, job: Job, own: Job) -> bool:
        return self.sent.index(job) < self.sent.index(own)

    def _forward(self, rows: int, tokens: int) -> None:
        self.forwards += 1
        if rows > self._most:
            self.problems.append(f"{rows} rows in flight")
        for made in self._flights:
            if made._slots.reserved > made._slots._budget:
                self.problems.append(f"{made._slots.reserved} bytes of {made._slots._budget}")
        self._happen(self.forwards)
        if self._before:
            self._before(self.forwards)

    def _happen(self, until: int) -> None:
        while self._events and self._events[0][0] <= until:
            self._events.pop(0)[2]()

    def send(self, job: Job) -> None:
        """Submit a job, from whichever thread."""
        self.sent.append(job)
        self.worker.submit(job.task)

    def play(self, jobs: Sequence[Job]) -> None:
        """Let everything happen at its forward, or as soon as nothing else is left to do, and wait for the end."""
        for job in jobs:
            job.make(self.house)
            self._plan(job.at, partial(self.send, job))
            if job.fate in ("cancel", "late"):
                self._plan(job.at + job.after, job.stop)
        while self._events:
            self.errand(lambda: self._happen(self._events[0][0]) if self._events else None)
            self.wait()

    def _plan(self, at: int, event: Callable[[], None]) -> None:
        self._events.append((at, next(self._order), event))
        self._events.sort(key=lambda e: e[:2])

    def errand(self, work: Callable[[], None]) -> None:
        """Do something on the worker's thread, between forwards, and wait for it."""
        box = Posted()
        self.worker.submit(Task(cast(Mailbox, box), ModelRef("tiny", self.house.base), errand=lambda _: work()))
        assert box.came.wait(60)
        assert isinstance(box.letters[0], Done), box.letters

    def wait(self) -> None:
        """Wait until nothing is under way: a last row has come and gone, and with it all that were cancelled."""
        while True:
            box = Posted()
            last = Job(most=1, group="last", priority=99, box=box)
            last.make(self.house)
            self.errand(partial(self.send, last))
            assert box.came.wait(60)
            if all(job.ended for job in self.sent):
                return

    def close(self) -> None:
        """Close the worker; nothing may be left in it."""
        try:
            self.worker.close()
            for made in self._flights:
                assert made._slots.reserved <= made._slots._budget
        finally:
            self._patch.undo()

    def check(self) -> None:
        """Everybody has what is theirs: an answer as if alone, one error, or, where cancelled, no error."""
        assert not self.problems
        for job in self.sent:
            errors = [letter for letter in job.box.letters if isinstance(letter, FslmError)]
            answers = [letter for letter in job.box.letters if isinstance(letter, Generation)]
            assert len(errors) + len(answers) == len(job.box.letters)
            assert not errors or (job.box.letters[-1] is errors[0] and len(errors) == 1)
            adapter = getattr(self.house, job.adapter) if job.adapter else None
            for answer in answers:
                row = job.rows[answer.index]
                assert_faithful(row, self.house.base, adapter)
                assert answer.tokens == tuple(row.tokens) and answer.counts.prompt == len(row.prompt.ids)
            kinds = [type(error) for error in errors]
            match job.fate:
                case "well":
                    assert len(answers) == job.count and not errors
                case "cancel":
                    assert not errors
                case "late":
                    assert kinds == [DeadlineExceeded] or len(answers) == job.count
                case "misfit":
                    assert kinds == [AdapterError] and not answers
                case _:
                    assert kinds == [BackendError] and not answers

    def empty(self) -> None:
        """Nothing is in flight, nobody waits but the errand that asks, every slot is free."""
        assert not self.worker._owners
        assert sum(map(len, self.worker._queues.values())) == 1
        for made in self._flights:
            assert not made.rows and not any(slot.busy for slot in made._slots)


class Posted(Box):
    """A box that tells when something has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def put(self, letter: object) -> None:
        """Keep it and tell."""
        super().put(letter)
        self.came.set()


jobs = st.builds(
    Job,
    text=st.integers(0, len(TEXTS) - 1),
    adapter=st.sampled_from([None, "top", "low"]),
    most=st.integers(1, 9),
    group=st.sampled_from(["batch", "batch", "one", "two"]),
    priority=st.sampled_from([0, 0, 0, 1]),
    count=st.sampled_from([1, 1, 1, 2]),
    at=st.integers(0, 12),
    fate=st.sampled_from(["well", "well", "well", "cancel", "late", "misfit", "broken", "empty", "grammar"]),
    after=st.integers(0, 8),
)


@settings(max_examples=14 * TIMES, suppress_health_check=list(HealthCheck))
@given(st.lists(jobs, min_size=2, max_size=14), st.integers(1, 4), st.integers(1, 4), st.sampled_from([11, 64, 256]))
def test_every_job_has_what_it_would_have_alone_and_nothing_is_left(
    house: House, schedule: list[Job], most: int, slots: int, tokens: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "TOKENS", tokens)
        for job in schedule:  # hypothesis may show the same one again
            job.box = Box()
        stand = Stand(house, most=most, slots=slots)
        try:
            stand.play(schedule)
            stand.errand(stand.empty)
            stand.check()
        finally:
            stand.close()


@settings(max_examples=6 * TIMES, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=6), st.integers(1, 4))
def test_an_interactive_run_waits_for_at_most_one_row_of_every_other(
    house: House, singles: list[tuple[int, int]], most: int
) -> None:
    """However long the batch is: its next row and those of other runs, and no more."""
    batch = [Job(text=n % 4, most=4, group="batch") for n in range(24)]
    runs = [Job(text=text, most=4, group=f"run {n}", at=at) for n, (at, text) in enumerate(singles)]
    stand = Stand(house, most=most)
    ahead: dict[Job, int] = {}
    send = stand.send

    def noted(job: Job) -> None:
        ahead[job] = len(stand.admitted)
        send(job)

    stand.send = noted  # type: ignore[method-assign]
    try:
        stand.play([*batch, *runs])
        stand.check()
        for run in runs:
            others = stand.admitted[ahead[run] : stand.admitted.index(run.rows[0])]
            groups = [job.group for row in others for job in stand.sent if row in job.rows]
            assert len(groups) == len(set(groups)), groups
    finally:
        stand.close()


def test_two_batches_share_the_machine_by_what_their_rows_cost(house: House) -> None:
    long = [Job(text=2, most=2, group="long") for _ in range(6)]
    short = [Job(text=3, most=2, group="short") for _ in range(36)]
    stand = Stand(house, most=1)
    try:
        stand.play([*long, *short])
        stand.check()
        served: Counter[str] = Counter()
        for row in stand.admitted:
            (job,) = [job for job in stand.sent if row in job.rows]
            before = stand.admitted[: stand.admitted.index(row)]
            if all(jobs[-1].rows[0] not in before for jobs in (long, short)):
                assert abs(served["long"] - served["short"]) <= long[0].cost + short[0].cost
            served[job.group] += job.cost
    finally:
        stand.close()


@pytest.mark.parametrize("when", [1, 4])
def test_a_forward_that_fails_ends_those_in_flight_and_none_that_wait(when: int, house: House) -> None:
    def fail(forward: int) -> None:
        if forward == when:
            raise RuntimeError("a defect of torch")

    stand = Stand(house, most=2, before=fail)
    schedule = [Job(text=1, most=9, adapter=a) for a in ("top", None, "top", None, "low")]
    try:
        stand.play(schedule)
        stand.errand(stand.empty)
        for job in schedule[:2]:
            job.fate = "failed"
            (error,) = job.box.letters
            assert "a defect of torch" in str(error)
        stand.check()
    finally:
        stand.close()


@pytest.mark.parametrize("when", [1, 3, 7])
def test_closing_ends_everybody_within_one_forward_and_nobody_twice(when: int, house: House) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(forward: int) -> None:
        if forward == when:
            reached.set()
            assert release.wait(60)

    stand = Stand(house, most=3, before=hold)
    schedule = [Job(text=n % 5, most=9, adapter=(None, "top", "low")[n % 3], count=1 + n % 2) for n in range(9)]
    for job in schedule:
        job.make(house)

    def send_all() -> None:
        for job in schedule:
            stand.send(job)

    stand.errand(send_all)
    assert reached.wait(60)
    closing = threading.Thread(target=stand.close)
    closing.start()
    while not stand.worker._closing:  # the flag is set before the thread is waited for
        pass
    release.set()
    closing.join(60)
    assert not closing.is_alive() and not stand.worker._thread.is_alive()
    assert stand.forwards == when
    for job in schedule:
        assert isinstance(job.box.letters[-1], EngineStateError)
        assert sum(isinstance(letter, FslmError) for letter in job.box.letters) == 1
    with pytest.raises(EngineStateError):
        stand.worker.submit(schedule[0].task)
    stand.worker.close()


# Through the backend.


def ask(model: ModelRef, text: str, **options: Any) -> Request:
    options = {"grammar": None, "max_tokens": 12, **options}
    return Request(text, Prompt((Span("Say: ", "system"), Span(text, "user", static=False))), model, **options)


async def whole(backend: TorchBackend, request: Request) -> Generation:
    (generation,) = [piece async for piece in backend.open(request) if isinstance(piece, Generation)]
    return generation


async def alone(requests: Sequence[Request]) -> list[Generation]:
    found = []
    for request in requests:
        backend = TorchBackend(TorchSettings(device="cpu"))
        try:
            found.append(await whole(backend, request))
        finally:
            await backend.aclose()
    return found


@pytest.mark.parametrize("when", [2, 9])
def test_cancelled_too_long_or_foreign_requests_leave_the_others_as_they_are_alone(
    when: int, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model()
    adapter = make_adapter(base, tmp_path / "adapter", 1)
    models = [ModelRef("tiny", base), ModelRef("tiny", base, adapter)]
    good = [ask(models[n % 2], "Where is my order? " * (1 + 3 * n), max_tokens=6 + n) for n in range(5)]
    doomed = [ask(models[n % 2], f"{n} " * 20, max_tokens=60) for n in range(3)]
    too_long, foreign = ask(models[0], "x" * 3000), ask(ModelRef("tiny", base, tmp_path / "none"), "hi")

    async def main() -> tuple[list[Any], list[Any]]:
        loop, forwards = asyncio.get_running_loop(), itertools.count(1)
        running: list[asyncio.Task[Generation]] = []

        async def cancel() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        def before(rows: int, tokens: int) -> None:
            if next(forwards) == when:
                asyncio.run_coroutine_threadsafe(cancel(), loop).result(60)

        backend = TorchBackend(TorchSettings(device="cpu", max_batch=4), on_forward=before)
        try:
            running += [asyncio.create_task(whole(backend, r)) for r in doomed]
            rest = (whole(backend, r) for r in (*good, too_long, foreign))
            found = await asyncio.gather(*rest, return_exceptions=True)
            return found, await asyncio.gather(*running, return_exceptions=True)
        finally:
            await backend.aclose()

    found, ended = asyncio.run(main())
    assert isinstance(found[-2], ContextOverflowError) and isinstance(found[-1], AdapterError)
    assert all(isinstance(e, asyncio.CancelledError) for e in ended)
    for one, other in zip(asyncio.run(alone(good)), found, strict=False):
        assert (one.tokens, one.text, one.finish_reason) == (other.tokens, other.text, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)


def test_closing_the_backend_with_a_crowd_in_flight_and_waiting(tiny_model: Callable[..., Path]) -> None:
    model = ModelRef("tiny", tiny_model())

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        closing: list[Future[None]] = []

        def before(rows: int, tokens: int) -> None:
            if not closing:
                closing.append(asyncio.run_coroutine_threadsafe(backend.aclose(), loop))

        backend = TorchBackend(TorchSettings(device="cpu", max_batch=2), on_forward=before)
        found = await asyncio.gather(
            *(whole(backend, ask(model, str(n), max_tokens=400)) for n in range(12)), return_exceptions=True
        )
        await asyncio.wrap_future(closing[0])
        return found

    assert all(isinstance(error, EngineStateError) for error in asyncio.run(main()))
