"""Where the parts of a graph stand in a drawing: in layers, from the input at the top to the output at the bottom.

The way of Sugiyama, Tagawa and Toda (Methods for Visual Understanding of Hierarchical System Structures, 1981): loops
are opened, each part gets the layer that its longest way from the input gives it, parts of a layer are ordered by the
barycentres of those they are joined to, and then moved to where lines are straightest. A shape's own graph is laid out
first and stands in the outer one as a box. The unit is a point (1/72 inch); text is measured by estimate.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .drawing import visible
from .graph import Flow, Graph, Part
from .ranking import apart, ranks, without_loops

SIZE, SMALL = 12.0, 10.0
"""Of a part's name, and of all other text."""
LINE = 1.35
"""From line to line, in text sizes."""
PAD = 10.0
_COLUMNS, _LINES = 44, 4
"""Of one text: characters in a line, and lines."""
_FLOW_LINES = 7
_APART = 22.0
"""Between parts that stand beside each other."""
_GAP = 20.0
"""Between layers, where lines bend."""
_SWEEPS = 12
_BOLD = 1.12
_STRAIGHT = 12.0
"""How much a long wire that runs straight counts, beside one that ends where it is wanted."""
_NARROW, _WIDE = "iIjlft.,:;'|!()[]{} ", "mwMW@%…→"


@dataclass(frozen=True, slots=True)
class Placed:
    """A part with its place: the upper left corner, and its size. ``heads`` are its lines of text."""

    part: Part
    x: float
    y: float
    width: float
    height: float
    heads: tuple[str, ...]
    inner: Laid | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """A flow with its way: points from its source to its target, joined by lines that run upright at each of them.

    ``lines`` are its text, in the middle of ``at``; the first ``strong`` of them are the shape's own words.
    """

    flow: Flow
    points: tuple[tuple[float, float], ...]
    at: tuple[float, float] | None
    lines: tuple[str, ...]
    strong: int


@dataclass(frozen=True, slots=True)
class Laid:
    """A graph with its places, measured from its own upper left corner."""

    graph: Graph
    width: float
    height: float
    parts: tuple[Placed, ...]
    wires: tuple[Wire, ...]


def lay_out(graph: Graph, heads: tuple[str, ...]) -> Laid:
    """Lay out a graph below ``heads``, its lines of text."""
    return _Layers(graph, heads).laid()


def wide(text: str, size: float) -> float:
    """About how wide a text is, rather more than less."""
    return size * sum(map(_em, text))


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in _NARROW:
        return 0.40
    return 0.98 if character in _WIDE else 0.69 if character.isupper() else 0.62


def folded(text: str) -> tuple[str, ...]:
    """A text as lines that are not too long; what is left out of a very long one is marked."""
    shown = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    lines = textwrap.wrap(shown, _COLUMNS, break_on_hyphens=False) or [""]
    return (*lines[:_LINES], "…") if len(lines) > _LINES else tuple(lines)


@dataclass
class _Spot:
    """Something that takes room in a layer: a part, or the place where a wire crosses the layer."""

    width: float
    height: float = 0.0
    part: Part | None = None
    heads: tuple[str, ...] = ()
    inner: Laid | None = None
    beside: float = 0.0
    """Room on each side for what leads back to it."""
    layer: int = 0
    order: int = 0
    middle: float = 0.0
    top: float = 0.0
    floor: float = 0.0
    above: list[_Spot] = field(default_factory=list)
    below: list[_Spot] = field(default_factory=list)

    def wanted(self, *, above: bool, below: bool) -> float:
        """Where it would best stand: amid those it is joined to; a wire in line with itself before all."""
        joined = [*(self.above if above else ()), *(self.below if below else ())]
        weights = [_STRAIGHT if self.part is None and other.part is None else 1.0 for other in joined]
        if not joined:
            return self.middle
        found: float = sum(o.middle * weight for o, weight in zip(joined, weights, strict=True)) / sum(weights)
        return found


