"""A graph as a picture: SVG, written directly, and PNG, painted by matplotlib. Both show the same marks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias
from xml.sax.saxutils import escape, quoteattr

from .drawing import visible
from .graph import Graph
from .layout import LINE, PAD, SIZE, SMALL, Laid, Placed, Wire, folded, lay_out, said_width

_INK, _DIM, _WHITE = "#1f2328", "#59636e", "#ffffff"
_BACK = ("#ffffff", "#f3f6f9", "#e7edf3")
"""Of shapes within shapes, in turn."""
_FILL = {"slm": "#dbe9fb", "tool": "#dcf1ec", "decision": "#fbe7d3"}
_STROKE = {"slm": "#3f74c8", "tool": "#2f8f83", "decision": "#c8762c"}
_PORT_FILL, _PORT_STROKE = "#eef1f4", "#8a949e"
_OWN = "#a8560f"
"""Of what a shape itself says of a wire."""
_TIP = 6.0
_MARGIN = 8.0
_DOTS = 144.0
"""To the inch."""
_MOST_PIXELS = 12_000
"""Of either side of a PNG; a larger drawing gets fewer dots to the inch."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Points: TypeAlias = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Area:
    """A filled outline: a rectangle with round corners, or, given ``points``, a polygon."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = "none"
    round: float = 0.0
    points: Points = ()
    told: str = ""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points: upright at each of them, or straight from one to the next."""

    points: Points
    colour: str
    dashed: bool
    straight: bool


@dataclass(frozen=True, slots=True)
class Words:
    """One line of text; ``x`` is its beginning, or its middle."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    middle: bool = False


Mark: TypeAlias = Area | Stroke | Words


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be seen, from back to front, and how large it is, in points (1/72 inch)."""

    title: str
    width: float
    height: float
    marks: tuple[Mark, ...]


def picture(graph: Graph) -> Picture:
    """Lay a graph out and say what is to be seen of it."""
    heads = tuple(line for text in (f"{graph.kind} {graph.name}", *graph.facts) for line in folded(text))
    laid = lay_out(graph, heads)
    marks = tuple(_box(laid, heads, _MARGIN, _MARGIN, 0))
    return Picture(heads[0], laid.width + 2 * _MARGIN, laid.height + 2 * _MARGIN, marks)


def svg(graph: Graph) -> str:
    """The picture as SVG text, which asks for nothing from outside and is valid XML whatever the names are."""
    seen = picture(graph)
    size = f'width="{seen.width:.0f}" height="{seen.height:.0f}"'
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {seen.width:.0f} {seen.height:.0f}" {size} role="img"'
        ' font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">',
        f"<title>{_xml(seen.title)}</title>",
        f'<rect width="100%" height="100%" fill="{_WHITE}"/>',
        *map(_element, seen.marks),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def png(graph: Graph) -> bytes:
    """The picture as a PNG file's bytes, at 144 dots to the inch; it needs matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    seen = picture(graph)
    out = BytesIO()
    settings: Any = {"text.parse_math": False, "font.family": ["DejaVu Sans"]}
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a script that matplotlib has no font for
        figure = Figure(figsize=(seen.width / 72, seen.height / 72), facecolor=_WHITE)
        axes: Any = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, seen.width)
        axes.set_ylim(seen.height, 0)
        for order, mark in enumerate(seen.marks):
            _paint(axes, mark, order)
        dots = min(_DOTS, _MOST_PIXELS * 72 / max(seen.width, seen.height))
        figure.savefig(out, format="png", dpi=dots, metadata={"Software": None})
    return out.getvalue()


# -- what is to be seen ----------------------------------------------------------------------------------------------


def _box(laid: Laid, heads: tuple[str, ...], left: float, top: float, depth: int) -> Iterator[Mark]:
    """A graph in its box: its wires behind its parts, the wires' text before both."""
    back = _BACK[depth % len(_BACK)]
    told = laid.graph.description or f"{laid.graph.kind} {laid.graph.name}"
    yield Area(left, top, laid.width, laid.height, back, _PORT_STROKE, 8, told=told)
    yield from _lines(heads, left + PAD, top + PAD, middle=False)
    for wire in laid.wires:
        yield from _wire(wire, left, top)
    for placed in laid.parts:
        x, y = left + placed.x, top + placed.y
        if placed.inner is not None:
            yield from _box(placed.inner, placed.heads, x, y, depth + 1)
        else:
            yield from _part(placed, x, y)
    for wire in laid.wires:
        yield from _text(wire, left, top, back)


def _part(placed: Placed, x: float, y: float) -> Iterator[Mark]:
    sort = placed.part.sort
    fill, stroke = _FILL.get(sort, _PORT_FILL), _STROKE.get(sort, _PORT_STROKE)
    width, height = placed.width, placed.height
    told = " · ".join((placed.part.path, *placed.part.lines))
    if sort == "decision":
        right, low, middle = x + width, y + height, y + height / 2
        points = ((x, middle), (x + PAD, y), (right - PAD, y), (right, middle), (right - PAD, low), (x + PAD, low))
        yield Area(x, y, width, height, fill, stroke, points=points, told=told)
    else:
        corner = 4 if sort in ("slm", "tool") else min(16.0, height / 2)
        yield Area(x, y, width, height, fill, stroke, corner, told=told)
    yield from _lines(placed.heads, x + width / 2, y + PAD, middle=True)


