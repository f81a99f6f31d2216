"""What candidates said beside their steps: in one run, and over all runs that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..message import Usage
from ..store import Shadowed, StoredNode
from .drawing import attempt_rows, cost, fields, plain, seconds_text, status_text
from .paired import Share, mcnemar, wilson

_ENDED = ("ok", "failed")


@dataclass(frozen=True, slots=True)
class Times:
    """Median seconds: at work on the answer, and waiting for a place in a batch; None of no answers."""

    work: float | None
    waited: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One candidate beside one model of a stage, over all runs.

    Attributes:
        own: the stage's own model, for people.
        candidate: the candidate.
        began: candidates that began; of them ``cancelled`` were stopped with their run or their engine.
        skipped: candidates for which there was no room.
        same: of those where both gave a message, how many said the same.
        fields: the same field by field.
        own_valid: of the runs in which both ended, in how many the step gave a message.
        candidate_valid: in how many the candidate did.
        lost: runs in which the step gave a message and the candidate none; ``gained``: the other way round.
        p: of the exact McNemar test on these two.
        own_times: of the steps' answers in the same runs.
    """

    own: str
    candidate: str
    began: int
    cancelled: int
    skipped: int
    same: Share
    fields: dict[str, Share]
    own_valid: Share
    candidate_valid: Share
    lost: int
    gained: int
    p: float
    own_times: Times
    candidate_times: Times

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        found = {name: getattr(self, name) for name in self.__slots__}
        shares = {name: value.to_dict() for name, value in found.items() if isinstance(value, Share)}
        times = {name: asdict(value) for name, value in found.items() if isinstance(value, Times)}
        return {**found, **shares, **times, "fields": {name: share.to_dict() for name, share in self.fields.items()}}


def compare(shadows: Iterable[Shadowed]) -> list[Compared]:
    """Put together what candidates said, for each pair of models; the pair seen last comes first."""
    pairs: dict[tuple[str, str], list[Shadowed]] = {}
    for shadow in shadows:
        found = pairs.pop(shadow.fingerprints, [])
        found.append(shadow)
        pairs[shadow.fingerprints] = found
    return [_compared(found) for found in reversed(pairs.values())]


def _compared(shadows: Sequence[Shadowed]) -> Compared:
    began = [s for s in shadows if s.candidate.status != "skipped"]
    both = [s for s in began if s.candidate.status in _ENDED and s.own is not None and s.own.status in _ENDED]
    valid = [(s.own is not None and s.own.status == "ok", s.candidate.status == "ok") for s in both]
    lost, gained = valid.count((True, False)), valid.count((False, True))
    told = [s for s in both if s.same is not None]
    names = dict.fromkeys(name for s in told for name in s.fields)
    return Compared(
        own=next((s.own.model for s in shadows if s.own is not None), "?"),
        candidate=shadows[-1].candidate.model,
        began=len(began),
        cancelled=sum(s.candidate.status == "cancelled" for s in began),
        skipped=len(shadows) - len(began),
        same=Share(sum(bool(s.same) for s in told), len(told)),
        fields={
            name: Share(sum(s.fields.get(name, False) for s in told), sum(name in s.fields for s in told))
            for name in names
        },
        own_valid=Share(sum(own for own, _ in valid), len(valid)),
        candidate_valid=Share(sum(candidate for _, candidate in valid), len(valid)),
        lost=lost,
        gained=gained,
        p=mcnemar(lost, gained),
        own_times=_times([s.own.usage for s in both if s.own is not None and s.own.status == "ok"]),
        candidate_times=_times([s.candidate.usage for s in both if s.candidate.status == "ok"]),
    )


def _times(usages: Sequence[Usage]) -> Times:
    if not usages:
        return Times(None, None)
    return Times(median(max(0.0, u.seconds - u.queued - u.render) for u in usages), median(u.queued for u in usages))


# -- for people ------------------------------------------------------------------------------------------------------


def beside(node: StoredNode, full: bool) -> Iterator[tuple[str, RenderableType]]:
    """The rows of one candidate, to stand below those of its step.

    Args:
        full: show long data whole.
    """
    yield "", Text("")
    yield "candidate", Text.assemble(status_text(node.status), "  ", _verdict(node))
    if node.status == "skipped":
        return
    yield "made by", plain(f"model {node.model or '?'}, backend {node.backend or '?'}")
    several = len(node.attempts) > 1
    for attempt in node.attempts:
        if attempt.finish_reason == "error":  # nothing was written
            yield "problem", Text("; ".join(p.text or p.kind for p in attempt.problems), style="red")
        else:
            yield from (row for row in attempt_rows(attempt, several, full, asked_before=True) if row[0] != "prompt")
    if node.content is not None:
        yield "validated", fields(node.content, node.confidence, full)
    yield "cost", plain(cost(node))


def _verdict(node: StoredNode) -> Text:
    if node.status == "skipped":
        return Text("too many candidates were at work", style="dim")
    if node.same is None:
        return Text("nothing to compare", style="dim")
    if node.same:
        return Text("said the same", style="green")
    other = ", ".join(name for name, agrees in (node.agreed or {}).items() if not agrees)
    return Text.assemble(("differs", "yellow"), f" in {other}")


def drawn(stage: str, compared: Sequence[Compared]) -> RenderableType:
    """What candidates of a stage said, as something Rich can print."""
    parts: list[RenderableType] = []
    for one in compared:
        parts += ["", _facts_of(stage, one), "", _fields_of(one), "", _sides_of(one), _test_of(one)]
    return Group(*parts[1:])


def _facts_of(stage: str, one: Compared) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    left = [f"{one.cancelled:,} cancelled"] * bool(one.cancelled) + [f"{one.skipped:,} skipped"] * bool(one.skipped)
    ran = f"{one.began:,} times" + (f" ({', '.join(left)})" if left else "")
    for name, text in (("stage", stage), ("own", one.own), ("candidate", one.candidate), ("ran", ran)):
        table.add_row(name, plain(text))
    return table


def _fields_of(one: Compared) -> Table:
    table = _table("field", "said the same", "95 % interval")
    for name, share in {"all of it": one.same, **one.fields}.items():
        table.add_row(plain(name), *_cells(share))
    return table


def _sides_of(one: Compared) -> Table:
    table = _table("", "valid", "95 % interval", "median time", "waited")
    sides = (("own", one.own_valid, one.own_times), ("candidate", one.candidate_valid, one.candidate_times))
    for name, share, times in sides:
        table.add_row(name, *_cells(share), seconds_text(times.work), seconds_text(times.waited))
    return table


def _test_of(one: Compared) -> Text:
    split = f"only own valid {one.lost:,}, only candidate valid {one.gained:,}"
    return Text(f"{split}: p = {one.p:.3g} (exact McNemar)", style="dim")


def _cells(share: Share) -> tuple[str, str]:
    if not share.rows:
        return "none", ""
    low, high = wilson(share.hits, share.rows)
    return f"{share.hits:,} of {share.rows:,}", f"{low:.3f} to {high:.3f}"


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    return table


__all__ = ["Compared", "Share", "Times", "beside", "compare", "drawn"]