@dataclass
class _Path:
    """A flow's way through the layers, downwards; ``turned`` where the flow itself leads up."""

    flow: Flow
    spots: list[_Spot]
    lines: tuple[str, ...]
    strong: int
    turned: bool
    label: _Spot | None


class _Layers:
    def __init__(self, graph: Graph, heads: tuple[str, ...]) -> None:
        self.graph = graph
        self.heads = heads
        self.spots = {part.name: _spot(part) for part in graph.parts}
        self.loops = [flow for flow in graph.flows if flow.source == flow.target]
        self._room_for_loops()
        ways = without_loops(graph)
        self.rank = ranks(graph, [(source, target) for _, source, target, _ in ways])
        self.layers: list[list[_Spot]] = [[] for _ in range(2 * max(self.rank.values()) + 1)]
        for name, spot in self.spots.items():
            self.layers[2 * self.rank[name]].append(spot)
        self.paths = [self._path(*way) for way in ways]
        for path in self.paths:
            for upper, lower in pairwise(path.spots):
                upper.below.append(lower)
                lower.above.append(upper)

    def laid(self) -> Laid:
        self._order()
        self._stand()
        head = PAD + _heads_height(self.heads)
        height = self._stack_up(head)
        left = min(spot.middle - spot.width / 2 for layer in self.layers for spot in layer)
        right = max(spot.middle + spot.width / 2 for layer in self.layers for spot in layer)
        width = max(right - left, _heads_width(self.heads)) + 2 * PAD
        shift = (width - (right - left)) / 2 - left
        for layer in self.layers:
            for spot in layer:
                spot.middle += shift
        ends = _Ends(self.paths)
        wires = [*(self._wire(path, ends) for path in self.paths), *map(self._loop, self.loops)]
        return Laid(self.graph, width, height + PAD, tuple(self._placed()), tuple(wires))

    # -- what takes room ----------------------------------------------------------------------------------------

    def _room_for_loops(self) -> None:
        for flow in self.loops:
            lines, strong = _said(flow)
            spot = self.spots[flow.source]
            spot.beside = said_width(lines, strong) + 2 * PAD
            spot.width += 2 * spot.beside
            spot.height = max(spot.height, len(lines) * SMALL * LINE + PAD)

    def _path(self, flow: Flow, source: str, target: str, turned: bool) -> _Path:
        """The places where a flow crosses the layers; its text stands in the last of them."""
        lines, strong = _said(flow)
        start, end = self.rank[source], self.rank[target]
        crossed = [_Spot(8.0) for _ in range(2 * start + 1, 2 * end)]
        label = crossed[-1] if lines else None
        if label is not None:
            label.width, label.height = said_width(lines, strong) + 8, len(lines) * SMALL * LINE + 4
        for layer, spot in zip(self.layers[2 * start + 1 : 2 * end], crossed, strict=True):
            layer.append(spot)
        return _Path(flow, [self.spots[source], *crossed, self.spots[target]], lines, strong, turned, label)

    # -- order within layers ------------------------------------------------------------------------------------

    def _order(self) -> None:
        for layer in self.layers:
            for order, spot in enumerate(layer):
                spot.order = order
        best, fewest = [list(layer) for layer in self.layers], self._crossings()
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            for layer in self.layers[1:] if down else reversed(self.layers[:-1]):
                self._sort(layer, down)
            if (now := self._crossings()) < fewest:
                best, fewest = [list(layer) for layer in self.layers], now
        self.layers = best
        for number, layer in enumerate(self.layers):
            for order, spot in enumerate(layer):
                spot.layer, spot.order = number, order

    @staticmethod
    def _sort(layer: list[_Spot], down: bool) -> None:
        """By the barycentres of those above, or below; whatever has none keeps its place."""
        keys = {
            id(spot): _mean([other.order for other in (spot.above if down else spot.below)], spot.order)
            for spot in layer
        }
        layer.sort(key=lambda spot: keys[id(spot)])
        for order, spot in enumerate(layer):
            spot.order = order

    def _crossings(self) -> int:
        found = 0
        for upper, lower in pairwise(self.layers):
            place = {id(spot): n for n, spot in enumerate(lower)}
            ends = [sorted(place[id(below)] for below in spot.below) for spot in upper]
            flat = [end for own in ends for end in own]
            found += sum(a > b for n, a in enumerate(flat) for b in flat[n + 1 :])
        return found

    # -- where they stand ---------------------------------------------------------------------------------------

    def _stand(self) -> None:
        for layer in self.layers:
            for spot, place in zip(layer, _spread([0.0] * len(layer), layer), strict=True):
                spot.middle = place
        for sweep in range(4 * _SWEEPS):
            down, both = sweep % 2 == 0, sweep >= 2 * _SWEEPS
            for layer in self.layers if down else reversed(self.layers):
                wanted = [spot.wanted(above=both or down, below=both or not down) for spot in layer]
                for spot, place in zip(layer, _spread(wanted, layer), strict=True):
                    spot.middle = place
        for _ in range(_SWEEPS):
            for path in self.paths:
                self._straighten(path)

    def _straighten(self, path: _Path) -> None:
        """Bring the places where a wire crosses layers into line, from its end up, as far as there is room for it."""
        run: list[_Spot] = []
        room = (-math.inf, math.inf)
        for spot in reversed(path.spots[1:-1]):
            low, high = self._room(spot)
            if max(low, room[0]) > min(high, room[1]):
                run, room = [], (-math.inf, math.inf)
            run.append(spot)
            room = max(low, room[0]), min(high, room[1])
            place = min(max(run[0].middle, room[0]), room[1])
            for crossed in run:
                crossed.middle = place

    def _room(self, spot: _Spot) -> tuple[float, float]:
        """Where it can stand between its neighbours."""
        layer = self.layers[spot.layer]
        before = layer[spot.order - 1] if spot.order else None
        after = layer[spot.order + 1] if spot.order + 1 < len(layer) else None
        low = before.middle + _between(before, spot) if before is not None else -math.inf
        high = after.middle - _between(spot, after) if after is not None else math.inf
        return low, max(low, high)

    def _stack_up(self, top: float) -> float:
        for number, layer in enumerate(self.layers):
            height = max((spot.height for spot in layer), default=0.0)
            for spot in layer:
                spot.top, spot.floor = top, top + height
            top += height + (_GAP if height or number % 2 == 0 else _GAP / 2)
        return top - _GAP

    # -- what came of it ----------------------------------------------------------------------------------------

    def _placed(self) -> Iterator[Placed]:
        for spot in self.spots.values():
            width = spot.width - 2 * spot.beside
            assert spot.part is not None
            yield Placed(spot.part, spot.middle - width / 2, spot.top, width, spot.height, spot.heads, spot.inner)

    def _wire(self, path: _Path, ends: _Ends) -> Wire:
        first, last = path.spots[0], path.spots[-1]
        start = ends.below[id(path)]
        points = [(start, first.top + first.height), (start, first.floor)]
        for spot in path.spots[1:-1]:
            points += [(spot.middle, spot.top), (spot.middle, spot.floor)]
        points.append((ends.above[id(path)], last.top))
        at = None
        if path.label is not None:
            at = (path.label.middle, path.label.floor - path.label.height / 2)
        way = tuple(reversed(points)) if path.turned else tuple(points)
        return Wire(path.flow, way, at, path.lines, path.strong)

    def _loop(self, flow: Flow) -> Wire:
        """From a part's side out and back to it."""
        spot = self.spots[flow.source]
        lines, strong = _said(flow)
        edge = spot.middle + spot.width / 2 - spot.beside
        low, high = spot.top + spot.height * 0.75, spot.top + spot.height * 0.25
        points = ((edge, low), (edge + PAD, low), (edge + PAD, high), (edge, high))
        return Wire(flow, points, (edge + PAD + spot.beside / 2, spot.top + spot.height / 2), lines, strong)


