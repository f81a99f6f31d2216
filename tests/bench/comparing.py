"""The benchmark itself: every engine through the same gate, the same check and the same rounds, in one run.

For each workload the engines are loaded one after another, and from then on each stands still (stopped by a signal)
while another works. The reference, ``generic`` in float32, comes first: its scores are the gate, its messages say what
the work needs. Then every engine answers the rows that are scored, shows whether it keeps its adapters apart, and is
timed in rounds that take turns, the order turning with every round.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import machine
from .engines import REFERENCE, EngineSpec
from .entrants import Entrant, Found, Plan, Quality, agreement, peer_job, record
from .limit import Adapted, Rates, Shape, Told, Work, work_of
from .measure import figures
from .pilot import Pilot
from .problems import BenchError
from .worker import Job
from .workloads import WORKLOADS, Row, Rows, Workload

WARMING = 8
"""So many stacks, alone and together, warm an engine up; slow ones would need minutes for more."""
Json = dict[str, Any]


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


__all__ = ["Comparison"]
