"""From a stack and labelled rows to a report."""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from .. import __version__
from ..engine import Engine
from ..errors import MissingExtraError, UsageError
from ..schema import dumps, plain_data
from ..stack import Stack, Step
from ..store import ContentMode
from .bootstrap import Bootstrap
from .control import LinearControl, text_of
from .fields import FieldSpec, Json, Mark, fields_of
from .gold import Case, Cases, clusters, coverage, read_cases, slices
from .metrics import Known, judged, known_names, metrics_of
from .quoting import wrong_rows
from .results import ControlReport, Report, Row, Skips, SliceReport, StepReport
from .running import Alone, Answer, Passage, Progress, at_work, host_of, run_alone, run_whole, silent
from .scores import Told, ViewScores, score
from .tabling import figure, view_report

_SLICES = 50
"""Values of one column that are reported on, the commonest first."""
_NEEDS = ("numpy", "sklearn", "matplotlib")

Rows = Iterable[Mapping[str, Any]]


def evaluate(
    stack: Stack[Any, Any] | str,
    rows: Rows,
    *,
    engine: Engine | None = None,
    train: Rows | None = None,
    by: Sequence[str] = (),
    group: str | None = None,
    fail_under: Mapping[str, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    concurrency: int = 32,
    content: ContentMode = "redacted",
    progress: Progress = silent,
) -> Report:
    """Score a stack on labelled rows: whole, step by step, and beside a linear control.

    Args:
        stack: a stack, or the name of an installed one.
        rows: ``{"input": {…}, "output": {…}}``, and optionally ``"steps": {step: {…} or null if skipped}``; anything
            else is a column. What a step should say is taken from ``steps``, else from the output fields that the
            stack's wiring takes over from it.
        engine: an open engine; one that keeps no trace is opened where not given.
        train: rows of the same form for the control to be fitted on; without them there is no control.
        by: columns whose values the rows are also scored by; a list counts for each of its members.
        group: a column whose equal values make rows that belong together: intervals draw them together.
        fail_under: for names as :mod:`fslm_core.evaluate.metrics` has them, the least value wanted.
        resamples: how many draws the intervals are made from.
        seed: decides the draws, and every sampled token of the runs.
        concurrency: rows at work at once.
        content: whether the report's rows in error hold all text (``full``), all but what the models mark as sensitive
            (``redacted``), or labels alone (``none``).
        progress: called as the rows are run.

    Raises:
        UsageError: no row fits the stack, an unknown column or metric.
        MissingExtraError: the extra ``fslm-core[eval]`` is not installed.
        CheckError: the stack was refused.
    """
    host = host_of(engine)
    found = host.stack(stack) if isinstance(stack, str) else stack
    plan = Plan(found, read_cases(found, rows), by=tuple(by), group=group, wanted=dict(fail_under or {}))
    fitted = None if train is None else read_cases(found, train)
    work = Work(plan, fitted, resamples, seed, concurrency, content, progress)
    with at_work(engine, host, [found], concurrency) as opened:
        return work.report(opened)


def require_extra() -> None:
    """See that what evaluation needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    for name in _NEEDS:
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingExtraError(
                f"evaluation needs {name}, which is not installed",
                where=sys.executable,
                hint="run `python -m pip install 'fslm-core[eval]'` with this Python",
            ) from None


@dataclass
class Plan:
    """What will be scored, known before anything is run.

    Args:
        wanted: metric names and the least value wanted of each.

    Raises:
        UsageError: no row fits, an unknown column or metric.
        MissingExtraError: the extra is not installed.
        CheckError: the stack cannot be wired.
    """

    stack: Stack[Any, Any]
    read: Cases
    by: tuple[str, ...] = ()
    group: str | None = None
    wanted: dict[str, float] = field(default_factory=dict)
    data: str = "rows"
    data_sha256: str | None = None
    no_control: str | None = None

    def __post_init__(self) -> None:
        require_extra()
        if not self.cases:
            first = "; ".join(f"line {m.line}: {m.text}" for m in self.read.misfits[:3])
            raise UsageError(
                f"no row of the data fits the stack {self.stack.name}",
                where=self.data,
                found=first or "no rows",
                expected='{"input": {…}, "output": {…}} that fit the stack\'s models',
                hint="mend the rows, or name the columns with --map",
            )
        columns = list(dict.fromkeys(name for case in self.cases for name in case.columns))
        for column in filter(None, (*self.by, self.group)):
            if column not in columns:
                raise UsageError(
                    f"the data have no column {column!r}",
                    where=self.data,
                    expected=", ".join(columns) or "no columns",
                    hint="name one of its columns with --by and --group",
                )
        self.wanted = self.known.read(self.wanted)

    @property
    def cases(self) -> list[Case]:
        """The rows that fit."""
        return self.read.cases

    @cached_property
    def specs(self) -> tuple[FieldSpec, ...]:
        """The output's fields."""
        return fields_of(self.stack.output)

    @cached_property
    def steps(self) -> dict[str, tuple[FieldSpec, ...]]:
        """The fields of each step whose gold is known."""
        found = {}
        for step in self.stack.steps:
            rows, known = coverage(self.cases, step)
            specs = fields_of(step.node.output)
            if rows:  # where gold has all of them skip it, running it is still wrong
                found[step.name] = tuple(s for s in specs if s.name.partition(".")[0] in known) or specs
        return found

    @cached_property
    def slices(self) -> dict[str, dict[str, list[bool]]]:
        """For each column and value, which rows have it."""
        return {column: slices(self.cases, column) for column in self.by}

    @cached_property
    def known(self) -> Known:
        """The names of every figure there will be."""
        shown = {column: list(values)[:_SLICES] for column, values in self.slices.items()}
        return known_names(self.stack, self.specs, self.steps, shown)


@dataclass
class Work:
    """One evaluation under way."""

    plan: Plan
    train: Cases | None
    resamples: int = 1000
    seed: int = 0
    concurrency: int = 32
    content: ContentMode = "redacted"
    progress: Progress = silent

    def report(self, engine: Engine) -> Report:
        """Run everything and put the report together."""
        began = time.monotonic()
        plan, cases = self.plan, self.plan.cases
        control = None if self.train is None else self._control(self.train)
        ways: dict[str, Any] = {"seed": self.seed, "concurrency": self.concurrency, "progress": self.progress}
        passages = run_whole(engine, plan.stack, cases, **ways)
        fed = {
            step.name: run_alone(engine, plan.stack, step, cases, passages, **ways)
            for step in plan.stack.steps
            if step.name in plan.steps
        }
        groups = clusters(cases, plan.group)
        boot = Bootstrap(groups, resamples=self.resamples, seed=self.seed)
        whole = [passage.whole for passage in passages]
        ours = score(self._told([case.gold for case in cases], whole), plan.specs, boot)
        theirs = None if control is None else score(self._told_control(control[1]), plan.specs, boot)
        output = view_report(ours, theirs, _failures(whole))
        steps = tuple(self._step(step, passages, fed.get(step.name), boot) for step in plan.stack.steps)
        parts = tuple(self._slices(ours, theirs, boot))
        metrics = metrics_of(output, steps, parts)
        answers = {name: alone.answers for name, alone in fed.items()}
        errors = tuple(wrong_rows(plan.stack, cases, passages, answers, self.content))
        return Report(
            stack=plan.stack.name,
            description=plan.stack.description,
            data=plan.data,
            data_sha256=plan.data_sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            fslm=__version__,
            seed=self.seed,
            resamples=self.resamples,
            group=plan.group,
            groups=len(set(groups)),
            content=self.content,
            seconds=time.monotonic() - began,
            rows=len(cases),
            wrong=int(len(cases) - ours.right.sum()),
            misfits=tuple(Row(line=m.line, text=m.text) for m in plan.read.misfits),
            notes=tuple(Row(line=m.line, text=m.text) for m in plan.read.notes),
            output=output,
            steps=steps,
            slices=parts,
            slices_left_out={c: len(v) - _SLICES for c, v in plan.slices.items() if len(v) > _SLICES},
            control=None if control is None or self.train is None else self._control_report(control[0], self.train),
            no_control=None if control is not None else plan.no_control or "no training rows were given",
            requirements=judged(plan.wanted, metrics),
            metrics=metrics,
            errors=errors,
        )

    # -- the parts ----------------------------------------------------------------------------------------------

    @cached_property
    def _texts(self) -> list[str]:
        return [text_of(case.input) for case in self.plan.cases]

    def _told(self, gold: Sequence[Json | Mark], answers: Sequence[Answer]) -> Told:
        said = [answer.value for answer in answers]
        return Told(gold, said, self._texts, [answer.confidence for answer in answers])

    def _told_control(self, said: Sequence[Json]) -> Told:
        return Told([case.gold for case in self.plan.cases], said, self._texts, [{}] * len(said))

    def _control(self, train: Cases) -> tuple[LinearControl, list[Json]]:
        """Fit the control, and have it answer every row.

        Raises:
            UsageError: no training row fits the stack.
        """
        if not train.cases:
            found = "; ".join(f"line {m.line}: {m.text}" for m in train.misfits[:3])
            raise UsageError(
                "no training row fits the stack, so the control cannot be fitted",
                where="--train",
                found=found or "no rows",
                expected="rows of the whole stack, in the form of the rows that are scored",
                hint="give such rows, or pass --no-control",
            )
        self.progress("linear control", 0, 1)
        texts = [text_of(case.input) for case in train.cases]
        control = LinearControl(texts, [case.gold for case in train.cases], self.plan.specs)
        said = control.predict(self._texts)
        self.progress("linear control", 1, 1)
        return control, said

    def _control_report(self, control: LinearControl, train: Cases) -> ControlReport:
        known = {dumps(plain_data(case.input)) for case in train.cases}
        return ControlReport(
            rows=len(train.cases),
            seconds=control.seconds,
            seen=sum(dumps(plain_data(case.input)) in known for case in self.plan.cases),
            ways=control.ways,
        )

    def _step(self, step: Step, passages: Sequence[Passage], fed: Alone | None, boot: Bootstrap) -> StepReport:
        cases = self.plan.cases
        gold = [case.steps[step.name] for case in cases]
        known, names = coverage(cases, step)
        missing = sorted(set(step.node.output.model_fields) - names) if names else []
        about: dict[str, Any] = {
            "name": step.name,
            "stage": step.node.name,
            "when": step.when,
            "origin": dict(next((p.origins[step.name] for p in passages if step.name in p.origins), {})),
            "gold_rows": known,
        }
        if fed is None:
            return StepReport(unknown=_why_unknown(step), **about)
        said = [passage.steps[step.name] for passage in passages]
        specs = self.plan.steps[step.name]
        inside = score(self._told(gold, said), specs, boot)
        answered = [answer is not None for answer in fed.answers]
        there = [answer or Answer(Mark.SKIPPED) for answer in fed.answers]
        asked: list[Json | Mark] = [g if a else Mark.UNKNOWN for g, a in zip(gold, answered, strict=True)]
        outside = score(self._told(asked, there), specs, boot)
        lost = boot.ratio(outside.right.astype(float) - (inside.right & answered), answered)
        return StepReport(
            partial=f"no gold for {', '.join(missing)}: not scored" if missing else None,
            unfed=len(fed.unfed),
            ran=fed.ran,
            reused=fed.reused,
            gold_fed=view_report(outside, None, _failures([a for a in fed.answers if a is not None])),
            predicted_fed=view_report(inside, None, _failures(said)),
            lost=figure(lost),
            skips=_skips(cases, gold, said) if step.when is not None else None,
            **about,
        )

    def _slices(self, ours: ViewScores, theirs: ViewScores | None, boot: Bootstrap) -> Iterable[SliceReport]:
        import numpy as np

        for column, values in self.plan.slices.items():
            for value, member in list(values.items())[:_SLICES]:
                there = np.array(member, dtype=float)
                sides = [side for side in (ours, theirs) if side is not None]
                hits = [hits for side in sides for hits in (side.right, *(f.hits for f in side.fields.values()))]
                shares = boot.ratios([(column_of_hits * there, there) for column_of_hits in hits])
                width = len(hits) // len(sides)
                exact, *fields = (figure(*shares[place::width]) for place in range(width))
                yield SliceReport(
                    column=column,
                    value=value,
                    rows=int(there.sum()),
                    exact=exact,
                    fields=dict(zip(ours.fields, fields, strict=True)),
                )


def _failures(answers: Sequence[Answer]) -> dict[str, int]:
    """How many answers failed, by the code of their error."""
    codes = (a.error.code if a.error is not None else "not-reached" for a in answers if a.value is Mark.FAILED)
    return dict(Counter(codes).most_common())


def _why_unknown(step: Step) -> str:
    fields = ", ".join(step.node.output.model_fields)
    return (
        f"the stack's output takes over none of its fields ({fields}) as they are, and no row has"
        f' "steps": {{"{step.name}": {{…}}}}'
    )


def _skips(cases: Sequence[Case], gold: Sequence[Json | Mark], said: Sequence[Answer]) -> Skips:
    rows = [(case.line, g, answer.value) for case, g, answer in zip(cases, gold, said, strict=True)]
    return Skips(
        rightly_skipped=sum(g is Mark.SKIPPED and s is Mark.SKIPPED for _, g, s in rows),
        wrongly_skipped=tuple(line for line, g, s in rows if not isinstance(g, Mark) and s is Mark.SKIPPED),
        wrongly_run=tuple(line for line, g, s in rows if g is Mark.SKIPPED and not isinstance(s, Mark)),
    )


__all__ = ["Plan", "Rows", "Work", "evaluate", "require_extra"]
