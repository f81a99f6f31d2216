"""The benchmark itself: every engine through the same gate, the same check and the same rounds, in one run.

For each workload the engines are loaded one after another, and from then on each stands still (stopped by a signal)
while another works. The reference, ``generic`` in float32, comes first: its scores are the gate, its messages say what
the work needs. Then every engine answers the rows that are scored, shows whether it keeps its adapters apart, and is
timed in rounds that take turns, the order turning with every round.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import ROOT, machine
from .engines import REFERENCE, EngineSpec
from .limit import Adapted, Rates, Shape, Told, Work, work_of
from .measure import Timing, figures
from .pilot import Pilot
from .problems import BenchError
from .worker import Job
from .workloads import WORKLOADS, Row, Rows, Workload

POINT = 0.01
"""How far valid outputs and the task's score may fall behind the reference's."""
WARMING = 8
"""So many stacks, alone and together, warm an engine up; slow ones would need minutes for more."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is asked of a run.

    Attributes:
        rows: stacks timed in a round of a closed loop; at least four for each client.
        batch: stacks of an offline batch, all asked at once; 0 times none.
        quality: rows that are scored.
        isolation: rows on whose prompts the adapters are tried; 0 tries none.
        patience: seconds after which a round ends unfinished; a slow engine is scored on what it answers meanwhile.
        torch: settings of the torch backend for our engines, before their own.
        spare: MiB of memory that stay free; where there would be less, an engine is closed between its turns.
    """

    data: Path
    engines: Sequence[EngineSpec]
    workloads: Sequence[str]
    concurrency: Sequence[int] = (1, 32)
    rows: int = 40
    batch: int = 256
    rounds: int = 3
    quality: int = 200
    isolation: int = 4
    patience: float = 240.0
    cores: tuple[int, ...] = (0, 1)
    torch: Mapping[str, Any] = field(default_factory=dict)
    peers_dir: Path | None = None
    gguf: Path | None = None
    spare: int = 4096

    def measurements(self) -> list[tuple[int, int]]:
        """Pairs of concurrency and number of stacks; in a batch they are equal."""
        loops = [(clients, max(self.rows, 4 * clients) if clients > 1 else self.rows) for clients in self.concurrency]
        return loops + ([(self.batch, self.batch)] if self.batch else [])


@dataclass(frozen=True)
class Quality:
    """How good an engine's outputs are, and the reference's on the same rows. Shares, 0 to 1.

    Attributes:
        agreement: the share of the reference's messages that are the same, letter by letter.
    """

    rows: int
    valid: float
    score: float
    reference_valid: float
    reference_score: float
    agreement: float

    @property
    def passed(self) -> bool:
        """Whether neither is more than a point behind."""
        return self.valid >= self.reference_valid - POINT and self.score >= self.reference_score - POINT

    def __str__(self) -> str:
        of = f"(the reference {self.reference_valid:.3f}, {self.reference_score:.3f})"
        return f"valid {self.valid:.3f}, score {self.score:.3f} {of}, {self.agreement:.3f} of the messages the same"


@dataclass
class Entrant:
    """One engine in one workload, and what is known of it so far. ``pilot`` is None while it is closed."""

    spec: EngineSpec
    pilot: Pilot | None
    loaded: Json
    warm_s: float = 0.0
    quality: Quality | None = None
    isolation: Json = field(default_factory=dict)
    timings: dict[int, list[tuple[Timing, Json]]] = field(default_factory=dict)
    peak_rss_mb: float = 0.0


@dataclass
class Found:
    """What a run gives: records for the tables, and what else is worth keeping."""

    records: list[Json] = field(default_factory=list)
    failures: list[Json] = field(default_factory=list)
    overheads: list[Json] = field(default_factory=list)
    work: dict[str, Json] = field(default_factory=dict)
    rates: Rates | None = None
    stopped: bool = False


class Comparison:
    """One run of the benchmark.

    Args:
        say: told what is being done.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._found = Found()
        self._rates: list[Rates] = []

    def run(self) -> Found:
        """Every workload, one after another. Ctrl-C ends it, and what was measured until then counts.

        Raises:
            BenchError: the rows are not there, or the reference itself does not run.
        """
        try:
            for name in self._plan.workloads:
                self._measure_machine()
                self._run(WORKLOADS[name])
        except KeyboardInterrupt:
            self._say("stopped: what was measured until now is told")
            self._found.stopped = True
        return self._found

    def _run(self, workload: Workload) -> None:
        with tempfile.TemporaryDirectory(prefix="fslm-bench-") as folder, ExitStack() as stack:
            _Workload(self._plan, workload, Path(folder), stack, self._say, self._found, self._limits).run()

    def _measure_machine(self) -> None:
        self._rates.append(machine.rates(self._plan.cores))
        self._found.rates = machine.best(self._rates)

    def _limits(self) -> Rates:
        """Measured again after the work: the best that was seen in the whole run counts."""
        self._measure_machine()
        assert self._found.rates is not None
        return self._found.rates


