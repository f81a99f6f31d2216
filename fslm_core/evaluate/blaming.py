"""Which step's error costs the answer: each wrong message is put right in turn, and what follows is run again.

A step whose message is wrong need not be at fault: what it was given may have been wrong. So a row that came out wrong
is gone through from its first step on. The first that said something else than it should have is given its gold
message, and the rest is replayed (:meth:`~fslm_core.engine.Engine.replay`); then the next that still errs, now that all
before it is right, and so on. Those erred on their own. Of these, the first with which alone the answer comes out right
is to blame; where it takes several, several are.

The method is a counterfactual one: J. Pearl, Causality (2nd ed., 2009), chapter 7; for pipelines of models, whose parts
were put right by people, B. Nushi and others, On Human Intellect and Machine Failures: Troubleshooting Integrative
Machine Learning Systems (AAAI 2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..engine import Engine, Outcome, Run
from ..errors import FslmError, RunFailed, StoreError
from ..explain.paired import wilson
from ..message import Message
from ..schema import plain_data
from ..stack import Stack
from ..store import concerns_all
from .fields import Json, Mark, same
from .gold import Case, Cases, coverage, read_cases
from .results import Data, Interval
from .running import Progress, at_work, host_of, silent

SEVERAL, ELSEWHERE = "(several)", "(elsewhere)"
"""What is to blame where no step alone is: several together; or none of those whose gold is known."""
SCHEMA = "fslm-blame/1"
"""Names the layout; another layout has another name."""


class Share(Interval):
    """So many ``rows`` of ``n``, as a share with its 95 % interval (Wilson); null where there are none."""

    rows: int

    @classmethod
    def made(cls, rows: int, n: int) -> Share:
        """The share and its interval."""
        low, high = wilson(rows, n) if n else (None, None)
        return cls(rows=rows, n=n, value=rows / n if n else None, low=low, high=high)


class StepBlame(Data):
    """What one step has to do with the wrong answers.

    Attributes:
        known: rows in which what it should say is known.
        wrong: of these, those in which it said something else, whatever came of it, and whoever was at fault.
        own: of the wrong answers, those in which it errs though all before it is put right.
        blamed: of the wrong answers, those that come out right once this step alone is put right, and no earlier one.
        right_then: the share of all rows that would be right if this step made no error of its own.
        fields: which of its fields were wrong in the rows it is blamed for, and how often.
    """

    step: str
    known: int
    wrong: Share
    own: Share
    blamed: Share
    right_then: Share
    fields: dict[str, int]


class BlamedRow(Data):
    """A row that came out wrong: the run, what is to blame, and by step the run in which it was put right."""

    line: int
    run: str | None
    blamed: str
    error: str | None = None
    replays: dict[str, str]


class Blame(Data):
    """Which steps' errors cost the answers of a set of rows.

    Attributes:
        right: the share of rows whose whole output is right.
        several: of the wrong answers, those that come out right only with several steps put right together.
        elsewhere: those that stay wrong with all known gold in place: a step whose gold is not known, or the wiring.
        unknown: steps that no row has gold for.
    """

    schema_name: str = SCHEMA
    stack: str
    rows: int
    right: Share
    steps: list[StepBlame]
    several: Share
    elsewhere: Share
    wrong: list[BlamedRow]
    unknown: list[str]
    notes: list[str]


@dataclass
class _Tried:
    """A wrong row, and what came of putting its steps right.

    Attributes:
        own: the steps that erred on their own, and in which fields.
        repaired: whether the answer comes out right with this step alone put right.
        together: whether it does with all of them.
    """

    case: Case
    run: Run[Any] | None
    error: str | None
    own: dict[str, list[str]] = field(default_factory=dict)
    repaired: dict[str, bool] = field(default_factory=dict)
    replays: dict[str, str] = field(default_factory=dict)
    together: bool = False

    @property
    def blamed(self) -> str:
        alone = next((step for step, good in self.repaired.items() if good), None)
        return alone or (SEVERAL if self.together else ELSEWHERE)


def blame(
    stack: Stack[Any, Any] | str,
    rows: Iterable[Mapping[str, Any]] | Cases,
    *,
    engine: Engine | None = None,
    seed: int = 0,
    concurrency: int = 32,
    progress: Progress = silent,
) -> Blame:
    """Find out which steps' errors cost the answers.

    Args:
        rows: ``{"input": {…}, "output": {…}}`` and, where the output does not say what a step should say, ``"steps"``,
            as :func:`~fslm_core.evaluate.evaluate` takes them.
        engine: an open engine, whose trace gets every run and replay; one without a trace is opened where not given.
        concurrency: runs at once; no more than the engine's ``max_in_flight``.

    Raises:
        StoreError: the trace cannot be written.

    >>> from pydantic import BaseModel
    >>> from fslm_core import tool
    >>> class Letter(BaseModel):
    ...     text: str
    >>> class Kind(BaseModel):
    ...     kind: str
    >>> class Reply(BaseModel):
    ...     reply: str
    >>> @tool("demo.kind", version="1", pure=True)
    ... def kind(letter: Letter) -> Kind:
    ...     return Kind(kind="praise" if "good" in letter.text else "bug")
    >>> @tool("demo.reply", version="1", pure=True)
    ... def reply(kind: Kind) -> Reply:
    ...     return Reply(reply="Thanks!" if kind.kind == "praise" else "Sorry!")
    >>> demo = Stack("demo", input=Letter, output=Reply, steps=[kind, reply])
    >>> rows = [
    ...     {"input": {"text": "good"}, "output": {"reply": "Thanks!"}, "steps": {"kind": {"kind": "praise"}}},
    ...     {"input": {"text": "great"}, "output": {"reply": "Thanks!"}, "steps": {"kind": {"kind": "praise"}}},
    ... ]
    >>> found = blame(demo, rows)
    >>> found.right.value, [(step.step, step.blamed.rows) for step in found.steps]
    (0.5, [('kind', 1), ('reply', 0)])
    """
    host = host_of(engine)
    found = host.stack(stack) if isinstance(stack, str) else stack
    cases = rows if isinstance(rows, Cases) else read_cases(found, rows)
    with at_work(engine, host, [found], concurrency) as opened:
        return _Blaming(found, cases, opened, seed, concurrency, progress).report()


class _Blaming:
    def __init__(
        self, stack: Stack[Any, Any], cases: Cases, engine: Engine, seed: int, concurrency: int, progress: Progress
    ) -> None:
        self.stack, self.cases, self.engine = stack, cases, engine
        self.seed, self.concurrency, self.progress = seed, min(concurrency, engine.max_in_flight), progress

    def report(self) -> Blame:
        """Run all rows, put the wrong ones right step by step, and count."""
        said, wrong = self._run()
        with ThreadPoolExecutor(self.concurrency) as pool:
            self.progress("steps put right", 0, len(wrong))
            for done, _ in enumerate(pool.map(self._put_right, wrong), start=1):
                self.progress("steps put right", done, len(wrong))
        rows, right = len(self.cases.cases), len(self.cases.cases) - len(wrong)
        known = {step.name: coverage(self.cases.cases, step)[0] for step in self.stack.steps}
        steps = [
            StepBlame(
                step=name,
                known=count,
                wrong=Share.made(said[name], count),
                own=Share.made(sum(name in row.own for row in wrong), len(wrong)),
                blamed=Share.made(sum(row.blamed == name for row in wrong), len(wrong)),
                right_then=Share.made(right + sum(row.repaired.get(name, False) for row in wrong), rows),
                fields=dict(
                    Counter(each for row in wrong if row.blamed == name for each in row.own[name]).most_common()
                ),
            )
            for name, count in known.items()
            if count
        ]
        return Blame(
            stack=self.stack.name,
            rows=rows,
            right=Share.made(right, rows),
            steps=steps,
            several=Share.made(sum(row.blamed == SEVERAL for row in wrong), len(wrong)),
            elsewhere=Share.made(sum(row.blamed == ELSEWHERE for row in wrong), len(wrong)),
            wrong=[
                BlamedRow(
                    line=row.case.line,
                    run=row.run.id if row.run else None,
                    blamed=row.blamed,
                    error=row.error,
                    replays=row.replays,
                )
                for row in wrong
            ],
            unknown=[name for name, count in known.items() if not count],
            notes=[f"line {note.line}: {note.text}" for note in (*self.cases.misfits, *self.cases.notes)],
        )

    def _run(self) -> tuple[dict[str, int], list[_Tried]]:
        """How often each step said something else than it should have, and the rows that came out wrong."""
        said = dict.fromkeys((step.name for step in self.stack.steps), 0)
        wrong: list[_Tried] = []
        cases = self.cases.cases
        self.progress("whole stack", 0, len(cases))
        outcomes = self.engine.map(
            self.stack, (case.input for case in cases), concurrency=self.concurrency, seed=self.seed
        )
        for done, (case, outcome) in enumerate(zip(cases, outcomes, strict=True), start=1):
            if isinstance(outcome.error, StoreError) and concerns_all(outcome.error):
                raise outcome.error
            for step, _ in _differing(case, outcome.run):
                said[step] += 1
            if not _right(outcome, case):
                error = outcome.error.code if outcome.error is not None else None
                wrong.append(_Tried(case, outcome.run, error))
            self.progress("whole stack", done, len(cases))
        return said, wrong

    def _put_right(self, row: _Tried) -> None:
        """Put the steps right that err on their own, one after the other, then each of them alone."""
        run = row.run
        while run is not None:
            erring = next(((step, fields) for step, fields in _differing(row.case, run) if step not in row.own), None)
            if erring is None:
                break
            step, fields = erring
            row.own[step] = fields
            row.together, run = self._replayed(row, list(row.own))
            row.replays[SEVERAL] = run.id
            if len(row.own) == 1:
                row.repaired[step], row.replays[step] = row.together, run.id
            if row.together:
                break
        if len(row.own) == 1:
            del row.replays[SEVERAL]
        for step in list(row.own)[1:]:
            row.repaired[step], made = self._replayed(row, [step])
            row.replays[step] = made.id

    def _replayed(self, row: _Tried, steps: Sequence[str]) -> tuple[bool, Run[Any]]:
        """Whether the row comes out right with these steps put right, and the run that shows it."""
        assert row.run is not None
        edits: Json = {}
        for step in steps:
            gold = row.case.steps[step]
            assert not isinstance(gold, Mark)
            edits.update({f"{step}.{name}": value for name, value in gold.items()})
        try:
            made = self.engine.replay(row.run, edits=edits, stack=self.stack)
        except RunFailed as failed:
            if isinstance(failed.error, StoreError) and concerns_all(failed.error):
                raise failed.error from None
            return False, failed.run
        return made.result is not None and same(row.case.gold, plain_data(made.result.content)), made


def _right(outcome: Outcome[Any], case: Case) -> bool:
    return outcome.error is None and same(case.gold, plain_data(outcome.output))


def _differing(case: Case, run: Run[Any] | None) -> Iterator[tuple[str, list[str]]]:
    """The steps, in their order, that said something else than they should have, and in which fields.

    A step that did not come to run, though it should have, is not among them: what kept it from running is. One that
    failed is, with all its fields.
    """
    for step, gold in case.steps.items():
        if isinstance(gold, Mark) or run is None:
            continue
        message = run.messages.get(step)
        if isinstance(message, Message):
            said = plain_data(message.content)
            fields = [name for name, value in gold.items() if not same(value, said.get(name))]
            if fields:
                yield step, fields
        elif message is None and isinstance(run.error, FslmError) and _failed_at(run, step):
            yield step, list(gold)


def _failed_at(run: Run[Any], step: str) -> bool:
    place = f"stack {run.stack}, step {step}"
    return f"{run.error.where or '' if run.error else ''}, ".startswith((f"{place}, ", f"{place}."))


__all__ = ["ELSEWHERE", "SEVERAL", "Blame", "BlamedRow", "Share", "StepBlame", "blame"]
