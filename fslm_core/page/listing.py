"""Which runs a list shows: its filters, as they stand in an address."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self
from urllib.parse import urlencode

from ..errors import UsageError
from ..store import Found, RunRow, TraceStore

ROWS = 50
STATUSES = ("running", "succeeded", "failed", "review", "cancelled", "interrupted")
SINCE = {"1h": ("last hour", 3600), "24h": ("last day", 86_400), "7d": ("last week", 604_800)}
"""Ages that can be picked, in words and in seconds; a day (2026-11-01) can be written, too."""
_SAME = 0.0015
"""Seconds: messages are found by the millisecond, and this reaches beyond the whole of one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filters of a list; empty ones let everything through.

    Attributes:
        q: words to search for.
        since: an age of :data:`SINCE`, or a day.
        before: the id of the run after which the list goes on.
        until: of a search, the moment before which it goes on, Unix seconds.
    """

    q: str = ""
    stack: str = ""
    status: str = ""
    since: str = ""
    labelled: bool = False
    before: str = ""
    until: float | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """The filters that an address has.

        Raises:
            UsageError: one of them is none.
        """
        status = query.get("status", "")
        if status and status not in STATUSES:
            raise UsageError(
                "there is no such status",
                where="the address",
                found=status,
                expected=", ".join(STATUSES),
                hint="pick one of the list",
            )
        found = cls(
            q=query.get("q", "").strip(),
            stack=query.get("stack", ""),
            status=status,
            since=query.get("since", ""),
            labelled=query.get("labelled") == "1",
            before=query.get("before", ""),
            until=_number(query.get("until")),
        )
        _ = found.moment  # which is told where it is none
        return found

    @property
    def moment(self) -> float | None:
        """Since when, in Unix seconds.

        Raises:
            UsageError: it is neither an age that can be picked nor a day.
        """
        if not self.since:
            return None
        if self.since in SINCE:
            return time.time() - SINCE[self.since][1]
        try:
            return datetime.fromisoformat(self.since).timestamp()
        except (ValueError, OverflowError, OSError):
            raise UsageError(
                "that is no time",
                where="the address",
                found=self.since,
                expected=f"{', '.join(SINCE)}, or a day such as 2026-11-01",
                hint="pick one of the list",
            ) from None

    @property
    def filtered(self) -> bool:
        """Whether anything is asked for but the newest."""
        return bool(self.q or self.stack or self.status or self.since or self.labelled)

    def address(self, **other: str | float | None) -> str:
        """The address of this list, with other values in places."""
        values = replace(self, **other) if other else self  # type: ignore[arg-type]
        given = {name: getattr(values, name) for name in values.__slots__}
        given["labelled"] = "1" if values.labelled else ""
        return "/?" + urlencode({name: value for name, value in given.items() if value not in ("", None)})


def newest(store: TraceStore, wanted: Wanted, limit: int = ROWS) -> list[RunRow]:
    """The newest runs of those wanted."""
    return store.runs(
        limit,
        stack=wanted.stack or None,
        status=wanted.status or None,
        since=wanted.moment,
        labelled=wanted.labelled,
        before=wanted.before or None,
    )


def search(store: TraceStore, wanted: Wanted) -> tuple[list[Found], float | None]:
    """The newest messages that are wanted, and the moment before which a next page goes on, if there is one.

    A page ends between two milliseconds, or what was said in the same one would be lost between pages.
    """
    found = store.search(
        wanted.q,
        stack=wanted.stack or None,
        status=wanted.status or None,
        since=wanted.moment,
        until=wanted.until,
        limit=ROWS + 1,
    )
    if len(found) <= ROWS:
        return found, None
    following = found[-1].when
    shown = [one for one in found if one.when > following]
    return (shown, following + _SAME) if shown else (found[:ROWS], following)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


__all__ = ["ROWS", "SINCE", "STATUSES", "Wanted", "newest", "search"]