class _Workload:
    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        folder: Path,
        stack: ExitStack,
        say: Callable[[str], None],
        found: Found,
        limits: Callable[[], Rates],
    ) -> None:
        self._plan = plan
        self._workload = workload
        self._folder = folder
        self._stack = stack
        self._say = say
        self._found = found
        self._limits = limits
        self._definition = workload.stack()

    def run(self) -> None:
        rows = self._workload.rows(self._plan.data, self._plan.quality)
        sizes = [size for _ in range(self._plan.rounds) for _, size in self._plan.measurements()]
        warm, tried, *slices = rows.slices([WARMING, self._plan.isolation, *sizes])
        reference, told = self._reference(rows)
        work = self._work(told)
        specs = [s for s in self._plan.engines if s.kind != "peer" or self._workload.peers]
        entrants = list(self._admitted(specs, rows, warm, tried, reference))
        try:
            self._rounds(entrants, warm, slices)
            for entrant in entrants:
                self._close(entrant)
            self._overheads(told, rows)
        finally:
            self._record(entrants, work)

    # -- one engine -------------------------------------------------------------------------------------------------

    def _start(self, spec: EngineSpec, answers: Path | None = None) -> Pilot:
        peer = peer_job(spec, self._plan, self._folder, answers)
        torch = self._plan.torch if spec.ours and spec != REFERENCE else {}
        job = Job(spec, self._workload.name, self._plan.cores, torch, peer, str(answers) if answers else None)
        return self._stack.enter_context(Pilot(job, self._folder))

    def _reference(self, rows: Rows) -> tuple[Json, list[Json]]:
        self._say(f"{self._workload.name}: the reference answers {len(rows.quality)} rows")
        pilot = self._start(REFERENCE)
        pilot.call("load")
        found = pilot.call("ask", inputs=[row.input for row in rows.quality], concurrency=32, record=True)
        pilot.close()
        told: list[Json] = found.pop("messages")
        return found, told

    def _admitted(
        self, specs: Sequence[EngineSpec], rows: Rows, warm: Sequence[Json], tried: Sequence[Json], reference: Json
    ) -> Iterator[Entrant]:
        """Load every engine, and take it through the gate and the check; who cannot is noted and left out."""
        for spec in specs:
            self._say(f"{self._workload.name}: {spec.name} loads, is scored, is checked")
            try:
                entrant = self._admit(spec, rows, warm, tried, reference)
                assert entrant.quality is not None
                self._say(f"{self._workload.name}: {spec.name}: {entrant.quality}")
                yield entrant
            except (BenchError, OSError) as error:
                self._fail(spec, str(error))

    def _admit(
        self, spec: EngineSpec, rows: Rows, warm: Sequence[Json], tried: Sequence[Json], reference: Json
    ) -> Entrant:
        pilot = self._start(spec)
        try:
            entrant = Entrant(spec, pilot, pilot.call("load"))
            entrant.warm_s = self._warm(pilot, warm)
            entrant.quality = self._quality(pilot, rows.quality, reference)
            if self._plan.isolation:
                entrant.isolation = pilot.call("isolation", inputs=list(tried))
            self._close_if_scarce(entrant)
        except BaseException:
            pilot.close()
            raise
        return entrant

    def _quality(self, pilot: Pilot, rows: Sequence[Row], reference: Json) -> Quality:
        inputs = [row.input for row in rows]
        found = pilot.call("ask", inputs=inputs, concurrency=32, patience=self._plan.patience)
        answered: list[int] = found["rows"]
        ours, theirs = (self._scores(rows, said, answered) for said in (found, reference))
        texts = [said["texts"][row] for said in (reference, found) for row in answered]
        return Quality(len(answered), *ours, *theirs, agreement(texts[: len(answered)], texts[len(answered) :]))

    def _scores(self, rows: Sequence[Row], said: Json, answered: Sequence[int]) -> tuple[float, float]:
        """The share of valid outputs, and the mean score."""
        pairs = [(rows[index].output, said["outputs"][index]) for index in answered]
        scores = [self._workload.score(gold, output, self._definition) for gold, output in pairs]
        return statistics.mean(output is not None for _, output in pairs), statistics.mean(scores)

    # -- rounds -----------------------------------------------------------------------------------------------------

    def _rounds(self, entrants: list[Entrant], warm: Sequence[Json], slices: Sequence[Sequence[Json]]) -> None:
        texts = iter(slices)
        for turn in range(self._plan.rounds):
            for clients, _ in self._plan.measurements():
                inputs = next(texts)
                first = turn % len(entrants) if entrants else 0
                for entrant in [*entrants[first:], *entrants[:first]]:
                    self._say(f"{self._workload.name}: round {turn + 1}, {clients} at once, {entrant.spec.name}")
                    try:
                        timing = self._open(entrant, warm).time(inputs, clients, self._plan.patience)
                        entrant.timings.setdefault(clients, []).append(timing)
                        self._note_memory(entrant)
                        self._close_if_scarce(entrant)
                    except BenchError as error:
                        self._fail(entrant.spec, str(error))
                        entrants.remove(entrant)

    def _open(self, entrant: Entrant, warm: Sequence[Json]) -> Pilot:
        """The engine's worker, started and warmed again if it was closed."""
        if entrant.pilot is None:
            entrant.pilot = self._start(entrant.spec)
            entrant.pilot.call("load")
            self._warm(entrant.pilot, warm)
        return entrant.pilot

    def _warm(self, pilot: Pilot, warm: Sequence[Json]) -> float:
        """Seconds of the first questions, alone and together."""
        together = min(WARMING, max(self._plan.concurrency))
        return sum(
            float(pilot.call("ask", inputs=list(warm[:count]), concurrency=clients)["seconds"])
            for count, clients in ((2, 1), (WARMING, together))
        )

    def _close_if_scarce(self, entrant: Entrant) -> None:
        import psutil

        if psutil.virtual_memory().available < self._plan.spare << 20:
            self._close(entrant)

    @staticmethod
    def _note_memory(entrant: Entrant) -> None:
        if entrant.pilot is not None:
            entrant.peak_rss_mb = max(entrant.peak_rss_mb, entrant.pilot.call("memory")["peak_rss_mb"])

    def _close(self, entrant: Entrant) -> None:
        self._note_memory(entrant)
        if entrant.pilot is not None:
            entrant.pilot.close()
            entrant.pilot = None

    def _overheads(self, told: Sequence[Json], rows: Rows) -> None:
        """What the engine, and the bridge to peers, cost by themselves: the reference's answers are given at once."""
        answers = self._folder / "answers.json"
        answers.write_text(json.dumps([[m["stage"], m["ids"], m["text"]] for m in told]), encoding="utf-8")
        inputs = [row.input for row in rows.quality]
        for kind, name in (("replay", "engine"), ("replay-peer", "engine and bridge")):
            spec = EngineSpec(kind, "replay" if kind == "replay" else "replay-peer", "auto")
            pilot = self._start(spec, answers)
            pilot.call("load")
            pilot.call("ask", inputs=inputs[:32], concurrency=8)
            for clients in self._plan.concurrency:
                timing, _ = pilot.time(inputs, clients, self._plan.patience)
                figure = figures([timing])
                self._found.overheads.append(
                    {
                        "workload": self._workload.name,
                        "of": name,
                        "concurrency": clients,
                        "p50_s": figure.p50_s,
                        "s_per_stack": 1 / figure.stacks_per_s,
                    }
                )
            pilot.close()

    def _fail(self, spec: EngineSpec, reason: str) -> None:
        self._say(f"{self._workload.name}: {spec.name} is left out: {reason}")
        self._found.failures.append({"workload": self._workload.name, "engine": spec.name, "reason": reason})

    # -- what came of it --------------------------------------------------------------------------------------------

    def _work(self, told: Sequence[Json]) -> Work:
        from fslm_core import settings
        from fslm_core.checkpoints import resolve

        slms = [(step.stage.name, step.stage.model) for step in self._definition.steps if step.stage.model]
        needs = {step.name: self._definition.wiring.needs(step.name) for step in self._definition.steps}
        adapters = {name: Adapted.of(model.adapter) for name, model in slms if model.adapter}
        shape = Shape.of(resolve(slms[0][1].base, settings.load()).path)
        return work_of([Told.of(message) for message in told], needs, adapters, shape)

    def _record(self, entrants: Sequence[Entrant], work: Work) -> None:
        rates = self._limits()
        self._found.work[self._workload.name] = {
            "tokens_below_adapters": work.mean("lower"),
            "tokens": work.mean("upper"),
            "decisions": work.mean("decisions"),
            "rounds": work.mean("rounds"),
        }
        for entrant in entrants:
            for clients, timings in entrant.timings.items():
                self._found.records.append(
                    record(self._workload.name, self._plan, entrant, clients, timings, work, rates)
                )


