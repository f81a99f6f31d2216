"""Where two stored runs part: step by step, field by field, and why; and the same counted over many pairs.

A step that says something else than before does so because it was *given* something else, or although it was given
the same. Only at the latter do the runs part: another adapter, prompt or program was at work, another seed, or chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..message import LEFT_OUT, plain_path
from ..stack import SESSION
from ..store import RunRow, StoredContent, StoredNode, StoredRun
from .paired import wilson

How = Literal["same", "changed", "appeared", "vanished", "unknown"]
Cause = Literal["edited", "given", "condition", "maker", "backend", "attempts", "engine", "seed", "unexplained"]
INPUT, OUTPUT = "input", "output"
_TURN = f"{SESSION}.turn"
_TOGETHER = 500
"""Values of one message that are compared one by one."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A value that is not what it was. ``field`` is a dotted path, ``slots[1].name``; empty for a whole message.

    Attributes:
        before: JSON data; None too where there was nothing, which ``present`` tells apart.
        present: whether there is such a field before, and after.
    """

    field: str
    before: Any
    after: Any
    present: tuple[bool, bool] = (True, True)


@dataclass(frozen=True, slots=True)
class StepChange:
    """What became of one step.

    Attributes:
        how: ``same``; ``changed``: another message or status; ``appeared`` and ``vanished``: it stands in one run only;
            ``unknown``: too little was kept to tell.
        status: in either run: ``ok``, ``failed``, ``skipped``; None where it does not stand.
        why: for a step that is not the same: what differs of what made it. ``edited``: somebody changed it in a replay.
            ``given`` is what it was given, ``condition`` its ``when``, ``maker`` its stage, prompt, adapter or model,
            ``attempts`` how many tries it took; ``engine`` and ``seed`` are the runs', named where nothing of the step
            itself differs.
        fields: what changed, of messages that were kept.
    """

    step: str
    how: How
    status: tuple[str | None, str | None]
    why: tuple[Cause, ...] = ()
    fields: tuple[FieldChange, ...] = ()

    @property
    def parts(self) -> bool:
        """Whether it differs although it was given the same; what was within a shape that was edited does not."""
        inside = self.how == "vanished" and "edited" in self.why
        return self.how in ("changed", "appeared", "vanished") and "given" not in self.why and not inside


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Two runs beside each other; ``steps`` in the order in which they ended, the input first and the output last."""

    before: RunRow
    after: RunRow
    steps: tuple[StepChange, ...]
    makers: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """Steps whose fingerprints differ, by name: what the makers were, as ``support.intent smollm2-135m+1959eb07``."""

    @property
    def same(self) -> bool:
        """Whether all that was kept is the same."""
        return all(step.how == "same" for step in self.steps)

    @property
    def parted(self) -> StepChange | None:
        """The first step that differs although it was given the same, or None."""
        return next((step for step in self.steps if step.parts), None)