class _Ends:
    """Where wires leave and reach parts: beside each other, each as near as may be to where it leads."""

    def __init__(self, paths: Sequence[_Path]) -> None:
        self.below = self._along(paths, 0, 1)
        self.above = self._along(paths, -1, -2)

    @staticmethod
    def _along(paths: Sequence[_Path], own: int, other: int) -> dict[int, float]:
        at: dict[int, list[_Path]] = {}
        for path in paths:
            at.setdefault(id(path.spots[own]), []).append(path)
        found = {}
        for joined in at.values():
            spot = joined[0].spots[own]
            joined.sort(key=lambda path: path.spots[other].middle)
            half = max(0.0, spot.width / 2 - spot.beside - 12)
            gap = min(14.0, 2 * half / max(1, len(joined) - 1))
            first, last = spot.middle - half, spot.middle + half - gap * (len(joined) - 1)
            places = apart([path.spots[other].middle for path in joined], [gap] * (len(joined) - 1))
            for number, (path, place) in enumerate(zip(joined, places, strict=True)):
                found[id(path)] = min(max(place - number * gap, first), last) + number * gap
        return found


# -- text and room ---------------------------------------------------------------------------------------------------


def _spot(part: Part) -> _Spot:
    name = folded(part.name)[0]
    heads = (name, *(line for text in part.lines for line in folded(text)))
    if part.inner is not None:
        inner = lay_out(part.inner, heads)
        return _Spot(inner.width, inner.height, part, heads, inner)
    beside = 2 * PAD if part.sort == "decision" else 0.0
    return _Spot(_heads_width(heads) + 2 * PAD + beside, _heads_height(heads) + PAD, part, heads)


