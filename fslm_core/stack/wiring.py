"""Where each field comes from, and whether it all fits. Nothing here loads a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..errors import CheckError, FslmError, PromptError, SchemaError
from ..prompt import Expression
from ..schema import schema_id_of
from ..stage import Stage
from .fitting import accepts_null, fits, labels, model_of, show

if TYPE_CHECKING:
    from .shape import Shape, Step

INPUT = "input"
OUTPUT = "output"
SESSION = "session"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a field comes from: a step (or ``input``) and the path within its message."""

    step: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.step, *self.path))


@dataclass(frozen=True, slots=True)
class Supplier:
    """Something that fields can come from.

    Attributes:
        model: of what it says.
        may_be_skipped: whether it may say nothing at all.
        by_name: True where it is bound only by those who name it, never by itself.
    """

    model: type[BaseModel]
    may_be_skipped: bool = False
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Something whose fields are to be bound.

    Attributes:
        name: a step's, ``output``, or another under which the shape asks for these bindings.
        bind: what its author bound, field to path.
        suppliers: who may supply its fields, by name.
        argument: how an author binds, for error texts.
        step: the step that takes them, where it is one.
        prefers: the supplier that is taken where several would do; none if empty.
    """

    name: str
    model: type[BaseModel]
    bind: Mapping[str, str]
    suppliers: Mapping[str, Supplier]
    argument: str
    step: Step | None = None
    prefers: str = ""

    @classmethod
    def of_step(cls, step: Step, suppliers: Mapping[str, Supplier], prefers: str = "") -> Target:
        """The target that a step is."""
        return cls(step.name, step.node.input, step.bind, dict(suppliers), "bind", step, prefers)


@dataclass(frozen=True)
class Wiring:
    """A shape as it will run.

    Attributes:
        steps: the steps, in order.
        sources: for each step (and ``output``), each bound field and where it comes from. A field that is not here
            keeps its model's default.
        conditions: the compiled ``when`` of each step that has one.
        models: the model of everything that is bound to or asked for, by name.
        warnings: what does not stop the stack, yet deserves a look.
    """

    steps: tuple[Step, ...]
    sources: Mapping[str, Mapping[str, Source]]
    conditions: Mapping[str, Expression]
    models: Mapping[str, type[BaseModel]]
    warnings: tuple[str, ...] = ()

    def needs(self, step: str) -> frozenset[str]:
        """The names of the steps that must have ended before ``step`` can begin."""
        bound = {source.step for source in self.sources[step].values()}
        asked = self.conditions[step].names if step in self.conditions else frozenset()
        return frozenset(bound | asked) & {s.name for s in self.steps}


@dataclass
class Wirer:
    """Builds a shape's wiring, and keeps every finding on the way."""

    shape: Shape[Any, Any]
    models: dict[str, type[BaseModel]] = field(default_factory=dict)
    sources: dict[str, dict[str, Source]] = field(default_factory=dict)
    conditions: dict[str, Expression] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def wire(self) -> Wiring:
        """The wiring.

        Raises:
            CheckError: with everything that is wrong.
        """
        for target in self.shape.targets():
            self.models |= {name: supplier.model for name, supplier in target.suppliers.items()}
            step = target.step if target.step is not None and target.step.name == target.name else None
            if step is not None:
                self._condition(step, target.suppliers)
            _Binder(self, target).bind()
            if step is not None:
                self._node(step)
        self._has_schemas()
        self.errors += self.shape.findings()
        if self.errors:
            raise CheckError(self.shape.name, self.errors)
        return Wiring(self.shape.steps, self.sources, self.conditions, self.models, (*self.warnings, *self._unused()))

    def _unused(self) -> Iterator[str]:
        used = {s.step for by_field in self.sources.values() for s in by_field.values()}
        used |= {name for condition in self.conditions.values() for name in condition.names} | self.shape.asks()
        for step in self.shape.steps:
            if step.name not in used:
                yield f"step {step.name}: nothing uses its output"

    def _has_schemas(self) -> None:
        """What has no JSON Schema at all cannot be passed on, kept or fingerprinted."""
        used: dict[str, type[BaseModel]] = {INPUT: self.shape.input, OUTPUT: self.shape.output}
        used |= {f"step {s.name}, input": s.node.input for s in self.shape.steps}
        used |= {f"step {s.name}, output": s.node.output for s in self.shape.steps}
        for place, model in used.items():
            try:
                schema_id_of(model)
            except SchemaError as error:
                self.errors.append(f"{place}: {_one_line(error)}")

    def _node(self, step: Step) -> None:
        if isinstance(step.node, Stage):
            self.errors += (f"step {step.name}: {fault}" for fault in _faults(step.node))
            self.warnings += (f"step {step.name}: {doubt}" for doubt in _doubts(step.node))
            return
        if step.node.session is not None:
            self.errors.append(
                f"step {step.name}: the {step.node.kind} {step.node.name} has a session of its own, but a session"
                " belongs to the stack that is run: declare it there, and bind what is needed of it here,"
                " bind={'field': 'session.field'}"
            )
        try:
            self.warnings += (_within(step.name, warning) for warning in step.node.wiring.warnings)
        except CheckError as error:
            self.errors += (_within(step.name, finding) for finding in error.findings)

    def _condition(self, step: Step, known: Mapping[str, Supplier]) -> None:
        if step.when is None:
            return
        condition, faults = condition_of(step.when, known, "when")
        self.errors += (f"step {step.name}: {fault}" for fault in faults)
        if condition is not None:
            self.conditions[step.name] = condition