@dataclass(frozen=True, slots=True)
class StepShare:
    """How often a step said the same over many pairs of runs.

    Attributes:
        pairs: in which it stands and enough was kept.
        same: of these.
        parted: pairs that part at this step.
        fields: by top-level field, in how many pairs it changed.
    """

    step: str
    pairs: int
    same: int
    parted: int
    fields: Mapping[str, int]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share that is the same; see :func:`~fslm_core.explain.paired.wilson`."""
        return wilson(self.same, self.pairs)


@dataclass(frozen=True, slots=True)
class SetDiff:
    """Many pairs of runs: what an upgrade changed.

    Attributes:
        pairs: how many; ``same``: how many of them have the same output.
        steps: in the stack's order as the runs show it; steps that run several times are counted together.
        changed: ids of runs whose outputs differ, before and after.
    """

    pairs: int
    same: int
    steps: tuple[StepShare, ...]
    changed: tuple[tuple[str, str], ...]


def compare_runs(before: StoredRun, after: StoredRun) -> RunDiff:
    """Compare two runs of one stack, or of two.

    Runs kept as ``none`` are compared by the hashes of their messages.
    """
    one, other = _Side(before), _Side(after)
    old, new = one.last, other.last
    changed = {step for step in old.keys() & new.keys() if not _alike(old[step], new[step])}
    changed |= old.keys() ^ new.keys()
    if not _same_content(before.input, after.input):
        changed.add(INPUT)
    steps = [_message(INPUT, before.input, after.input, ("given",))]
    steps += [_step(step, one, other, changed) for step in _in_order(old, new)]
    given = one.reaches(before.output_parents, changed) or other.reaches(after.output_parents, changed)
    steps.append(_message(OUTPUT, before.output, after.output, ("given",) if given else _apart(before, after)))
    names = before.fingerprints.keys() | after.fingerprints.keys()
    makers = {
        name: (_maker(old.get(name)), _maker(new.get(name)))
        for name in sorted(names)
        if before.fingerprints.get(name) != after.fingerprints.get(name)
    }
    return RunDiff(before.row, after.row, tuple(steps), makers)


def compare_sets(pairs: Iterable[tuple[StoredRun, StoredRun]]) -> SetDiff:
    """Count over pairs of runs that were given the same."""
    total = same = 0
    seen: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    parted: Counter[str] = Counter()
    fields: dict[str, Counter[str]] = {}
    changed: list[tuple[str, str]] = []
    for before, after in pairs:
        found = compare_runs(before, after)
        total += 1
        first = found.parted
        if first is not None:
            parted[plain_path(first.step)] += 1
        for step in found.steps:
            if step.how == "unknown":
                continue
            name = plain_path(step.step)
            seen[name] += 1
            alike[name] += step.how == "same"
            fields.setdefault(name, Counter()).update({_top(change.field) for change in step.fields})
        if found.steps[-1].how == "same":
            same += 1
        else:
            changed.append((before.row.id, after.row.id))
    steps = [StepShare(name, count, alike[name], parted[name], dict(fields[name])) for name, count in seen.items()]
    return SetDiff(total, same, tuple(step for step in steps if step.step != INPUT), tuple(changed))


def changes(before: Any, after: Any, field: str = "") -> Iterator[FieldChange]:
    """The values in which two pieces of JSON data differ, each by its path.

    >>> [(c.field, c.before, c.after) for c in changes({"a": [1, 2], "b": 0}, {"a": [1, 3], "b": 0})]
    [('a[1]', 2, 3)]
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            path = f"{field}.{name}" if field else name
            yield from _part(before.get(name), after.get(name), path, (name in before, name in after))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            there = (place < len(before), place < len(after))
            old, new = before[place] if there[0] else None, after[place] if there[1] else None
            yield from _part(old, new, f"{field}[{place}]", there)
    elif type(before) is not type(after) or before != after:
        yield FieldChange(field, before, after)


def _part(before: Any, after: Any, path: str, present: tuple[bool, bool]) -> Iterator[FieldChange]:
    if all(present):
        yield from changes(before, after, path)
    else:
        yield FieldChange(path, before, after, present)


class _Side:
    """One of the two runs, with what is asked of it step by step; it may have thousands of them.

    Attributes:
        last: the node that stands at the end of each step; failed tries come before it. Which session's turn it was is
            left out: a replay is none's, and the state that was read is compared.
        edited: beginnings of the paths of steps within one that somebody edited or left out.
    """

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.last = {node.step: node for node in run.nodes if node.step != _TURN}
        touched = (node.step for node in run.nodes if node.edited or node.when == LEFT_OUT)
        self.edited = tuple(f"{name}{sign}" for name in touched for sign in ".[")
        self._steps = {node.id: node.step for node in run.nodes}

    def reaches(self, parents: Sequence[str], changed: set[str]) -> bool:
        """Whether one of the messages that something came from is among those that changed."""
        start = f"{self.run.row.id}/"
        names = (self._steps.get(parent) or parent.removeprefix(start).rsplit("/", 2)[0] for parent in parents)
        return any(name in changed for name in names)


def _in_order(before: Iterable[str], after: Iterable[str]) -> Iterator[str]:
    """Every step once, in the later run's order; what only the earlier one has stands behind what it stood behind."""
    known = dict.fromkeys(after)
    gone: dict[str | None, list[str]] = {}
    behind: str | None = None
    for step in before:
        if step in known:
            behind = step
        else:
            gone.setdefault(behind, []).append(step)
    yield from gone.get(None, ())
    for step in known:
        yield step
        yield from gone.get(step, ())


