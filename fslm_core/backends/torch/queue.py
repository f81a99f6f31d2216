"""Who waits for a place in flight, in the order in which they get one.

Start-time fair queueing (Goyal, Vin and Cheng 1996): the first who waits of each group has a start tag, and the least
tag goes first. A group's tags follow each other by what the work it was given costs, so a group that asks for much
waits behind its own work, and one that asks for little is served at once. Each priority has tags of its own, and work
that is cancelled before its turn is charged to nobody.

A job (a run of a stack) comes in several pieces. Once one of them was served the others go before whoever begins
another job: what they share is still in memory, and a job ended is worth more than two begun. They are charged to their
group all the same, and only so many of them pass somebody who waits to begin.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from operator import attrgetter
from typing import Generic, TypeVar

T = TypeVar("T")

PASSED = 32
"""So many pieces of jobs that have begun may go in a row before somebody who waits to begin one."""
_REMEMBERED = 512
"""Of how many groups served lately the share is remembered at least, and of how many jobs that they have begun."""


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    group: str
    job: str
    cost: float
    order: int
    came: float
    """The least start tag that it may have: that of the one served last when it came."""


@dataclass(slots=True)
class _Lanes(Generic[T]):
    """Those of one priority.

    Attributes:
        begun: pieces of jobs that have begun, in the order in which they came.
        fresh: the others, by group, in the order in which they came; no group is empty.
        now: the start tag of the one served last.
        finishes: by group, the tag at which the work it was given ends.
        passed: how many of ``begun`` were served in a row while others waited.
    """

    begun: list[_Entry[T]] = field(default_factory=list)
    fresh: dict[str, deque[_Entry[T]]] = field(default_factory=dict)
    now: float = 0.0
    finishes: dict[str, float] = field(default_factory=dict)
    passed: int = 0

    def __iter__(self) -> Iterator[_Entry[T]]:
        return chain(self.begun, chain.from_iterable(self.fresh.values()))

    def start(self, entry: _Entry[T]) -> float:
        """The start tag of the first of a group."""
        return max(entry.came, self.finishes.get(entry.group, 0.0))

    def first(self) -> _Entry[T] | None:
        """Whose turn it is."""
        if self.begun and (self.passed < PASSED or not self.fresh):
            return self.begun[0]
        heads = (lane[0] for lane in self.fresh.values())
        return min(heads, key=lambda entry: (self.start(entry), entry.order), default=None)

    def take(self, entry: _Entry[T]) -> None:
        """Take one out and charge its group. The pieces of its job that wait have begun."""
        start = self.start(entry)
        if entry in self.begun:
            self.begun.remove(entry)
            self.passed = self.passed + 1 if self.fresh else 0
        else:
            self.now = max(self.now, start)
            self.passed = 0
            lane = self.fresh.pop(entry.group)
            for other in lane:
                if other.job == entry.job and other is not entry:
                    insort(self.begun, other, key=attrgetter("order"))
            if rest := deque(other for other in lane if other.job != entry.job):
                self.fresh[entry.group] = rest
        self.finishes.pop(entry.group, None)  # so that those served last stand last
        self.finishes[entry.group] = start + entry.cost
        if len(self.finishes) > 2 * (len(self.fresh) + _REMEMBERED):
            late = set(list(self.finishes)[-_REMEMBERED:])
            self.finishes = {g: tag for g, tag in self.finishes.items() if g in late or g in self.fresh}

    def sweep(self, gone: Callable[[T], bool]) -> None:
        """Take out every item of which ``gone`` says so."""
        self.begun = [entry for entry in self.begun if not gone(entry.item)]
        lanes = {group: deque(entry for entry in lane if not gone(entry.item)) for group, lane in self.fresh.items()}
        self.fresh = {group: lane for group, lane in lanes.items() if lane}


class FairQueue(Generic[T]):
    """A queue that is fair to its groups.

    >>> queue = FairQueue[str]()
    >>> for name in ("batch 1", "batch 2", "batch 3"):
    ...     queue.push(name, group="batch", cost=10)
    >>> queue.pop(), queue.push("single", group="single", cost=10)
    ('batch 1', None)
    >>> queue.pop(), queue.pop(), queue.pop()
    ('single', 'batch 2', 'batch 3')

    >>> queue.push("run 1, intent", job="run 1")
    >>> queue.push("run 2, intent", job="run 2")
    >>> queue.pop(), queue.push("run 1, details", job="run 1")
    ('run 1, intent', None)
    >>> queue.pop(), queue.pop()
    ('run 1, details', 'run 2, intent')
    """

    def __init__(self) -> None:
        self._lanes: dict[int, _Lanes[T]] = {}
        self._order = count()
        self._begun: dict[str, None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(lanes.begun or lanes.fresh for lanes in self._lanes.values())

    def __iter__(self) -> Iterator[T]:
        """Those who wait, in no order."""
        return (entry.item for lanes in self._lanes.values() for entry in lanes)

    def push(self, item: T, *, group: str = "", job: str = "", cost: float = 1.0, priority: int = 0) -> None:
        """Let an item wait.

        Args:
            group: whose work it is; groups share alike.
            job: of which piece of the group's work it is a part; empty for work of one part.
            cost: how much work it is, in any unit above 0 that is used throughout.
            priority: whatever its group, an item of smaller priority goes first.
        """
        lanes = self._lanes.setdefault(priority, _Lanes())
        order = next(self._order)
        entry = _Entry(item, group, job or f"\0{order}", cost, order, lanes.now)
        if entry.job in self._begun:
            lanes.begun.append(entry)
        else:
            lanes.fresh.setdefault(group, deque()).append(entry)

    def remove(self, item: T) -> None:
        """Take out an item whose turn has come, though somebody more urgent may have come since."""
        found = ((lanes, entry) for lanes in self._lanes.values() for entry in lanes if entry.item is item)
        lanes, entry = next(found)
        self._serve(lanes, entry)

    def peek(self) -> T | None:
        """The next item, or None."""
        entry = self._first()[1]
        return None if entry is None else entry.item

    def pop(self) -> T:
        """Take the next item out.

        Raises:
            IndexError: nobody waits.
        """
        lanes, entry = self._first()
        if entry is None:
            raise IndexError("nobody waits")
        self._serve(lanes, entry)
        return entry.item

    def sweep(self, gone: Callable[[T], bool]) -> None:
        """Take out every item of which ``gone`` says so; what waits behind them moves up."""
        for lanes in self._lanes.values():
            lanes.sweep(gone)
        self._forget()

    def _first(self) -> tuple[_Lanes[T], _Entry[T] | None]:
        lanes = min((p for p, lanes in self._lanes.items() if lanes.begun or lanes.fresh), default=None)
        return (_Lanes(), None) if lanes is None else (self._lanes[lanes], self._lanes[lanes].first())

    def _serve(self, lanes: _Lanes[T], entry: _Entry[T]) -> None:
        lanes.take(entry)
        self._begun.pop(entry.job, None)
        self._begun[entry.job] = None
        if len(self._begun) > _REMEMBERED:
            del self._begun[next(iter(self._begun))]
        self._forget()

    def _forget(self) -> None:
        """Nobody owes anything where nobody waits."""
        if not self:
            self._lanes = {}


__all__ = ["PASSED", "FairQueue"]
