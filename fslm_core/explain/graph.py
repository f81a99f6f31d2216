"""A stack as a graph: what stands in it and what leads where, as data. Nothing is run, and no weight is loaded.

It asks only what every shape answers (its steps, its wiring, ``labels`` and ``arrows``), so a new kind of shape is
drawn by what it says of itself.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from ..stack import INPUT, OUTPUT, Shape, Step, Target
from ..stage import Stage

Sort: TypeAlias = Literal["input", "output", "slm", "tool", "shape", "decision", "supply"]
"""What a part is: the shape's own input or output, a step (by what stands there), something the shape decides, or
something else that fields come from, as a map's item."""

_CHOICES = 3
"""Labels of a type that are all spelt out; of more, the first stands for them."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A field on its way: where in the source's message it is, the field it is bound to, and that field's type."""

    path: str
    field: str
    type: str

    def __str__(self) -> str:
        return f"{self.field}: {self.type}" if self.path == self.field else f"{self.path} → {self.field}: {self.type}"


@dataclass(frozen=True, slots=True)
class Flow:
    """What leads from one part of a graph to another.

    Attributes:
        source, target: names of parts of the same graph.
        fields: what is bound on this way.
        labels: what the shape says of it, as the value that a route goes by.
        when: True where the target's condition asks for something of the source.
    """

    source: str
    target: str
    fields: tuple[Bound, ...] = ()
    labels: tuple[str, ...] = ()
    when: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """What stands beside it in a drawing."""
        said = (*(label for label in self.labels if label), *map(str, self.fields))
        return said or (("when",) if self.when and not self.labels else ())


@dataclass(frozen=True, slots=True)
class Part:
    """Something that stands in a graph.

    Attributes:
        name: unique in its graph; of a step its name.
        path: the same from the stack on: ``desk.refund``.
        node: the name of the stage or shape at a step; the model's name of an input or output.
        runs: what does the work at a stage: a model or a tool.
        when, on_error: the step's condition, and its policy where it is not to fail.
        narrowed: which field is narrowed by what.
        inner: the shape's own graph, where one stands here.
    """

    sort: Sort
    name: str
    path: str
    node: str = ""
    runs: str = ""
    when: str | None = None
    on_error: str | None = None
    narrowed: tuple[str, ...] = ()
    inner: Graph | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """What stands in it in a drawing, below its name."""
        inner = () if self.inner is None else (f"{self.inner.kind} {self.inner.name}", *self.inner.facts)
        said = inner or tuple(text for text in (self.node if self.node != self.name else "", self.runs) if text)
        policies = (
            *(f"narrowed: {text}" for text in self.narrowed),
            *([f"when {self.when}"] if self.when is not None else []),
            *([f"on error: {self.on_error}"] if self.on_error is not None else []),
        )
        return (*said, *policies)


@dataclass(frozen=True, slots=True)
class Graph:
    """A shape: its parts in order, its input first and its output last, and what leads from one to another.

    >>> from fslm_core import Stack, tool
    >>> from pydantic import BaseModel
    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Text:
    ...     return Text(text=message.text.upper())
    >>> demo = Stack("demo", input=Text, output=Text, steps=[shout], bind={"text": "shout.text"})
    >>> [(flow.source, flow.target, flow.lines) for flow in graph_of(demo).flows]
    [('input', 'shout', ('text: str',)), ('shout', 'output', ('text: str',))]
    """

    kind: str
    name: str
    path: str
    description: str
    facts: tuple[str, ...]
    parts: tuple[Part, ...]
    flows: tuple[Flow, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: ``kind``, ``name``, ``path``, ``description``, ``facts``, ``parts`` and ``flows``."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": self.path,
            "description": self.description,
            "facts": list(self.facts),
            "parts": [_part_data(part) for part in self.parts],
            "flows": [_flow_data(flow) for flow in self.flows],
        }


def graph_of(shape: Shape[Any, Any], path: str = "") -> Graph:
    """The graph of a shape and of those within it.

    Raises:
        CheckError: it is not wired as it could run.
    """
    flows = _Flows()
    conditions = shape.wiring.conditions
    for target in shape.targets():
        end = _end(target)
        for name, source in shape.wiring.sources[target.name].items():
            bound = Bound(".".join(source.path), name, type_text(target.model.model_fields[name].annotation))
            flows.add(source.step, end, bound=bound)
    for arrow in shape.arrows():
        flows.add(arrow.source, arrow.target, label=arrow.label)
    for step in shape.steps:
        for name in sorted(conditions[step.name].names) if step.name in conditions else ():
            flows.add(name, step.name, when=True)
    return Graph(
        kind=shape.kind,
        name=shape.name,
        path=path,
        description=shape.description,
        facts=tuple(shape.labels()),
        parts=tuple(_parts(shape, path, flows)),
        flows=flows.made(),
    )


