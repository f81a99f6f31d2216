"""Who waits for a place in flight, in the order in which they get one.

Start-time fair queueing (Goyal, Vin and Cheng 1996): each entry is given a start tag when it comes, and the entry
with the least tag goes first. Tags of one group follow each other by what its work costs, so a group that asks for
much waits behind its own work, and one that asks for little is served at once. Within a group the order is that of
arrival. Each priority has tags of its own, and work that is cancelled before its turn is charged to nobody.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_REMEMBERED = 512
"""Of how many groups that have been served, and have nothing waiting, their share is remembered at least."""

_Lane = tuple[int, str]
"""A priority and a group."""


@dataclass(order=True, slots=True)
class _Entry(Generic[T]):
    priority: int
    start: float
    order: int
    item: T = field(compare=False)
    group: str = field(compare=False)
    cost: float = field(compare=False)
    came: float = field(compare=False)
    """The least start tag that it may have: that of the one served last when it came."""

    @property
    def lane(self) -> _Lane:
        return (self.priority, self.group)


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
        self._now: dict[int, float] = {}
        self._served: dict[_Lane, float] = {}
        self._finishes: dict[_Lane, float] = {}

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
        came = self._now.get(priority, 0.0)
        self._tag(_Entry(priority, came, next(self._order), item, group, cost, came))

    def remove(self, item: T) -> None:
        """Take out an item whose turn has come, though somebody more urgent may have come since."""
        entry = next(entry for entry in self._heap if entry.item is item)
        if entry is self._heap[0]:
            heapq.heappop(self._heap)
        else:
            self._heap.remove(entry)
            heapq.heapify(self._heap)
        self._serve(entry)

    def peek(self) -> T | None:
        """The next item, or None."""
        return self._heap[0].item if self._heap else None

    def pop(self) -> T:
        """Take the next item out.

        Raises:
            IndexError: nobody waits.
        """
        entry = heapq.heappop(self._heap)
        self._serve(entry)
        return entry.item

    def sweep(self, gone: Callable[[T], bool]) -> None:
        """Take out every item of which ``gone`` says so; what waits behind them moves up."""
        kept = [entry for entry in self._heap if not gone(entry.item)]
        if len(kept) < len(self._heap):
            self._heap = []
            self._finishes = dict(self._served)
            for entry in sorted(kept, key=lambda entry: entry.order):
                self._tag(entry)
            self._forget()

    def _tag(self, entry: _Entry[T]) -> None:
        """Put an entry behind what its group has been served and waits for."""
        entry.start = max(entry.came, self._finishes.get(entry.lane, 0.0))
        self._finishes[entry.lane] = entry.start + entry.cost
        heapq.heappush(self._heap, entry)

    def _serve(self, entry: _Entry[T]) -> None:
        self._now[entry.priority] = max(self._now.get(entry.priority, 0.0), entry.start)
        self._served.pop(entry.lane, None)  # so that those served last stand last
        self._served[entry.lane] = entry.start + entry.cost
        self._forget()

    def _forget(self) -> None:
        """Nobody owes anything where nobody waits; else keep who waits and who was served lately."""
        if not self._heap:
            self._now, self._served, self._finishes = {}, {}, {}
        elif len(self._served) > 2 * (len(self._heap) + _REMEMBERED):
            keep = {entry.lane for entry in self._heap} | set(list(self._served)[-_REMEMBERED:])
            self._served = {lane: finish for lane, finish in self._served.items() if lane in keep}
            self._finishes = {lane: finish for lane, finish in self._finishes.items() if lane in keep}


__all__ = ["FairQueue"]
