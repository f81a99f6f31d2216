"""From labelled rows to thresholds: how sure each step is, how right it is then, and below what it should abstain.

::

    found = calibrate("support", rows, max_error=0.05)
    found.fields[0].temperature, found.fields[0].threshold
    print("\\n".join(found.lines()))

The rows are divided by a seed. Temperatures and thresholds are found on the one half; every figure that is reported is
of the other, which they have not seen. Every step of a :class:`~fslm_core.Cascade` is tried on every row, whatever it
would have abstained on, so that each threshold can be judged; what comes after it is given the last step's answer.

Needs the extra ``fslm-core[eval]``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .. import __version__
from ..engine import Engine
from ..errors import StoreError, UnknownNameError, UsageError
from ..message import Message
from ..schema import plain_data
from ..shapes import Cascade
from ..stack import OUTPUT, Shape, Stack, Step, places
from ..store import concerns_all
from .calibration import Accepted, Calibration, CascadeCalibration, FieldCalibration
from .evaluating import Rows, require_extra
from .fields import Json, Mark, same
from .gold import Case, Cases, read_cases
from .running import Progress, at_work, host_of, silent
from .simulating import Rules, Tried, passages, sweep
from .thresholds import (
    HOTTEST,
    Kept,
    calibration_error,
    cooled,
    fit_temperature,
    kept,
    least_rows,
    least_threshold,
    risk,
)

_LEAST = 20
"""Rows that each half must have in any case."""
_COLDEST = 1 / HOTTEST


def calibrate(
    stack: Stack[Any, Any] | str,
    rows: Rows,
    *,
    max_error: float,
    engine: Engine | None = None,
    fields: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 0,
    concurrency: int = 32,
    progress: Progress = silent,
) -> Calibration:
    """Find temperatures and thresholds for every step and field whose confidence and gold are known.

    Args:
        stack: a stack, or the name of an installed one.
        rows: as :func:`~fslm_core.evaluate.evaluate` takes them.
        max_error: the greatest share of wrong answers wanted among those that are accepted, above 0, below 1.
        engine: an open engine; one that keeps no trace is opened where not given.
        fields: ``field``, or ``step.field``; all of them where not given.
        confidence: with which ``max_error`` shall hold, by a one-sided Clopper-Pearson bound.
        seed: divides the rows, and decides every sampled token.

    Raises:
        UsageError: too few rows for what is asked, no confidence at all, or a number out of range.
        UnknownNameError: no step has a field of that name.
        MissingExtraError: the extra ``fslm-core[eval]`` is not installed.
        CheckError: the stack was refused.
    """
    require_extra()
    host = host_of(engine)
    found = host.stack(stack) if isinstance(stack, str) else stack
    work = Calibrating(
        found, read_cases(found, rows), max_error, tuple(fields), confidence, seed, concurrency, progress
    )
    with at_work(engine, host, (), concurrency) as opened:
        return work.report(opened)


@dataclass
class Calibrating:
    """One calibration under way; what is asked is looked at before anything is run.

    Raises:
        UsageError, UnknownNameError: see :func:`calibrate`.
    """

    stack: Stack[Any, Any]
    read: Cases
    max_error: float
    fields: tuple[str, ...] = ()
    level: float = 0.95
    seed: int = 0
    concurrency: int = 32
    progress: Progress = silent
    data: str = "rows"
    data_sha256: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_extra()
        for name, value in (("--max-error", self.max_error), ("--confidence", self.level)):
            if not 0 < value < 1:
                raise UsageError(
                    "this is no share", where=name, found=value, expected="above 0 and below 1", hint=f"{name} 0.05"
                )
        self._known_fields()
        self._enough()
        halves = list(range(len(self.read.cases)))
        random.Random(self.seed).shuffle(halves)
        self._fit = frozenset(halves[: len(halves) // 2])

    def _known_fields(self) -> None:
        steps = [(path, name) for path, step in places(self.stack) for name in step.node.output.model_fields]
        known = {name for _, name in steps} | {f"{path}.{name}" for path, name in steps}
        for asked in self.fields:
            if asked not in known:
                raise UnknownNameError.of("field", asked, known, where=f"the steps of stack {self.stack.name}")

    def _enough(self) -> None:
        have, need = len(self.read.cases) // 2, max(_LEAST, least_rows(self.max_error, self.level))
        if have < need:
            raise UsageError(
                f"{len(self.read.cases):,} rows are too few: half of them could not show an error of at most"
                f" {self.max_error:g} even if all were right",
                where=self.data,
                found=f"{have:,} rows in each half",
                expected=f"at least {need:,}, for {self.level:g} confidence",
                hint="give more rows, or ask for less: a larger --max-error, or a smaller --confidence",
            )

    def report(self, engine: Engine) -> Calibration:
        """Run every row and find thresholds."""
        probe = trying_all(self.stack)
        seen = self._run(engine, probe)
        fields = tuple(self._fields(seen))
        if not fields:
            raise UsageError(
                "no step tells how sure it is of a field whose gold is known",
                where=f"stack {self.stack.name}",
                expected="a backend with log-probabilities, or tools that return Scored, and gold",
                hint="see what gold is known with `fslm eval`; name steps' gold with --step-gold",
            )
        rules = {(f.step, f.field): (f.temperature, f.threshold) for f in fields}
        return Calibration(
            stack=self.stack.name,
            data=self.data,
            data_sha256=self.data_sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            fslm=__version__,
            seed=self.seed,
            rows=len(seen),
            fitted_on=len(self._fit),
            reported_on=len(seen) - len(self._fit),
            max_error=self.max_error,
            confidence=self.level,
            fields=fields,
            cascades=tuple(self._cascade(path, node, seen, rules) for path, node in _cascades(self.stack)),
            notes=tuple(self.notes),
        )

    def _run(self, engine: Engine, probe: Stack[Any, Any]) -> list[Seen]:
        cases, failed = self.read.cases, 0
        seen: list[Seen] = []
        self.progress("every step", 0, len(cases))
        inputs = (case.input for case in cases)
        for outcome in engine.map(probe, inputs, concurrency=self.concurrency, seed=self.seed):
            if isinstance(outcome.error, StoreError) and concerns_all(outcome.error):
                raise outcome.error
            failed += outcome.error is not None
            messages = outcome.run.messages if outcome.run is not None else {}
            said = {path: message for path, message in messages.items() if isinstance(message, Message)}
            seen.append(Seen(said, gold_by_path(self.stack, cases[len(seen)])))
            self.progress("every step", len(seen), len(cases))
        if failed:
            self.notes.append(f"{failed:,} of {len(cases):,} runs ended without an output; what they gave is counted")
        return seen

    # -- one field ----------------------------------------------------------------------------------------------

    def _fields(self, seen: Sequence[Seen]) -> Iterator[FieldCalibration]:
        for path, step in places(self.stack):
            if isinstance(step.node, Cascade):
                continue  # it says what one of its steps said
            for name in step.node.output.model_fields:
                asked = not self.fields or {name, f"{path}.{name}"} & set(self.fields)
                if asked and (found := self._field(path, step, name, seen)) is not None:
                    yield found

    def _field(self, path: str, step: Step, name: str, seen: Sequence[Seen]) -> FieldCalibration | None:
        pairs = {place: pair for place, row in enumerate(seen) if (pair := row.pair(path, name)) is not None}
        if not pairs:
            return None
        fit = [pair for place, pair in pairs.items() if place in self._fit]
        rest = [pair for place, pair in pairs.items() if place not in self._fit]
        need = least_rows(self.max_error, self.level)
        if len(fit) < need:
            self.notes.append(f"{path}.{name}: {len(fit)} rows to find a threshold on, and {need} are needed at least")
        sure, right = [p for p, _ in fit], [hit for _, hit in fit]
        if all(right) or not any(right):
            self.notes.append(f"{path}.{name}: all rows to fit on are alike, so its temperature stays 1")
        heat = round(fit_temperature(sure, right), 3)
        if heat in (_COLDEST, HOTTEST):
            self.notes.append(f"{path}.{name}: its temperature is at the limit, {heat:g}: more rows would say more")
        threshold = least_threshold(cooled(sure, heat), right, self.max_error, self.level)
        before, hits = [p for p, _ in rest], [hit for _, hit in rest]
        after = cooled(before, heat)
        return FieldCalibration(
            step=path,
            field=name,
            stage=step.node.name,
            rows=len(pairs),
            unknown=sum(row.unknown(path, name) for row in seen),
            accuracy=sum(hits) / len(hits) if hits else None,
            temperature=heat,
            ece_before=calibration_error(before, hits),
            ece_after=calibration_error(after, hits),
            threshold=threshold,
            fitted=_accepted(self._kept(cooled(sure, heat), right, threshold)),
            held_out=_accepted(self._kept(after, hits, threshold)),
            curve=risk(after, hits) if hits else (),
        )

    def _kept(self, confidence: Sequence[float], right: Sequence[bool], threshold: float | None) -> Kept:
        return kept([threshold is not None and p >= threshold for p in confidence], right, self.level)

    # -- one cascade --------------------------------------------------------------------------------------------

    def _cascade(
        self,
        path: str,
        node: Cascade[Any, Any],
        seen: Sequence[Seen],
        found: Mapping[tuple[str, str], tuple[float, float | None]],
    ) -> CascadeCalibration:
        rules = Rules(
            {
                step.name: {
                    name: found.get((f"{path}.{step.name}", name), (node.temperatures(step).get(name, 1.0), least))
                    for name, least in node.thresholds(step).items()
                }
                for step in node.steps
            }
        )
        rows = [row.tried(path, node) for place, row in enumerate(seen) if place not in self._fit]
        ends = passages(rows, rules)
        answered = [end for end in ends if end.answered is not None]
        known = [end for end in ends if end.right is not None]
        shares = {step.name: _share(sum(end.answered == step.name for end in ends), len(ends)) for step in node.steps}
        result = kept([end.answered is not None for end in known], [bool(end.right) for end in known], self.level)
        return CascadeCalibration(
            step=path,
            name=node.name,
            rows=len(ends),
            abstain_below=rules.told(0),
            temperature=rules.told(1),
            answered=shares,
            passed_on=_share(sum(len(end.tried) > 1 for end in ends), len(ends)),
            unsure=_share(len(ends) - len(answered), len(ends)),
            error=result.error,
            bound=result.bound,
            tokens=_share(sum(end.tokens for end in ends), len(ends)),
            tokens_of_each={
                step.name: _share(sum(row[step.name].tokens for row in rows if step.name in row), len(rows))
                for step in node.steps
            },
            curve=sweep(rows, rules, node.steps[0].name),
        )


@dataclass(frozen=True)
class Seen:
    """What every step said to one row, and what it should have said as far as that is known, by path."""

    said: Mapping[str, Message[Any]]
    gold: Mapping[str, Json]

    def pair(self, path: str, name: str) -> tuple[float, bool] | None:
        """How sure the step was of its field, and whether it was right; None where either is unknown."""
        hit, message = self.right(path, name), self.said.get(path)
        sure = (message.confidence or {}).get(name) if message is not None else None
        return None if hit is None or sure is None else (sure, hit)

    def unknown(self, path: str, name: str) -> bool:
        """Whether the step said something without saying how sure it was."""
        return path in self.said and name not in (self.said[path].confidence or {})

    def right(self, path: str, name: str) -> bool | None:
        """Whether the field is right; None where nothing was said, or nobody knows."""
        if path not in self.said or name not in self.gold.get(path, {}):
            return None
        return same(self.gold[path][name], plain_data(self.said[path].content)[name])

    def tried(self, path: str, node: Cascade[Any, Any]) -> dict[str, Tried]:
        """What each step of a cascade said, in order; right or wrong in the fields that the cascade goes by."""
        found = {}
        asked = {name for step in node.steps for name in node.thresholds(step)}
        for step in node.steps:
            place = f"{path}.{step.name}"
            if place not in self.said:
                continue
            hits = [hit for name in sorted(asked) if (hit := self.right(place, name)) is not None]
            message = self.said[place]
            found[step.name] = Tried(dict(message.confidence or {}), all(hits) if hits else None, self._tokens(place))
        return found

    def _tokens(self, place: str) -> int:
        """Of a step and, where it is a shape, of those within it."""
        within = [m for path, m in self.said.items() if path == place or path.startswith((f"{place}.", f"{place}["))]
        return sum(message.usage.prompt + message.usage.output for message in within)


def _accepted(found: Kept) -> Accepted:
    return Accepted(
        rows=found.rows,
        accepted=found.accepted,
        wrong=found.wrong,
        coverage=found.coverage,
        error=found.error,
        bound=found.bound,
    )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


# -- the stack that is run -------------------------------------------------------------------------------------------


class _Every(Cascade[Any, Any]):
    """A cascade in which every step abstains on everything, so that all of them are tried."""

    def doubts(self, step: Step, message: Message[Any]) -> tuple[str, ...]:
        """All its fields."""
        return tuple(step.node.output.model_fields)


def trying_all(stack: Stack[Any, Any]) -> Stack[Any, Any]:
    """The same stack with every step of its cascades tried on every input, in stacks and cascades within it, too."""
    return Stack(
        stack.name,
        input=stack.input,
        output=stack.output,
        steps=[_within(step) for step in stack.steps],
        bind=stack.bind,
        description=stack.description,
        session=stack.session,
        writes=stack.writes,
        session_bind=stack.session_bind,
    )


def _within(step: Step) -> Step:
    node: Any = step.node
    if type(node) is Stack:
        node = trying_all(node)
    elif isinstance(node, Cascade):
        node = _Every(
            node.name,
            [_within(inner) for inner in node.steps],
            abstain_below=node.abstain_below,
            temperature=node.temperature,
            then="keep",
            input=node.input,
            output=node.output,
            bind=node.bind,
        )
    else:
        return step
    return Step(node, name=step.name, bind=step.bind, when=step.when, on_error=step.on_error)


def _cascades(shape: Shape[Any, Any], path: str = "") -> Iterator[tuple[str, Cascade[Any, Any]]]:
    """The cascades that :func:`trying_all` reaches, each with its path."""
    for step in shape.steps:
        here = f"{path}.{step.name}" if path else step.name
        if isinstance(step.node, Cascade):
            yield here, step.node
        if isinstance(step.node, Cascade) or type(step.node) is Stack:
            yield from _cascades(step.node, here)


def gold_by_path(stack: Stack[Any, Any], case: Case) -> dict[str, Json]:
    """What each step should say, those within shapes too where the shape's output takes a field over from them."""
    found: dict[str, Json] = {name: dict(gold) for name, gold in case.steps.items() if not isinstance(gold, Mark)}
    for step in stack.steps:
        if isinstance(step.node, Shape) and step.name in found:
            _spread(step.node, step.name, found)
    return found


def _spread(shape: Shape[Any, Any], path: str, found: dict[str, Json]) -> None:
    for target, sources in shape.wiring.sources.items():
        if target.partition(" ")[0] != OUTPUT:
            continue
        for name, source in sources.items():
            if name in found[path] and len(source.path) == 1:
                found.setdefault(f"{path}.{source.step}", {})[source.path[0]] = found[path][name]
    for step in shape.steps:
        here = f"{path}.{step.name}"
        if isinstance(step.node, Shape) and here in found:
            _spread(step.node, here, found)


__all__ = ["Calibrating", "calibrate", "gold_by_path", "trying_all"]
