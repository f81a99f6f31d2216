"""A walker of drawn graphs that is obviously right: plain recursion, one step after another, no engine code.

Where several steps that run at once fail, any one of them may be the one that is told, and what was at work beside it
may or may not have ended: it says what must be told, what may be, and which errors it may be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fslm_core.message import Message, Skipped
from fslm_core.schema import plain_data

from .graphs import At, Choose, Doubt, Each, Leaf, Loop, Nest, Poll, Stand, Value, folded, made


@dataclass
class Told:
    """What a run tells: what must be there and what may be, by path. Of something skipped, the reasons it may give."""

    must: dict[str, Any] = field(default_factory=dict)
    may: dict[str, Any] = field(default_factory=dict)

    def hush(self, other: Told) -> None:
        """What is told by something that fails: some of it may not have come to an end."""
        self.may |= other.may | other.must

    def add(self, other: Told) -> None:
        self.must |= other.must
        self.may |= other.may


class Failure(Exception):
    """A shape or a stage failed with one of these codes, at one of these places."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        self.faults = frozenset(faults)
        self.codes = frozenset(code for _, code in faults)


@dataclass(frozen=True)
class Passed:
    """A step that was passed over, for one of these reasons."""

    reasons: frozenset[str]


@dataclass(frozen=True)
class Part:
    """JSON data of which only this much is compared."""

    data: Mapping[str, Any]


Said: TypeAlias = "tuple[Value, bool]"
"""What a node gives, and whether it is unsure of it: who is abstains from a vote."""
Known: TypeAlias = "dict[str, dict[str, Any] | None]"


def fetch(known: Known, source: str) -> Any:
    name, _, attribute = source.partition(".")
    found = known[name]
    return None if found is None else found[attribute]


