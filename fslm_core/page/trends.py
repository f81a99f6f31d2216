"""The page of stats: what the runs of a stack come to, as time went by, and what drifted since a reference."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import Request
from starlette.responses import Response

from ..errors import MissingExtraError, UsageError
from ..explain.moments import moment_of
from ..explain.stats import stacks_of
from ..explain.stats import stats as stats_of
from ..store import TraceStore
from .charts import sparks
from .desk import Desk
from .listing import SINCE

if TYPE_CHECKING:
    from ..evaluate.drifting import Drift, Window

NEWEST = 2_000
"""Runs that are counted unless more are asked for: a day of many takes seconds."""
EVER = "ever"
MOST = 20
"""Comparisons that differ and are shown unless the rest is unfolded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be told, as it stands in an address.

    Attributes:
        since: an age, a day or a time, or :data:`EVER`; empty: since the reference, or the newest runs alone.
        begin: when the reference begins, written as ``since`` is; ``end``: when it ends. Both empty: no drift is told.
    """

    stack: str = ""
    since: str = ""
    begin: str = ""
    end: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """What an address asks for."""
        names = {"stack": "stack", "since": "since", "begin": "from", "end": "until"}
        return cls(**{name: query.get(asked, "").strip() for name, asked in names.items()})

    def window(self, now: float) -> float | None:
        """Since when runs are counted; None: that is not said.

        Raises:
            UsageError: that is no moment.
        """
        if self.since == EVER:
            return -inf
        return moment_of(self.since, "since", now) if self.since else None

    def reference(self, now: float) -> Window | None:
        """What it is compared with.

        Raises:
            UsageError: one of its ends is missing, or no moment.
        """
        if not self.begin and not self.end:
            return None
        if not self.begin or not self.end:
            raise UsageError(
                "a reference has a beginning and an end",
                where="the reference",
                found=f"from {self.begin or 'nothing'} until {self.end or 'nothing'}",
                expected="two moments: an age, a day or a time, as 14d, 2026-11-01, 2026-11-01T15:30",
                hint="from 14d until 7d is the week before the last seven days",
            )
        return moment_of(self.begin, "the reference, from", now), moment_of(self.end, "the reference, until", now)


def stats(desk: Desk, request: Request) -> Response:
    """What the runs of a stack come to, step by step, and as time went by; and what drifted."""
    asked, now = Asked.of(request.query_params), time.time()
    known: dict[str, Any] = {"asked": asked, "found": None, "charts": {}, "drift": None, "error": None, "newest": None}
    status, ages = 200, {"": f"the reference, or the newest {NEWEST:,} runs", EVER: "ever"}
    ages |= {age: words for age, (words, _) in SINCE.items()}
    with TraceStore.open(desk.store.path, readonly=True) as store:  # its own, for this may take long
        stacks = stacks_of(store)
        name = asked.stack or (stacks[0] if stacks else "")
        if name:
            begin = asked.window(now)
            try:
                reference = asked.reference(now)
                known["drift"] = None if reference is None else _drift(store, name, reference, begin, now)
                begin = reference[1] if reference is not None and begin is None else begin
            except (UsageError, MissingExtraError) as error:
                known["error"], status = error, 400
            if begin is None and (begin := store.beginning(name, NEWEST)) is not None:
                known["newest"] = NEWEST
            known["found"] = found = stats_of(store, name, since=begin)
            known["charts"] = {step.step: sparks(found, step.step) for step in found.steps}
    return desk.page("stats.html", status, stack=name, stacks=stacks, ages=ages, **known)


def _drift(store: TraceStore, name: str, reference: Window, begin: float | None, now: float) -> dict[str, Any]:
    """What the template shows of drift."""
    from ..evaluate.drift_told import HEADS, left_out, row, title, verdict
    from ..evaluate.drifting import drift

    found: Drift = drift(store, name, reference=reference, window=(reference[1] if begin is None else begin, now))
    rows = [(test, row(test)) for test in found.tests]
    first = len(found.drifting[:MOST])
    said = {"title": title(found), "verdict": verdict(found), "left_out": list(left_out(found)), "heads": HEADS}
    return {**said, "rows": rows[:first], "rest": rows[first:]}


__all__ = ["EVER", "MOST", "NEWEST", "Asked", "stats"]