def condition_of(source: str, known: Mapping[str, Supplier], argument: str) -> tuple[Expression | None, list[str]]:
    """An expression over what is known, compiled, and what is wrong with it.

    Args:
        argument: what its author calls it.
    """
    try:
        condition = Expression(source)
    except PromptError as error:
        return None, [f"{argument}: {_one_line(error)}"]
    faults = [
        f"{argument}={source!r} asks for {name!r}; known here: {', '.join(known)}"
        for name in sorted(condition.names - set(known))
    ]
    for name, attribute in sorted(condition.attributes):
        if name in known and attribute not in known[name].model.model_fields:
            model = known[name].model
            faults.append(
                f"{argument}={source!r} asks for {name}.{attribute};"
                f" {model.__name__} has {', '.join(model.model_fields)}"
            )
    return condition, faults


def annotation_at(path: str, known: Mapping[str, Supplier]) -> Any | None:
    """The type of the field at ``step.field``, null among it where it may be; None where it is no such path."""
    head, *rest = path.split(".")
    if head not in known or not rest:
        return None
    try:
        annotation = reduce(_below, rest, known[head].model)
    except LookupError:
        return None
    return annotation | None if known[head].may_be_skipped and not accepts_null(annotation) else annotation


def _below(annotation: Any, field: str) -> Any:
    """The type of a field of what has this type, null among it where the whole may be null.

    Raises:
        LookupError: there is no such field; it says which there are.
    """
    inner = model_of(annotation)
    if inner is None:
        raise LookupError(f"{show(annotation)} has no fields")
    if field not in inner.model_fields:
        raise LookupError(f"{inner.__name__} has {', '.join(inner.model_fields)}")
    found: Any = inner.model_fields[field].annotation
    return found | None if inner is not annotation and accepts_null(annotation) else found


def labels_at(path: str, known: Mapping[str, Supplier]) -> list[Any] | None:
    """The values that the field at ``step.field`` can have; None where it is no such path, or no field of labels."""
    annotation = annotation_at(path, known)
    return None if annotation is None else labels(annotation)