class Reference:
    """Walks a drawn graph by plain recursion."""

    def step(self, at: At, known: Known, path: str, told: Told, **given: Any) -> dict[str, Any] | Passed:
        """Run a step that is given ``a`` and ``b``; raises Failure."""
        if at.when is not None:
            value = fetch(known, at.when[0])
            if not (value is None or value % at.when[1] != 0):
                passed = Passed(frozenset({str(at.condition)}))
                told.must[path] = passed
                return passed
        bind = {"a": "input.a", "b": "input.b", **dict(at.bind)}
        values = {name: given[name] if name in given else fetch(known, source) for name, source in bind.items()}
        own = Told()
        try:
            value, unsure = self.node(at.node, values["a"], values["b"], path, own)
        except Failure as failure:
            told.hush(own)
            if not at.skips:
                raise
            passed = Passed(frozenset(f"on_error: {code}" for code in failure.codes))
            told.must[path] = passed
            return passed
        told.add(own)
        told.must[path] = {"value": value}
        return {"value": value, "unsure": unsure}

    def node(self, drawn: Any, a: Value, b: Value, path: str, told: Told) -> Said:
        if isinstance(drawn, Leaf):
            if drawn.fault(a, b):
                raise Failure((path, "tool" if drawn.by == "tool" else "stage-failed"))
            return drawn.value(a, b), False
        known: Known = {"input": {"a": a, "b": b}}
        return getattr(self, type(drawn).__name__.lower())(drawn, known, f"{path}." if path else "", told)  # type: ignore[no-any-return]

    def nest(self, drawn: Nest, known: Known, path: str, told: Told) -> Said:
        faults: set[tuple[str, str]] = set()
        lost: set[str] = set()
        for at in drawn.steps:
            needs = {source.partition(".")[0] for _, source in at.bind}
            needs |= {at.when[0].partition(".")[0]} if at.when else set()
            if needs & lost:
                lost.add(at.name)
                continue
            try:
                known[at.name] = value_of(self.step(at, known, path + at.name, told))
            except Failure as failure:
                faults |= failure.faults
                lost.add(at.name)
        if faults:
            raise Failure(*faults)
        source = drawn.output.partition(".")[0]
        return fetch(known, drawn.output), source != "input" and bool(fetch(known, f"{source}.unsure"))

    def choose(self, drawn: Choose, known: Known, path: str, told: Told) -> Said:
        value = fetch(known, "input.a")
        if drawn.router is not None:
            known["router"] = value_of(self.step(drawn.router, known, f"{path}router", told))
            value = fetch(known, "router.value")
        key = (value or 0) % 3
        at = drawn.cases[key] if key < len(drawn.cases) else drawn.default
        told.must[f"{path}choice"] = {"value": str(key), "step": at.name, "default": at is drawn.default}
        return of(self.step(at, known, path + at.name, told))

    def stand(self, drawn: Stand, known: Known, path: str, told: Told) -> Said:
        failed: list[dict[str, Any]] = []
        last = Failure((path[:-1], "stage-failed"))
        answered: dict[str, Any] = {"step": None, "value": drawn.value is not None, "failed": failed}
        result: Said = drawn.value, False
        for at in drawn.steps:
            try:
                said = self.step(at, known, path + at.name, told)
            except Failure as failure:
                last = failure
                failed.append({"step": at.name, "code": failure.codes})
                continue
            if not isinstance(said, Passed):
                answered |= {"step": at.name, "value": False}
                result = of(said)
                break
            reasons = {reason.partition("on_error: ")[2] or "skipped" for reason in said.reasons}
            failed.append({"step": at.name, "code": frozenset(reasons)})
        told.must[f"{path}answer"] = answered
        if answered["step"] is None and drawn.value is None:
            raise last
        return result

    def poll(self, drawn: Poll, known: Known, path: str, told: Told) -> Said:
        votes: list[Value | Literal["silent"]] = []
        for at in drawn.steps:
            try:
                said = self.step(at, known, path + at.name, told)
                votes.append("silent" if isinstance(said, Passed) or said["unsure"] else said["value"])
            except Failure:
                votes.append("silent")
        spoken = [vote for vote in votes if vote != "silent"]
        silent = [n for n, vote in enumerate(votes) if vote == "silent"]
        if len(spoken) < len(votes) // 2 + 1:
            told.must[f"{path}ballot"] = Part({"silent": silent, "winner": None})
            raise Failure((path[:-1], "stage-failed"))
        most = max(spoken.count(vote) for vote in spoken)
        winner = next(vote for vote in spoken if spoken.count(vote) == most)
        tie = len({vote for vote in spoken if spoken.count(vote) == most}) > 1
        told.must[f"{path}ballot"] = Part({"silent": silent, "tie": tie, "share": most / len(spoken)})
        return winner, False

    def loop(self, drawn: Loop, known: Known, path: str, told: Told) -> Said:
        given, held, rounds = fetch(known, "input.a"), False, 0
        value: Value = None
        unsure = False
        while not held and rounds < drawn.most:
            value, unsure = of(self.step(drawn.body, known, f"{path}s0[{rounds}]", told, a=given))
            rounds, given = rounds + 1, value
            held = value is None or value % drawn.divisor == 0
        told.must[f"{path}rounds"] = {"rounds": rounds, "held": held}
        if not held and not drawn.keep:
            raise Failure((path[:-1], "stage-failed"))
        return value, unsure

    def each(self, drawn: Each, known: Known, path: str, told: Told) -> Said:
        b = fetch(known, "input.b")
        items = made(drawn, fetch(known, "input.a"))
        told.must[f"{path}make"] = {"items": items, "b": b}
        results, out = self._every(drawn, items, b, f"{path}every.", told)
        if out:
            told.must[f"{path}every.skipped"] = {"count": len(out), "first": out}
        told.must[f"{path}every"] = {"items": results}
        value = self._one(drawn, results, f"{path}one.", told)
        told.must[f"{path}one"] = {"value": value}
        return value, False

    def _every(
        self, drawn: Each, items: list[Value], b: Value, path: str, told: Told
    ) -> tuple[list[Value], list[dict[str, Any]]]:
        results: list[Value] = []
        out: list[dict[str, Any]] = []
        faults: set[tuple[str, str]] = set()
        own = Told()
        for position, item in enumerate(items):
            known: Known = {"item": {"a": item}, "input": {"b": b}}
            try:
                said = self.step(drawn.body, known, f"{path}s0[{position}]", own, a=item)
            except Failure as failure:
                faults |= failure.faults
                continue
            if isinstance(said, Passed):
                why = {reason.partition("on_error: ")[2] or "when" for reason in said.reasons}
                out.append({"position": position, "why": frozenset(why)})
            else:
                results.append(said["value"])
        if faults:
            told.hush(own)
            raise Failure(*faults)
        told.add(own)
        return results, out

    def _one(self, drawn: Each, items: list[Value], path: str, told: Told) -> Value:
        level, depth = items or [1], 0
        while len(level) > 1:
            count = -(-len(level) // drawn.fan)
            sizes = [len(level) // count + (n < len(level) % count) for n in range(count)]
            rest, level = iter(level), []
            for n, group in enumerate([list(itertools.islice(rest, size)) for size in sizes]):
                value = folded(drawn, group) if len(group) > 1 else group[0]
                if len(group) > 1:
                    told.must[f"{path}fold[{depth}][{n}]"] = {"value": value}
                level.append(value)
            depth += 1
        return level[0]

    def doubt(self, drawn: Doubt, known: Known, path: str, told: Told) -> Said:
        said: list[tuple[str, Value]] = []
        sure = False
        for at in drawn.steps:
            output = self.step(at, known, path + at.name, told)
            if not isinstance(output, Passed):
                said.append((at.name, output["value"]))
                sure = at.node.sure(fetch(known, "input.a"), fetch(known, "input.b"))
            if sure:
                break
        taken = said[-1] if said and (sure or drawn.keep) else None
        told.must[f"{path}verdict"] = Part({"step": taken[0] if taken else None, "sure": sure})
        if taken is None:
            raise Failure((path[:-1], "stage-failed"))
        return taken[1], not sure


def value_of(said: dict[str, Any] | Passed) -> dict[str, Any] | None:
    return None if isinstance(said, Passed) else said


def of(said: dict[str, Any] | Passed) -> Said:
    return (None, False) if isinstance(said, Passed) else (said["value"], said["unsure"])


def agree(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Passed):
        return isinstance(found, Skipped) and found.when in wanted.reasons
    if isinstance(found, Message):
        found = plain_data(found.content)
    if isinstance(wanted, Part):
        return isinstance(found, dict) and all(agree(value, found[name]) for name, value in wanted.data.items())
    if isinstance(wanted, frozenset):
        return found in wanted
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and wanted.keys() == found.keys()
            and all(agree(wanted[k], found[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(agree, wanted, found))
    return bool(wanted == found)
