"""A graph as Mermaid text: what GitHub, MkDocs and many editors draw in a page."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ..stack import INPUT, OUTPUT
from .drawing import visible
from .graph import Flow, Graph, Part

_ENTITIES = {
    '"': "quot",
    "&": "amp",
    "<": "lt",
    ">": "gt",
    "#": "num",
    "%": "percnt",
    "`": "grave",
    "$": "dollar",
    "\\": "bsol",
    ";": "semi",
}
"""What could end a label, or become Mermaid's or HTML's own, as HTML's names for it. Mermaid's numbers (``#34;``) are
not turned back in the texts of arrows and subgraphs (11.x)."""
_FIRST = {"-": "hyphen", "+": "plus", "*": "ast"}
_LIST = re.compile(r"^(\s*)([-+*]|\d+[.)])(?=\s)")
"""What Mermaid would take for a list, and refuse."""
_BRACKETS = {
    "input": ("([", "])"),
    "output": ("([", "])"),
    "supply": ("([", "])"),
    "decision": ("{{", "}}"),
    "slm": ("[", "]"),
    "tool": ("[[", "]]"),
}
_CLASS = {"slm": "slm", "tool": "tool", "decision": "decision"}
_CLASSES = (
    "classDef box fill:#f3f6f9,stroke:#8a949e,color:#1f2328",
    "classDef note fill:#ffffff,stroke:#8a949e,stroke-dasharray:3 3,color:#59636e",
    "classDef port fill:#eef1f4,stroke:#8a949e,color:#1f2328",
    "classDef slm fill:#dbe9fb,stroke:#3f74c8,color:#1f2328",
    "classDef tool fill:#dcf1ec,stroke:#2f8f83,color:#1f2328",
    "classDef decision fill:#fbe7d3,stroke:#c8762c,color:#1f2328",
)


def mermaid(graph: Graph) -> str:
    """A flowchart. Equal graphs give equal text.

    Names and types come from plugins: every character that could be taken for Mermaid's or HTML's own is escaped.
    """
    writer = _Writer()
    parts = list(writer.graph(graph, (f"{graph.kind} {graph.name}", *graph.facts), 1))
    rest = (f"  {line}" for line in (*writer.flows, *_CLASSES, f"class {','.join(writer.boxes)} box"))
    return "\n".join(("flowchart TB", *parts, *rest)) + "\n"


@dataclass
class _Writer:
    """Gives every part a name of its own: ``n1``, ``n2``, … in the order in which they are written."""

    made: int = 0
    flows: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)

    def graph(self, graph: Graph, heads: Sequence[str], depth: int) -> Generator[str, None, tuple[str, str]]:
        """The lines of a graph; what leads where in it is kept for the end. Returns where one enters and leaves it."""
        pad = "  " * depth
        enters: dict[str, str] = {}
        leaves: dict[str, str] = {}
        box = self._name()
        self.boxes.append(box)
        yield f"{pad}subgraph {box}[{_text(heads[:1])}]"
        yield f"{pad}  direction TB"
        if len(heads) > 1:  # a subgraph's title has room for one line
            yield f"{pad}  {self._name()}[{_text(heads[1:])}]:::note"
        for part in graph.parts:
            enters[part.name], leaves[part.name] = yield from self._part(part, depth + 1)
        yield f"{pad}end"
        self.flows += (_flow(flow, leaves[flow.source], enters[flow.target]) for flow in graph.flows)
        return enters[INPUT], leaves[OUTPUT]

    def _part(self, part: Part, depth: int) -> Generator[str, None, tuple[str, str]]:
        if part.inner is not None:
            kind, *rest = part.lines
            return (yield from self.graph(part.inner, (f"{part.name}: {kind}", *rest), depth))
        heads = (part.name, *part.lines)
        name = self._name()
        opening, closing = _BRACKETS[part.sort]
        yield f"{'  ' * depth}{name}{opening}{_text(heads)}{closing}:::{_CLASS.get(part.sort, 'port')}"
        return name, name

    def _name(self) -> str:
        self.made += 1
        return f"n{self.made}"


def _flow(flow: Flow, source: str, target: str) -> str:
    line = "-.->" if flow.when and not (flow.fields or flow.labels) else "==>" if flow.labels else "-->"
    return f"{source} {line}{f'|{_text(flow.lines)}|' if flow.lines else ''} {target}"


def _text(lines: Sequence[str]) -> str:
    return '"' + "<br/>".join(map(_escaped, lines)) + '"'


def _escaped(line: str) -> str:
    """One line of a label.

    >>> _escaped('a "quoted" <b>&amp;')
    'a &quot;quoted&quot; &lt;b&gt;&amp;amp&semi;'
    """
    shown = visible(line).replace("\n", "\\n").replace("\t", "\\t")
    named = "".join(f"&{_ENTITIES[c]};" if c in _ENTITIES else c for c in shown)
    return _LIST.sub(lambda found: found[1] + _unlisted(found[2]), named)


def _unlisted(mark: str) -> str:
    """What would begin a list, so that it begins none."""
    return f"&{_FIRST[mark]};" if mark in _FIRST else mark.replace(".", "&period;").replace(")", "&rpar;")


__all__ = ["mermaid"]