@dataclass
class _Binder:
    """Binds the fields of one target."""

    wirer: Wirer
    target: Target

    def bind(self) -> None:
        target, bound = self.target, self.wirer.sources.setdefault(self.target.name, {})
        for unknown in sorted(set(target.bind) - set(target.model.model_fields)):
            self._wrong(f"{target.argument} names {unknown!r}, which is no field of {target.model.__name__}")
        for name, info in target.model.model_fields.items():
            source = (
                self._explicit(name, target.bind[name], info.annotation)
                if name in target.bind
                else self._implicit(name, info.annotation, info.is_required())
            )
            if source is not None:
                bound[name] = source

    def _wrong(self, finding: str) -> None:
        self.wirer.errors.append(f"step {self.target.name}: {finding}")

    def _explicit(self, name: str, path: str, wanted: Any) -> Source | None:
        suppliers = self.target.suppliers
        head, *rest = path.split(".")
        place = f"field {name!r} is bound to {path!r}"
        if head not in suppliers or not rest:
            later = {s.name for s in self.wirer.shape.steps} - set(suppliers)
            if head in later:
                self._wrong(f"{place}, which comes later; what shall be done again is a Repeat(…, most=…)")
            elif head == SESSION:
                self._wrong(
                    f"{place}, but there is no session here: a stack has one with Stack(…, session=State, writes=…);"
                    " within a shape, bind a field of the shape's own input to it, where the shape stands"
                )
            else:
                self._wrong(f"{place}, but the suppliers here are " + ", ".join(f"{s}.<field>" for s in suppliers))
            return None
        try:
            annotation = reduce(_below, rest, suppliers[head].model)
        except LookupError as none:
            self._wrong(f"{place}, but {none}")
            return None
        source = Source(head, tuple(rest))
        self._fit(name, source, annotation, wanted)
        return source

    def _implicit(self, name: str, wanted: Any, required: bool) -> Source | None:
        suppliers = self.target.suppliers
        same = [
            (s, o.model.model_fields[name].annotation)
            for s, o in suppliers.items()
            if name in o.model.model_fields and not o.by_name
        ]
        fitting = [(s, annotation) for s, annotation in same if fits(annotation, wanted)]
        if len(fitting) > 1:
            fitting = [(s, a) for s, a in fitting if s == self.target.prefers] or fitting
        if len(fitting) == 1:
            supplier, annotation = fitting[0]
            source = Source(supplier, (name,))
            self._fit(name, source, annotation, wanted)
            return source
        if len(fitting) > 1:
            lines = " or ".join(f'bind={{"{name}": "{s}.{name}"}}' for s, _ in fitting)
            self._wrong(f"field {name!r} has several suppliers; choose one: {lines}")
        elif same:
            offers = ", ".join(f"{s}.{name} is {show(a)}" for s, a in same)
            self._wrong(f"field {name!r} wants {show(wanted)}, but {offers}")
        elif required:
            self._wrong(f"nobody supplies field {name!r} ({show(wanted)}); there are: {self._offers()}")
        return None

    def _fit(self, name: str, source: Source, given: Any, wanted: Any) -> None:
        if not fits(given, wanted):
            self._wrong(f"field {name!r} wants {show(wanted)}, but {source} is {show(given)}")
        elif self.target.suppliers[source.step].may_be_skipped and not accepts_null(wanted):
            self._wrong(
                f"field {name!r} comes from {source}, a step that may be skipped, so it must accept null:"
                f" write `{name}: {show(wanted)} | None`"
            )

    def _offers(self) -> str:
        return ", ".join(f"{step}.{name}" for step, o in self.target.suppliers.items() for name in o.model.model_fields)


def _faults(stage: Stage[Any, Any]) -> Iterator[str]:
    """What is wrong with a stage, wherever it stands."""
    yield from _narrow(stage)
    if stage.tool is not None:
        if (complaint := stage.tool.unreachable()) is not None:
            yield complaint
        return
    for made in (lambda: stage.schema, lambda: stage.template):
        try:
            made()
        except FslmError as error:
            yield _one_line(error)
    if "template" in vars(stage):
        known = {*stage.input.model_fields, *stage.input.model_computed_fields}
        for name in sorted(stage.template.variables - known):
            yield (
                f"{stage.template.name} uses {name!r},"
                f" which is no field of {stage.input.__name__} (it has {', '.join(sorted(known))})"
            )
    if "schema" in vars(stage):
        yield from (
            f"narrow of {name!r}: {stage.output.__name__} has no such field"
            for name in stage.narrow
            if not stage.schema.has(name)
        )
        if complaint := stage.schema.grammar_error():
            yield f"the grammar cannot express {stage.output.__name__}: {complaint}"


def _narrow(stage: Stage[Any, Any]) -> Iterator[str]:
    known = {*stage.input.model_fields, *stage.input.model_computed_fields}
    for name, path in stage.narrow.items():
        first = path.partition(".")[0]
        if first not in known and not isinstance(getattr(stage.input, first, None), property):
            yield (
                f"narrow of {name!r} follows {path!r}, but {stage.input.__name__} has no {first!r}"
                f" (it has {', '.join(sorted(known))})"
            )


def _doubts(stage: Stage[Any, Any]) -> Iterator[str]:
    """What deserves a look at a stage that can run."""
    if stage.model is not None and stage.model.untuned:
        yield f"untuned: {stage.model.base} runs without an adapter (say SLM(tuned=True) if it was tuned)"
    if stage.tool is None and "schema" in vars(stage) and stage.max_tokens < stage.schema.max_bytes:
        yield (
            f"an output longer than {stage.max_tokens} tokens is cut and fails"
            f" (the longest its schema allows is {stage.schema.max_bytes} bytes)"
        )


def _within(step: str, said: str) -> str:
    """What was said of a step within ``step``, or of its output, as its place is called from outside."""
    head, colon, rest = said.partition(": ")
    inner = head.removeprefix("step ")
    return f"step {step}.{inner}: {rest}" if colon and inner != head else f"step {step}: {said}"


def _one_line(error: FslmError) -> str:
    parts = [f"{error.where}: {error.what}" if error.where else error.what]
    parts += [f"{label}: {text}" for label, text in (("found", error.found), ("next", error.hint)) if text]
    return "; ".join(parts)


__all__ = [
    "INPUT",
    "OUTPUT",
    "SESSION",
    "Source",
    "Supplier",
    "Target",
    "Wirer",
    "Wiring",
    "annotation_at",
    "condition_of",
    "labels_at",
]