def _said(flow: Flow) -> tuple[tuple[str, ...], int]:
    """A flow's text, line by line, and how many of them are the shape's own words."""
    own = [line for text in flow.labels if text for line in folded(text)]
    lines = [*own, *(line for text in flow.lines[len([t for t in flow.labels if t]) :] for line in folded(text))]
    if len(lines) > _FLOW_LINES:
        lines = [*lines[: _FLOW_LINES - 1], f"… {len(lines) - _FLOW_LINES + 1} more"]
    return tuple(lines), min(len(own), len(lines))


def said_width(lines: Sequence[str], strong: int) -> float:
    """How wide the text of a wire is, of which the first lines are bold."""
    bold, rest = lines[:strong], lines[strong:]
    return max((*(wide(line, SMALL) * _BOLD for line in bold), *(wide(line, SMALL) for line in rest)), default=0.0)


def _heads_width(heads: Sequence[str]) -> float:
    return max(wide(heads[0], SIZE) * _BOLD, said_width(heads[1:], 0))


def _heads_height(heads: Sequence[str]) -> float:
    return SIZE * LINE + (len(heads) - 1) * SMALL * LINE + PAD


# -- numbers ---------------------------------------------------------------------------------------------------------


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def _spread(wanted: Sequence[float], layer: Sequence[_Spot]) -> list[float]:
    """The middles of a layer's spots, as near as may be to those wanted; wires weigh more: they are to be straight."""
    gaps = [_between(left, right) for left, right in pairwise(layer)]
    return apart(wanted, gaps, [1.0 if spot.part else 3.0 for spot in layer])


def _between(left: _Spot, right: _Spot) -> float:
    """How far their middles are apart at least."""
    return (left.width + right.width) / 2 + (_APART if left.part and right.part else _APART / 2)


__all__ = ["LINE", "PAD", "SIZE", "SMALL", "Laid", "Placed", "Wire", "folded", "lay_out", "said_width", "wide"]
