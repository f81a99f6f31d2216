"""A run as the page shows it: a page of its steps, those of a shape below it, with what is asked of them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..explain.drawing import one_line
from ..explain.tree import Branch, path_of, tree
from ..explain.wording import step_of
from ..store import Outline, OutlinedNode, StoredNode, StoredRun, TraceStore

CARDS = 50
"""Steps on a page."""
PARENTS = 12
"""Steps that are named where a message came from."""
DEEPEST = 6
"""Levels that are shown further and further to the right."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a run's outline.

    Attributes:
        number: as `fslm trace show` counts: ``2.1`` is the first within the second.
        node: None of a shape that did not end.
        span: when it was at work, from the run's beginning, as shares of the run's whole time.
    """

    number: str
    name: str
    path: str
    depth: int
    node: OutlinedNode | None
    span: tuple[float, float] | None

    @property
    def status(self) -> str:
        """``ok``, ``failed``, ``skipped``; ``open`` where it did not end."""
        return "open" if self.node is None else self.node.status


@dataclass(frozen=True, slots=True)
class _Line:
    """An entry before anybody looks at when it was at work, which of ten thousand is asked of fifty only."""

    number: str
    branch: Branch[OutlinedNode]
    depth: int
    node: OutlinedNode | None


@dataclass(frozen=True, slots=True)
class Card:
    """A step on the page, with what it said."""

    entry: Entry
    node: StoredNode | None
    beside: tuple[StoredNode, ...] = ()
    last: bool = True
    """Whether it is what stands at the end of its step; failed tries come before it."""

    @property
    def path(self) -> str:
        """Of the step, with indices."""
        return self.entry.path


@dataclass(frozen=True, slots=True)
class Flow:
    """A page of a run.

    Attributes:
        run: with the nodes of this page only.
        strays: candidates beside steps that did not end.
        entries: the lines of this page; ``total`` is how many the run has.
        pulse: what changes when more of the run is recorded.
    """

    run: StoredRun
    cards: tuple[Card, ...]
    strays: tuple[StoredNode, ...]
    entries: tuple[Entry, ...]
    total: int
    page: int
    pulse: str
    steps: dict[str, str] = field(repr=False)
    places: dict[str, int] = field(repr=False)

    @property
    def pages(self) -> int:
        """How many pages the run has."""
        return max(1, -(-self.total // CARDS))

    def parents(self, parents: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
        """The steps that messages came from, and where on which page each stands; and how many more there are."""
        names = dict.fromkeys(self.steps.get(parent) or step_of(self.run.row.id, parent) for parent in parents)
        return [(name, self.link(name)) for name in list(names)[:PARENTS]], max(0, len(names) - PARENTS)

    def link(self, path: str) -> str:
        """Where a step stands: an anchor on this page, or on another."""
        page = self.places.get(path, 0) // CARDS + 1
        anchor = f"#{anchor_of(path)}"
        return anchor if page == self.page or path not in self.places else f"?page={page}{anchor}"


def page_of(query: Mapping[str, str]) -> int:
    """Which page is asked for; what is no number asks for the first.

    >>> page_of({"page": "3"}), page_of({"page": "-1"}), page_of({})
    (3, 1, 1)
    """
    text = query.get("page", "1")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def flow(store: TraceStore, run: str, page: int = 1) -> Flow:
    """Read a page of a run; pages are counted from 1, and one beyond the last is the last.

    Raises:
        UnknownNameError: no such run, or several.
        StoreError: the database cannot be read.
    """
    outline = store.outline(run)
    pulse = store.pulse(outline.row.id) or ""
    lines = list(_lines(tree(outline.nodes)))
    page = max(1, min(page, max(1, -(-len(lines) // CARDS))))
    shown = list(_entries(lines[(page - 1) * CARDS : page * CARDS], outline))
    last = {node.step: node.id for node in outline.nodes}
    ended = {node.step for node in outline.nodes}
    beside = [node for entry in shown for node in outline.candidates.get(entry.path, ())]
    if page == 1:
        beside += [node for step, nodes in outline.candidates.items() if step not in ended for node in nodes]
    part = store.run(outline.row.id, nodes=[*(e.node.id for e in shown if e.node is not None), *beside])
    nodes = {node.id: node for node in part.nodes}
    cards = []
    for entry in shown:
        node = None if entry.node is None else nodes.get(entry.node.id)
        stands = node is not None and last[node.step] == node.id
        near = tuple(s for s in part.shadows if node is not None and stands and s.step == node.step)
        cards.append(Card(entry, node, near, stands))
    return Flow(
        run=part,
        cards=tuple(cards),
        strays=tuple(shadow for shadow in part.shadows if shadow.step not in ended),
        entries=tuple(shown),
        total=len(lines),
        page=page,
        pulse=pulse,
        steps={node.id: path_of(node) for node in outline.nodes},
        places={line.branch.path: place for place, line in enumerate(lines)},
    )


def anchor_of(path: str) -> str:
    """The id of a step's card.

    >>> anchor_of("pages[3].summary")
    'step-pages[3].summary'
    """
    return f"step-{one_line(path).replace(' ', '_')}"


def _lines(branches: Iterable[Branch[OutlinedNode]], before: str = "", depth: int = 0) -> Iterator[_Line]:
    place = 0
    for branch in branches:
        nodes: list[OutlinedNode | None] = [*branch.nodes] or [None]
        for node in nodes:
            place += 1
            yield _Line(f"{before}{place}", branch, depth, node)
        yield from _lines(branch.within.values(), f"{before}{place}.", depth + 1)


def _entries(lines: Iterable[_Line], outline: Outline) -> Iterator[Entry]:
    start = outline.row.started
    ends = [n.started - start + (n.seconds or 0.0) for n in outline.nodes if n.started]
    whole = max([outline.row.seconds or 0.0, *ends, 1e-9])
    for line in lines:
        name, path, span = line.branch.name, line.branch.path, line.branch.span
        share = None if span is None else _share(span, start, whole)
        yield Entry(line.number, name, path, min(line.depth, DEEPEST), line.node, share)


def _share(span: tuple[float, float], start: float, whole: float) -> tuple[float, float]:
    first, last = ((moment - start) / whole for moment in span)
    first = min(0.995, max(0.0, first))
    return first, min(1.0 - first, max(0.005, last - first))


__all__ = ["CARDS", "Card", "Entry", "Flow", "anchor_of", "flow", "page_of"]