def type_text(annotation: Any) -> str:
    """A type in a few words.

    >>> type_text(list[Annotated[str, "short"]] | None), type_text(Literal["a", "b", "c", "d"])
    ('list[str] | None', "'a' | … 3 more")
    """
    if annotation is None or annotation is type(None):
        return "None"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0])
    if origin is Literal:
        values = [repr(value.value if isinstance(value, enum.Enum) else value) for value in inner]
        return " | ".join(values) if len(values) <= _CHOICES else f"{values[0]} | … {len(values) - 1} more"
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, inner))
    name = getattr(origin or annotation, "__name__", None) or str(annotation)
    return f"{name}[{', '.join('…' if part is Ellipsis else type_text(part) for part in inner)}]" if inner else name


class _Flows:
    """What leads from where to where, one flow for each two parts, in the order in which they are first told of."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Flow] = {}

    def add(
        self, source: str, target: str, *, bound: Bound | None = None, label: str | None = None, when: bool = False
    ) -> None:
        old = self._made.get((source, target), Flow(source, target))
        fields = old.fields if bound is None or bound in old.fields else (*old.fields, bound)
        labels = old.labels if label is None or label in old.labels else (*old.labels, label)
        self._made[source, target] = Flow(source, target, fields, labels, old.when or when)

    def made(self) -> tuple[Flow, ...]:
        return tuple(self._made.values())

    def names(self) -> Iterator[str]:
        """The parts they lead from and to."""
        for ends in self._made:
            yield from ends


def _end(target: Target) -> str:
    """The part that a target is."""
    if target.step is not None:
        return target.step.name
    return OUTPUT if target.name.partition(" ")[0] == OUTPUT else target.name


def _parts(shape: Shape[Any, Any], path: str, flows: _Flows) -> Iterator[Part]:
    here = f"{path}." if path else ""
    named = dict.fromkeys(flows.names())
    steps = {step.name: step for step in shape.steps}
    yield Part("input", INPUT, f"{here}{INPUT}", shape.input.__name__)
    for name in named:
        if name not in steps and name not in (INPUT, OUTPUT):
            sort: Sort = "decision" if name in shape.decisions else "supply"
            yield Part(sort, name, f"{here}{name}")
    for step in shape.steps:
        yield _step(step, f"{here}{step.name}")
    yield Part("output", OUTPUT, f"{here}{OUTPUT}", shape.output.__name__)


def _step(step: Step, path: str) -> Part:
    node = step.node
    stage = node if isinstance(node, Stage) else None
    return Part(
        sort="shape" if stage is None else "slm" if stage.tool is None else "tool",
        name=step.name,
        path=path,
        node=node.name,
        runs="" if stage is None else _runs(stage),
        when=step.when,
        on_error=None if step.on_error == "fail" else step.on_error,
        narrowed=() if stage is None else tuple(f"{name} by {by}" for name, by in stage.narrow.items()),
        inner=graph_of(node, path) if isinstance(node, Shape) else None,
    )


def _runs(stage: Stage[Any, Any]) -> str:
    if stage.model is None:
        return f"tool, version {stage.tool.version}" if stage.tool is not None else ""
    if stage.model.adapter is not None:
        return f"{stage.model.base} + adapter"
    return f"{stage.model.base} (untuned)" if stage.model.untuned else stage.model.base


def _part_data(part: Part) -> dict[str, Any]:
    return {
        "sort": part.sort,
        "name": part.name,
        "path": part.path,
        "node": part.node or None,
        "runs": part.runs or None,
        "when": part.when,
        "on_error": part.on_error,
        "narrowed": list(part.narrowed),
        "inner": None if part.inner is None else part.inner.to_dict(),
    }


def _flow_data(flow: Flow) -> dict[str, Any]:
    fields = [{"from": bound.path, "to": bound.field, "type": bound.type} for bound in flow.fields]
    return {
        "source": flow.source,
        "target": flow.target,
        "fields": fields,
        "labels": list(flow.labels),
        "when": flow.when,
    }


__all__ = ["Bound", "Flow", "Graph", "Part", "Sort", "graph_of", "type_text"]