def record(
    workload: str,
    plan: Plan,
    entrant: Entrant,
    clients: int,
    timings: Sequence[tuple[Timing, Json]],
    work: Work,
    rates: Rates,
) -> Json:
    """One engine at one concurrency, as it is written to the JSON file. Seconds, MiB, shares from 0 to 1.

    ``prompt_tokens_computed``, ``prompt_tokens_cached`` and ``forced`` are of a whole stack; ``limit_s`` is the least
    time of a stack in the engine's own precision class, ``share_of_limit`` how much of that speed was reached,
    ``share_of_best_limit`` the same beside the best class, and ``share_of_limit_drafted`` beside perfect drafts.
    """
    figure = figures([timing for timing, _ in timings])
    stacks = sum(len(timing.latencies) for timing, _ in timings)
    usage = {key: sum(told["usage"][key] for _, told in timings) for key in timings[0][1]["usage"]}
    messages = sum(told["messages"] for _, told in timings)
    precision = entrant.spec.precision
    least, best = work.seconds(rates, precision, clients), work.seconds(rates, "auto", clients)
    drafted = work.seconds(rates, precision, clients, drafted=True)
    taken = figure.p50_s if clients == 1 else 1 / figure.stacks_per_s
    quality = entrant.quality
    assert quality is not None
    verdict = entrant.isolation.get("verdict", "untried")
    return {
        "engine": entrant.spec.name,
        "ours": entrant.spec.ours,
        "precision": entrant.spec.precision,
        "runs": entrant.loaded["runs"],
        "workload": workload,
        "mode": "batch" if clients == plan.batch else "loop",
        "concurrency": clients,
        **{key: value for key, value in asdict(figure).items()},
        "valid": quality.valid,
        "score": quality.score,
        "reference_score": quality.reference_score,
        "scored_rows": quality.rows,
        "gate": quality.passed,
        "agreement": quality.agreement,
        "isolation": verdict,
        "isolation_counts": entrant.isolation,
        "counts_as_peer": quality.passed and verdict != "fails" and entrant.spec.kind == "peer",
        "peak_rss_mb": entrant.peak_rss_mb,
        "load_s": entrant.loaded["load_s"],
        "prepare_s": entrant.loaded["prepare_s"],
        "warm_s": entrant.warm_s,
        "forwards_per_message": usage["forwards"] / max(1, messages),
        "prompt_tokens": usage["prompt"] / stacks,
        "prompt_tokens_computed": (usage["prompt"] - usage["cached"]) / stacks,
        "prompt_tokens_cached": usage["cached"] / stacks,
        "output_tokens": usage["output"] / stacks,
        "forced": usage["forced"] / stacks,
        "limit_s": least,
        "share_of_limit": least / taken,
        "share_of_best_limit": best / taken,
        "limit_drafted_s": drafted,
        "share_of_limit_drafted": drafted / taken,
        "settings": entrant.loaded["settings"],
    }