def _step(step: str, before: _Side, after: _Side, changed: set[str]) -> StepChange:
    old, new = before.last.get(step), after.last.get(step)
    status = (None if old is None else old.status, None if new is None else new.status)
    if old is None or new is None:
        node, side = (new, after) if old is None else (old, before)
        given = node is not None and side.reaches(node.parents, changed)
        edited = step.startswith(after.edited)
        why: tuple[Cause, ...] = ("edited",) if edited else ("given",) if given else _apart(before.run, after.run)
        return StepChange(step, "appeared" if old is None else "vanished", status, why)
    if _alike(old, new):
        unknown = old.content is not None and not _comparable(old.content, new.content)
        return StepChange(step, "unknown" if unknown else "same", status)
    given = before.reaches(old.parents, changed) or after.reaches(new.parents, changed)
    why = _why(old, new, given) or _apart(before.run, after.run)
    return StepChange(step, "changed", status, why, _fields(old.content, new.content))


def _why(old: StoredNode, new: StoredNode, given: bool) -> tuple[Cause, ...]:
    """What differs of what made a step; nothing where it is nothing of the step's own."""
    if new.edited != old.edited or (new.when == LEFT_OUT) != (old.when == LEFT_OUT):
        return ("edited",)
    found: list[Cause] = ["given"] if given else []
    if "skipped" in (old.status, new.status):
        return tuple(found) or ("condition",)
    if old.fingerprint != new.fingerprint:
        found.append("maker")
    if old.backend != new.backend:
        found.append("backend")
    if not found and len(old.attempts) != len(new.attempts):
        found.append("attempts")
    return tuple(found)


def _apart(before: StoredRun, after: StoredRun) -> tuple[Cause, ...]:
    """What differs of the runs themselves, where nothing does of the step."""
    found: list[Cause] = []
    if before.row.engine != after.row.engine:
        found.append("engine")
    if before.row.seed != after.row.seed:
        found.append("seed")
    return tuple(found) or ("unexplained",)


def _message(
    step: str, before: StoredContent | None, after: StoredContent | None, why: tuple[Cause, ...]
) -> StepChange:
    """The input or the output."""
    status = (None if before is None else "ok", None if after is None else "ok")
    if before is None and after is None:
        return StepChange(step, "same", status)
    if before is None or after is None:
        return StepChange(step, "appeared" if before is None else "vanished", status, why)
    if _same_content(before, after):
        return StepChange(step, "same", status)
    if not _comparable(before, after):
        return StepChange(step, "unknown", status)
    return StepChange(step, "changed", status, why, _fields(before, after))


def _alike(old: StoredNode, new: StoredNode) -> bool:
    return old.status == new.status and (
        _same_content(old.content, new.content) or not _comparable(old.content, new.content)
    )


def _same_content(before: StoredContent | None, after: StoredContent | None) -> bool:
    if before is None or after is None:
        return before is after
    return before.id == after.id or (before.kind == after.kind == "full" and before.json == after.json)


def _comparable(before: StoredContent | None, after: StoredContent | None) -> bool:
    """Whether ids or texts tell; a keyed hash tells nothing of a plain one."""
    return before is None or after is None or before.kind == after.kind


def _fields(before: StoredContent | None, after: StoredContent | None) -> tuple[FieldChange, ...]:
    if before is None or after is None or before.kind == "none":
        return ()
    found = changes(before.data, after.data)
    return tuple(change for change, _ in zip(found, range(_TOGETHER), strict=False))


def _top(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def _maker(node: StoredNode | None) -> str | None:
    if node is None:
        return None
    parts = (node.stage, node.version, node.model, node.fingerprint[:12])
    return " ".join(part for part in parts if part) or None


__all__ = [
    "Cause",
    "FieldChange",
    "How",
    "RunDiff",
    "SetDiff",
    "StepChange",
    "StepShare",
    "changes",
    "compare_runs",
    "compare_sets",
]
