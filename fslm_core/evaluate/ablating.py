"""Do the later steps use what the earlier ones say? Each step's message is taken away, and the rest is run again.

Every row is run as it is, then replayed with one step's message made worthless in one of four ways:

``leave-out``
    The step is passed over, where what follows can do without it.
``constant``
    It says the same in every row: what it says most often. Whatever its message told of the row is gone.
``shuffle``
    It says what it said in another row, drawn by the seed: a likely message that has nothing to do with this row.
``copy``
    Its texts are the stack's input text: what comes of a step that hands on what it was given.

If the answers are as right without a message as with it, nobody uses what it says, and the stack is that much too long.
A message may go straight into the output; whether the steps after it *heard* it is told apart.
A message that the step could not have said in that row, because its input narrows it, is not forced on it; such rows
are counted and left out of both sides of the comparison.

Sources: ablation, A. Newell, A tutorial on speech understanding systems (1975); permuting one input while all others
stay, L. Breiman, Random forests, Machine Learning 45 (2001), 5-32, section 10.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal, get_args

from ..engine import Engine, Run
from ..errors import InputError, RunFailed, StoreError, UsageError
from ..message import Message
from ..schema import dumps, plain_data
from ..stack import Stack, Step
from ..store import concerns_all
from .bootstrap import Bootstrap
from .control import text_of
from .fields import Json, Mark, same
from .gold import Case, Cases, clusters, read_cases
from .results import Data, Interval
from .running import Progress, at_work, host_of, silent
from .tabling import interval

Way = Literal["leave-out", "constant", "shuffle", "copy"]
WAYS: tuple[Way, ...] = get_args(Way)
SCHEMA = "fslm-ablate/1"
"""Names the layout; another layout has another name."""
_DONORS = 8
"""Other rows whose message is tried, until one fits."""


class Ablated(Data):
    """One step's message taken away in one way.

    Attributes:
        rows: those it could be done in: the step had said something, and could have said this.
        right: the share of them that is right without the message; ``before``: with it.
        cost: by how much fewer are right, paired by row. An interval that holds 0 shows no use of the message.
        changed: the share of them whose output is another one.
        heard: the share of them in which a step after it says something else: whether anybody listens to it. A message
            that goes straight into the output changes that, heard or not.
        unfit: rows in which the step could not have said this.
    """

    step: str
    way: Way
    rows: int
    right: Interval
    before: Interval
    cost: Interval
    changed: Interval
    heard: Interval
    unfit: int


class Ablation(Data):
    """What each step's message is worth to the answer.

    Attributes:
        right: the share of rows that the whole stack gets right.
        beside: the same of a stack to compare with, by name: one model that does it all, say.
        difference: the stack's share less that stack's, paired by row.
    """

    schema_name: str = SCHEMA
    stack: str
    rows: int
    right: Interval
    ablated: list[Ablated]
    beside: dict[str, Interval]
    difference: dict[str, Interval]
    notes: list[str]


@dataclass(frozen=True)
class _Row:
    """A row as the whole stack ran it."""

    case: Case
    run: Run[Any] | None
    output: Json | Mark
    right: bool


def ablate(
    stack: Stack[Any, Any] | str,
    rows: Iterable[Mapping[str, Any]] | Cases,
    *,
    steps: Sequence[str] = (),
    ways: Sequence[str] = WAYS,
    beside: Sequence[Stack[Any, Any] | str] = (),
    group: str | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    concurrency: int = 32,
    progress: Progress = silent,
) -> Ablation:
    """Take away each step's message in turn, and see what it costs.

    Args:
        rows: ``{"input": {…}, "output": {…}}``.
        steps: only these; all but the last, whose message is the answer itself, where none is named.
        ways: only these.
        beside: other stacks to run on the same rows, whose outputs have the same fields.
        group: a column whose equal values make rows that belong together: intervals draw them together.
        engine: an open engine, whose trace gets every run and replay; one without a trace is opened where not given.

    Raises:
        UsageError: there is no such step or way, or no row fits.
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
    >>> rows = [{"input": {"text": t}, "output": {"reply": r}} for t, r in [("good", "Thanks!"), ("bad", "Sorry!")] * 5]
    >>> found = ablate(demo, rows, ways=["constant"])
    >>> [(one.step, one.way, one.before.value, one.right.value) for one in found.ablated]
    [('kind', 'constant', 1.0, 0.5)]
    """
    host = host_of(engine)
    found, *others = [host.stack(one) if isinstance(one, str) else one for one in (stack, *beside)]
    cases = rows if isinstance(rows, Cases) else read_cases(found, rows)
    chosen = _chosen(found, cases, steps, ways)
    with at_work(engine, host, [found, *others], concurrency) as opened:
        return _Ablating(found, cases, opened, group, seed, concurrency, progress).report(steps, chosen, others)


def _chosen(stack: Stack[Any, Any], cases: Cases, steps: Sequence[str], ways: Sequence[str]) -> list[Way]:
    """The ways that are named, once all that is named is there.

    Raises:
        UsageError: a step or a way is not, or no row fits.
    """
    names = [step.name for step in stack.steps]
    for what, given, there in (("step", steps, names), ("way", ways, WAYS)):
        if unknown := [name for name in given if name not in there]:
            raise UsageError(
                f"there is no such {what}",
                where=f"ablation of {stack.name}",
                found=", ".join(unknown),
                expected=", ".join(there),
                hint="choose some of these, or none to have all",
            )
    if not cases.cases:
        raise UsageError(
            "no row fits the stack",
            where=f"ablation of {stack.name}",
            found="; ".join(f"line {problem.line}: {problem.text}" for problem in cases.misfits[:3]) or "no rows",
            hint='rows are {"input": {…}, "output": {…}}',
        )
    return [way for way in WAYS if way in ways]


class _Ablating:
    def __init__(
        self,
        stack: Stack[Any, Any],
        cases: Cases,
        engine: Engine,
        group: str | None,
        seed: int,
        concurrency: int,
        progress: Progress,
    ) -> None:
        self.stack, self.cases, self.engine, self.seed = stack, cases, engine, seed
        self.concurrency, self.progress = min(concurrency, engine.max_in_flight), progress
        self.bootstrap = Bootstrap(clusters(cases.cases, group), seed=seed)

    def report(self, steps: Sequence[str], ways: Sequence[Way], others: Sequence[Stack[Any, Any]]) -> Ablation:
        """Run every row whole, then without each message, then through the other stacks."""
        whole = self._run(self.stack)
        ones = [1.0] * len(whole)
        own = self.bootstrap.ratio([float(row.right) for row in whole], ones)
        beside = {
            other.name: self.bootstrap.ratio([float(row.right) for row in self._run(other)], ones) for other in others
        }
        taken = [step for step in self.stack.steps[:-1] if not steps] or [
            step for step in self.stack.steps if step.name in steps
        ]
        return Ablation(
            stack=self.stack.name,
            rows=len(whole),
            right=interval(own),
            ablated=[made for step in taken for way in ways if (made := self._without(step, way, whole)) is not None],
            beside={name: interval(stat) for name, stat in beside.items()},
            difference={name: interval(own - stat) for name, stat in beside.items()},
            notes=[f"line {note.line}: {note.text}" for note in (*self.cases.misfits, *self.cases.notes)],
        )

    def _run(self, stack: Stack[Any, Any]) -> list[_Row]:
        rows: list[_Row] = []
        cases = self.cases.cases
        what = f"stack {stack.name}"
        self.progress(what, 0, len(cases))
        for outcome in self.engine.map(
            stack, (plain_data(case.input) for case in cases), concurrency=self.concurrency, seed=self.seed
        ):
            if isinstance(outcome.error, StoreError) and concerns_all(outcome.error):
                raise outcome.error
            case = cases[len(rows)]
            output = Mark.FAILED if outcome.error is not None else plain_data(outcome.output)
            rows.append(_Row(case, outcome.run, output, _right(case, output)))
            self.progress(what, len(rows), len(cases))
        return rows

    def _without(self, step: Step, way: Way, whole: Sequence[_Row]) -> Ablated | None:
        """All rows replayed without a step's message; None where it cannot be taken away so."""
        edits = list(self._edits(step, way, whole))
        if all(not edit for edit in edits):
            return None
        what = f"{step.name}: {way}"
        self.progress(what, 0, len(whole))
        told: list[Json | Mark] = []
        heard: list[float] = []
        with ThreadPoolExecutor(self.concurrency) as pool:
            for output, others in pool.map(partial(self._replayed, step), whole, edits):
                told.append(output)
                heard.append(float(others))
                self.progress(what, len(told), len(whole))
        pairs = list(zip(whole, told, strict=True))
        there = [float(output is not Mark.UNKNOWN) for output in told]
        right = [float(_right(row.case, output)) for row, output in pairs]
        before = [float(row.right and output is not Mark.UNKNOWN) for row, output in pairs]
        changed = [float(output is not Mark.UNKNOWN and not same(row.output, output)) for row, output in pairs]
        after, intact, other, later = self.bootstrap.ratios(
            [(column, there) for column in (right, before, changed, heard)]
        )
        unfit = sum(bool(edit) and output is Mark.UNKNOWN for edit, output in zip(edits, told, strict=True))
        return Ablated(
            step=step.name,
            way=way,
            rows=int(sum(there)),
            right=interval(after),
            before=interval(intact),
            cost=interval(intact - after),
            changed=interval(other),
            heard=interval(later),
            unfit=unfit,
        )

    def _edits(self, step: Step, way: Way, whole: Sequence[_Row]) -> Iterator[list[Json]]:
        """For each row what to try in its replay, the first that fits; nothing where it cannot be done."""
        said = [_said(row, step.name) for row in whole]
        texts = {name for name, field in step.node.output.model_fields.items() if field.annotation in (str, str | None)}
        commonest = Counter(dumps(message) for message in said if message is not None).most_common(_DONORS)
        usual = [json.loads(text) for text, _ in commonest]
        rng = Random(f"{self.seed} {step.name}")
        for place, (row, message) in enumerate(zip(whole, said, strict=True)):
            if message is None:
                yield []
            elif way == "leave-out":
                yield [{step.name: None}] if step.may_be_skipped else []
            elif way == "constant":
                yield [_edit(step.name, other) for other in usual]
            elif way == "shuffle":
                donors = [m for n, m in enumerate(said) if m is not None and n != place]
                yield [_edit(step.name, m) for m in rng.sample(donors, min(_DONORS, len(donors)))]
            else:
                text = text_of(row.case.input)
                yield [_edit(step.name, {**message, **dict.fromkeys(texts, text)})] if texts else []

    def _replayed(self, step: Step, row: _Row, edits: Sequence[Json]) -> tuple[Json | Mark, bool]:
        """The output of a row with the first of these edits that fits (``UNKNOWN`` where none does).

        And whether a step after that one says something else then.
        """
        for edit in edits:
            assert row.run is not None
            try:
                made = self.engine.replay(row.run, edits=edit, stack=self.stack)
            except RunFailed as failed:
                if isinstance(failed.error, StoreError) and concerns_all(failed.error):
                    raise failed.error from None
                if isinstance(failed.error, InputError):  # the step could not have said that here
                    continue
                made = failed.run
            output = Mark.FAILED if made.result is None else plain_data(made.result.content)
            return output, any(_said_by(row.run, name) != _said_by(made, name) for name in self._after(step))
        return Mark.UNKNOWN, False

    def _after(self, step: Step) -> list[str]:
        names = [each.name for each in self.stack.steps]
        return names[names.index(step.name) + 1 :]


def _said(row: _Row, step: str) -> Json | None:
    return None if row.run is None else _said_by(row.run, step)


def _said_by(run: Run[Any], step: str) -> Json | None:
    message = run.messages.get(step)
    return plain_data(message.content) if isinstance(message, Message) else None


def _edit(step: str, message: Json) -> Json:
    return {f"{step}.{name}": value for name, value in message.items()}


def _right(case: Case, output: Json | Mark) -> bool:
    """Whether an output is right; another stack's may have fields besides."""
    return not isinstance(output, Mark) and same(case.gold, {name: output.get(name) for name in case.gold})


__all__ = ["WAYS", "Ablated", "Ablation", "Way", "ablate"]