def _lines(heads: tuple[str, ...], x: float, y: float, *, middle: bool) -> Iterator[Mark]:
    base = y + SIZE
    for number, line in enumerate(heads):
        size, colour = (SIZE, _INK) if number == 0 else (SMALL, _DIM)
        yield Words(x, base, line, size, colour, bold=number == 0, middle=middle)
        base += SMALL * LINE


def _wire(wire: Wire, left: float, top: float) -> Iterator[Mark]:
    points = tuple((left + x, top + y) for x, y in wire.points)
    loop = wire.flow.source == wire.flow.target
    colour = _STROKE["decision"] if wire.flow.labels else _DIM
    dashed = wire.flow.when and not (wire.flow.fields or wire.flow.labels)
    x, y = points[-1]
    if loop:
        tip = ((x, y), (x + _TIP, y - _TIP / 2), (x + _TIP, y + _TIP / 2))
    else:
        back = y - _TIP if points[0][1] <= y else y + _TIP
        tip = ((x, y), (x - _TIP / 2, back), (x + _TIP / 2, back))
    yield Stroke(points, colour, dashed, straight=loop)
    yield Area(0, 0, 0, 0, colour, colour, points=tip)


def _text(wire: Wire, left: float, top: float, back: str) -> Iterator[Mark]:
    if wire.at is None:
        return
    x, y = left + wire.at[0], top + wire.at[1]
    width, height = said_width(wire.lines, wire.strong), len(wire.lines) * SMALL * LINE
    yield Area(x - width / 2, y - height / 2, width, height, back, told="\n".join(wire.flow.lines))
    for number, line in enumerate(wire.lines):
        own = number < wire.strong
        base = y - height / 2 + SMALL * (number * LINE + 1.0)
        yield Words(x, base, line, SMALL, _OWN if own else _INK, bold=own, middle=True)


# -- as SVG ----------------------------------------------------------------------------------------------------------


def _element(mark: Mark) -> str:
    if isinstance(mark, Area):
        told = f"<title>{_xml(mark.told)}</title>" if mark.told else ""
        paint = f'fill="{mark.fill}" stroke="{mark.stroke}"'
        if mark.points:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
            return f'<polygon points="{points}" {paint}>{told}</polygon>'
        place = f'x="{mark.x:.1f}" y="{mark.y:.1f}" width="{mark.width:.1f}" height="{mark.height:.1f}"'
        return f'<rect {place} rx="{mark.round:.0f}" {paint}>{told}</rect>'
    if isinstance(mark, Stroke):
        dash = ' stroke-dasharray="4 3"' if mark.dashed else ""
        return f'<path d="{_way(mark)}" fill="none" stroke="{mark.colour}" stroke-width="1.2"{dash}/>'
    anchor = ' text-anchor="middle"' if mark.middle else ""
    weight = ' font-weight="bold"' if mark.bold else ""
    place = f'x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.size:.0f}"'
    return f"<text {place} fill={quoteattr(mark.colour)}{anchor}{weight}>{_xml(mark.text)}</text>"


def _way(stroke: Stroke) -> str:
    first, *rest = stroke.points
    parts = [f"M{first[0]:.1f} {first[1]:.1f}"]
    before = first
    for x, y in rest:
        if stroke.straight or abs(x - before[0]) < 0.05:
            parts.append(f"L{x:.1f} {y:.1f}")
        else:
            half = (before[1] + y) / 2
            parts.append(f"C{before[0]:.1f} {half:.1f} {x:.1f} {half:.1f} {x:.1f} {y:.1f}")
        before = (x, y)
    return " ".join(parts)


def _xml(text: str) -> str:
    """Text for XML: what cannot be seen is spelt out, and what XML cannot hold left out."""
    return escape(_NO_XML.sub("\ufffd", visible(text)))


# -- as PNG ----------------------------------------------------------------------------------------------------------


def _paint(axes: Any, mark: Mark, order: int) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

    if isinstance(mark, Words):
        weight = "bold" if mark.bold else "normal"
        align = "center" if mark.middle else "left"
        axes.text(
            mark.x, mark.y, mark.text, fontsize=mark.size, color=mark.colour, weight=weight, ha=align, zorder=order
        )
    elif isinstance(mark, Stroke):
        line = "--" if mark.dashed else "-"
        axes.add_patch(PathPatch(_path(mark), fill=False, edgecolor=mark.colour, lw=1.2, ls=line, zorder=order))
    elif mark.points:
        axes.add_patch(Polygon(mark.points, facecolor=mark.fill, edgecolor=mark.stroke, lw=1, zorder=order))
    else:
        style = f"round,pad=0,rounding_size={mark.round}" if mark.round else "square,pad=0"
        box = FancyBboxPatch((mark.x, mark.y), mark.width, mark.height, boxstyle=style)
        box.set(facecolor=mark.fill, edgecolor=mark.stroke, linewidth=1, zorder=order)
        axes.add_patch(box)


def _path(stroke: Stroke) -> Any:
    from matplotlib.path import Path

    first, *rest = stroke.points
    vertices, codes = [first], [Path.MOVETO]
    before = first
    for x, y in rest:
        if stroke.straight:
            vertices, codes = [*vertices, (x, y)], [*codes, Path.LINETO]
        else:
            half = (before[1] + y) / 2
            vertices += [(before[0], half), (x, half), (x, y)]
            codes += [Path.CURVE4] * 3
        before = (x, y)
    return Path(vertices, codes)


__all__ = ["Picture", "picture", "png", "svg"]
