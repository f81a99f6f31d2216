"""The steps of a run as a tree: those of a shape below the shape, by their paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from ..message import plain_path

_DEEP = 40
"""Levels of a path that are told apart; stacks have fewer."""
_MANY, _FIRST = 20, 10
"""Times that are all shown, and those that are where there are more."""


class Placed(Protocol):
    """What stands somewhere in a run: :class:`~fslm_core.store.StoredNode`, or its outline."""

    @property
    def step(self) -> str:
        """Its step's path."""

    @property
    def index(self) -> int:
        """Which time of it."""

    @property
    def started(self) -> float | None:
        """When it began, Unix seconds."""

    @property
    def seconds(self) -> float | None:
        """How long it took."""


N = TypeVar("N", bound=Placed)


@dataclass
class Branch(Generic[N]):
    """A place in a run.

    Attributes:
        name: the last word of its path, with its index.
        path: of the step, with indices.
        nodes: what is kept of it: its failed tries, then its message or that it was skipped. Of a shape that did not
            end there is nothing.
        within: the steps and decisions of the shape that stands there, in the order in which the first of each ended.
        more: of a branch that only stands for others of its name that are left out: how many.
    """

    name: str
    path: str
    nodes: list[N] = field(default_factory=list)
    within: dict[str, Branch[N]] = field(default_factory=dict)
    more: int = 0

    def walk(self) -> Iterator[N]:
        """All nodes from here down."""
        yield from self.nodes
        for branch in self.within.values():
            yield from branch.walk()

    @property
    def span(self) -> tuple[float, float] | None:
        """When the first of it began and the last ended, Unix seconds; None where nothing says so."""
        times = [(node.started, node.started + (node.seconds or 0.0)) for node in self.walk() if node.started]
        return (min(start for start, _ in times), max(end for _, end in times)) if times else None


def tree(nodes: Iterable[N]) -> list[Branch[N]]:
    """The places of a run's nodes, the outermost."""
    root: Branch[N] = Branch("", "")
    for node in nodes:
        place = root
        for word in path_of(node).split(".", _DEEP):
            path = f"{place.path}.{word}" if place.path else word
            place = place.within.setdefault(word, Branch(word, path))
        place.nodes.append(node)
    return list(root.within.values())


def few(branches: Iterable[Branch[N]]) -> list[Branch[N]]:
    """The same with the first ten times of steps that ran more than twenty times, and how many are left out.

    >>> made = few(tree([]) + [Branch(f"note[{n}]", f"note[{n}]") for n in range(30)])
    >>> len(made), made[-1].name, made[-1].more
    (11, 'note', 20)
    """
    times: dict[str, list[Branch[N]]] = {}
    for branch in branches:
        times.setdefault(plain_path(branch.name), []).append(branch)
    found = []
    for name, same in times.items():
        shown = same if len(same) <= _MANY else same[:_FIRST]
        found += [replace(branch, within={b.name: b for b in few(branch.within.values())}) for branch in shown]
        if len(shown) < len(same):
            found.append(Branch(name, same[0].path, more=len(same) - len(shown)))
    return found


def path_of(node: Placed) -> str:
    """A node's path, with its index."""
    return node.step + (f"[{node.index}]" if node.index else "")


__all__ = ["Branch", "Placed", "few", "path_of", "tree"]