def agreement(reference: Sequence[Mapping[str, str]], found: Sequence[Mapping[str, str]]) -> float:
    """The share of the reference's messages that are the same, letter by letter.

    >>> agreement([{"a": "1", "b": "2"}], [{"a": "1", "b": "3"}])
    0.5
    """
    pairs = [
        (text, other.get(step)) for ours, other in zip(reference, found, strict=True) for step, text in ours.items()
    ]
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


def peer_job(spec: EngineSpec, plan: Plan, folder: Path, answers: Path | None) -> Json | None:
    """How the engine's own process is started, for those that have one.

    Raises:
        BenchError: the peer's environment is not there.
    """
    if spec.kind == "replay-peer":
        command = [sys.executable, str(ROOT / "tests/bench/replay.py")]
        echo = {"arm": "replay", "work_dir": str(folder), "answers": str(answers)}
        return {"command": command, "environment": {}, "job": echo}
    if spec.peer is None:
        return None
    from .peers import PEERS, environments

    peer, arm = PEERS[spec.peer[0]], spec.peer[1]
    home = plan.peers_dir or environments()
    if not peer.installed(home):
        raise BenchError(f"{peer.name} is not installed: python -m tests.bench.peers install --dir {home} {peer.name}")
    work_dir = home / "work" / peer.name
    work_dir.mkdir(parents=True, exist_ok=True)
    job = {
        "gguf": str(plan.gguf) if plan.gguf else None,
        "arm": arm,
        "threads": len(plan.cores),
        "work_dir": str(work_dir),
    }
    return {"command": peer.command(home), "environment": peer.environment(), "job": job}


__all__ = ["POINT", "Comparison", "Entrant", "Found", "Plan", "agreement", "peer_job", "record"]
