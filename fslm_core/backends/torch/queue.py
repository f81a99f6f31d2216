"""Who waits for a place in flight, in the order in which they get one.

Start-time fair queueing (Goyal, Vin and Cheng 1996): each entry is given a start tag when it comes, and the entry
with the least tag goes first. Tags of one group follow each other by what its work costs, so a group that asks for
much waits behind its own work, and one that asks for little is served at once. Within a group the order is that of
arrival.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(order=True, slots=True)
class _Entry(Generic[T]):
    priority: int
    start: float
    order: int
    item: T = field(compare=False)


class FairQueue(Generic[T]):
    """A queue that is fair to its groups.

    >>> queue = FairQueue[str]()
    >>> for name in ("batch 1", "batch 2", "batch 3"):
    ...     queue.push(name, group="batch", cost=10)
    >>> queue.pop(), queue.push("single", group="single", cost=10)
    ('batch 1', None)
    >>> queue.pop(), queue.pop(), queue.pop()
    ('single', 'batch 2', 'batch 3')
    """

    def __init__(self) -> None:
        self._heap: list[_Entry[T]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._finishes: dict[str, float] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        """Those who wait, in no order."""
        return (entry.item for entry in self._heap)

    def push(self, item: T, *, group: str = "", cost: float = 1.0, priority: int = 0) -> None:
        """Let an item wait.

        Args:
            group: whose work it is; groups share alike.
            cost: how much work it is, in any unit above 0 that is used throughout.
            priority: whatever its group, an item of smaller priority goes first.
        """
        start = max(self._now, self._finishes.get(group, 0.0))
        self._finishes[group] = start + cost
        heapq.heappush(self._heap, _Entry(priority, start, next(self._order), item))

    def remove(self, item: T) -> None:
        """Take out an item that was seen at the head."""
        if self.peek() is item:
            self.pop()
        else:
            self.sweep(lambda other: other is item)

    def peek(self) -> T | None:
        """The next item, or None."""
        return self._heap[0].item if self._heap else None

    def pop(self) -> T:
        """Take the next item out.

        Raises:
            IndexError: nobody waits.
        """
        entry = heapq.heappop(self._heap)
        self._now = max(self._now, entry.start)
        if len(self._finishes) > 2 * len(self._heap) + 64:
            self._finishes = {group: finish for group, finish in self._finishes.items() if finish > self._now}
        return entry.item

    def sweep(self, gone: Callable[[T], bool]) -> None:
        """Take out every item of which ``gone`` says so."""
        kept = [entry for entry in self._heap if not gone(entry.item)]
        if len(kept) < len(self._heap):
            heapq.heapify(kept)
            self._heap = kept


__all__ = ["FairQueue"]
