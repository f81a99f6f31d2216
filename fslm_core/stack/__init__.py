"""A typed arrangement of steps: where each field comes from, when a step runs, and whether it all fits.

A field with exactly one supplier is wired by itself; with several, the check refuses and prints the ``bind`` lines to
choose from. Nothing here loads a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from ..errors import CheckError, FslmError, PromptError, SchemaError, StackError
from ..lazy import lazy
from ..prompt import Expression
from ..schema import schema_id_of
from ..stage import NAME, Stage
from .fitting import accepts_null, fits, model_of, show

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

INPUT = "input"
OUTPUT = "output"


class Step:
    """A stage's place in a stack.

    Args:
        stage: what runs here.
        name: unique in the stack, without dots; the last word of the stage's name if not given.
        bind: input field to ``step.field`` (or ``input.field``), deeper paths allowed.
        when: a Jinja expression over ``input`` and earlier steps; the step is skipped where it is false.

    Raises:
        StackError: a name with a dot, or ``input`` or ``output``.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Text:
    ...     return Text(text=message.text.upper())
    >>> Step(shout, name="louder", bind={"text": "input.text"}, when="input.text != ''")
    Step('demo.shout', name='louder')
    """

    def __init__(
        self,
        stage: Stage[Any, Any],
        *,
        name: str | None = None,
        bind: Mapping[str, str] | None = None,
        when: str | None = None,
    ) -> None:
        self.stage = stage
        self.name = name if name is not None else stage.name.rpartition(".")[2].replace("-", "_")
        self.bind = dict(bind or {})
        self.when = when
        if not self.name.isidentifier() or self.name in (INPUT, OUTPUT):
            raise StackError(
                "a step's name is one word",
                where=f"step of {stage.name}",
                found=self.name,
                expected=f"letters, digits and '_', and not {INPUT!r} or {OUTPUT!r}",
                hint="pass Step(…, name='…')",
            )

    def __repr__(self) -> str:
        return f"Step({self.stage.name!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a field comes from: a step (or ``input``) and the path within its message."""

    step: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.step, *self.path))


@dataclass(frozen=True)
class Wiring:
    """A stack as it will run.

    Attributes:
        steps: the steps, in order.
        sources: for each step (and ``output``), each bound field and where it comes from. A field that is not here
            keeps its model's default.
        conditions: the compiled ``when`` of each step that has one.
        warnings: what does not stop the stack, yet deserves a look.
    """

    steps: tuple[Step, ...]
    sources: Mapping[str, Mapping[str, Source]]
    conditions: Mapping[str, Expression]
    warnings: tuple[str, ...] = ()

    def needs(self, step: str) -> frozenset[str]:
        """The names of the steps that must have ended before ``step`` can begin."""
        bound = {source.step for source in self.sources[step].values()}
        asked = self.conditions[step].names if step in self.conditions else frozenset()
        return frozenset((bound | asked) - {INPUT})


class Stack(Generic[In, Out]):
    """A typed arrangement of steps with one input and one output model.

    Args:
        name: in a plugin, its entry-point name or that name and a dot first.
        input: the model of what a run is given.
        output: the model of what it returns; its fields are bound by the same rules as a step's.
        steps: stages, or steps, in order.
        bind: output field to ``step.field``.
        description: one sentence for people.

    Raises:
        StackError: no step, two steps of one name, or a bad name.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> class Loud(BaseModel):
    ...     loud: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Loud:
    ...     return Loud(loud=message.text.upper())
    >>> demo = Stack("demo", input=Text, output=Loud, steps=[shout])
    >>> {step: {field: str(source) for field, source in by.items()} for step, by in demo.wiring.sources.items()}
    {'shout': {'text': 'input.text'}, 'output': {'loud': 'shout.loud'}}
    """

    def __init__(
        self,
        name: str,
        *,
        input: type[In],
        output: type[Out],
        steps: Sequence[Step | Stage[Any, Any]],
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        self.name = name
        self.input = input
        self.output = output
        self.steps = tuple(s if isinstance(s, Step) else Step(s) for s in steps)
        self.bind = dict(bind or {})
        self.description = description
        where = f"stack {name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise StackError(
                "a stack's name is dotted lower-case words",
                where="Stack(…)",
                found=name,
                expected="letters, digits, '-', '_' and dots, as in 'support.triage'",
                hint="begin it with the plugin's name",
            )
        for label, kind in (("input", input), ("output", output)):
            if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                raise StackError(
                    f"{label} is not a pydantic model", where=where, found=kind, hint=f"pass the class: {label}=MyModel"
                )
        if not self.steps:
            raise StackError("a stack needs a step", where=where, hint="pass steps=[…] with at least one stage")
        names = [step.name for step in self.steps]
        if twins := sorted({n for n in names if names.count(n) > 1}):
            raise StackError(
                "two steps have one name",
                where=where,
                found=", ".join(twins),
                hint="pass Step(…, name='…') for one of them",
            )

    def __repr__(self) -> str:
        return f"Stack({self.name!r}, {self.input.__name__} -> {self.output.__name__}, {len(self.steps)} steps)"

    @property
    def stages(self) -> tuple[Stage[Any, Any], ...]:
        """The stages of its steps, each once, in order."""
        return tuple(dict.fromkeys(step.stage for step in self.steps))

    @lazy
    def wiring(self) -> Wiring:
        """How the stack is wired.

        Raises:
            CheckError: a field nobody supplies, several suppliers, a type that does not fit, a template variable that
                is no field, a schema that cannot be expressed or has no bound, a bad ``when``. All of it at once.
        """
        return _Wirer(self).wire()


@dataclass
class _Wirer:
    """Builds a stack's wiring, and keeps every finding on the way."""

    stack: Stack[Any, Any]
    models: dict[str, type[BaseModel]] = field(default_factory=dict)
    conditional: set[str] = field(default_factory=set)
    sources: dict[str, dict[str, Source]] = field(default_factory=dict)
    conditions: dict[str, Expression] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def wire(self) -> Wiring:
        self.models[INPUT] = self.stack.input
        for step in self.stack.steps:
            self._condition(step)
            self._bind(step.name, step.stage.input, step.bind, "bind")
            self._stage(step)
            self.models[step.name] = step.stage.output
            if step.when is not None:
                self.conditional.add(step.name)
        self._bind(OUTPUT, self.stack.output, self.stack.bind, "Stack(bind=…)")
        self._models()
        if self.errors:
            raise CheckError(self.stack.name, self.errors)
        return Wiring(self.stack.steps, self.sources, self.conditions, tuple(self._warnings()))

    def _warnings(self) -> Iterator[str]:
        for step in self.stack.steps:
            stage = step.stage
            if stage.model is not None and stage.model.untuned:
                yield (
                    f"step {step.name}: untuned: {stage.model.base} runs without an adapter"
                    " (say SLM(tuned=True) if it was tuned)"
                )
            if stage.tool is None and stage.max_tokens < stage.schema.max_bytes:
                yield (
                    f"step {step.name}: an output longer than {stage.max_tokens} tokens is cut and fails"
                    f" (the longest its schema allows is {stage.schema.max_bytes} bytes)"
                )
        used = {s.step for by_field in self.sources.values() for s in by_field.values()}
        used |= {name for condition in self.conditions.values() for name in condition.names}
        for step in self.stack.steps:
            if step.name not in used:
                yield f"step {step.name}: nothing uses its output"

    def _models(self) -> None:
        """What has no JSON Schema at all cannot be passed on, kept or fingerprinted."""
        used: dict[str, type[BaseModel]] = {INPUT: self.stack.input, OUTPUT: self.stack.output}
        used |= {f"step {s.name}, input": s.stage.input for s in self.stack.steps}
        used |= {f"step {s.name}, output": s.stage.output for s in self.stack.steps}
        for place, model in used.items():
            try:
                schema_id_of(model)
            except SchemaError as error:
                self.errors.append(f"{place}: {_one_line(error)}")

    def _narrow(self, stage: Stage[Any, Any]) -> Iterator[str]:
        known = {*stage.input.model_fields, *stage.input.model_computed_fields}
        for name, path in stage.narrow.items():
            first = path.partition(".")[0]
            if first not in known and not isinstance(getattr(stage.input, first, None), property):
                yield (
                    f"narrow of {name!r} follows {path!r}, but {stage.input.__name__} has no {first!r}"
                    f" (it has {', '.join(sorted(known))})"
                )

    def _stage(self, step: Step) -> None:
        stage = step.stage
        self.errors += (f"step {step.name}: {fault}" for fault in self._narrow(stage))
        if stage.tool is not None:
            return
        for made in (lambda: stage.schema, lambda: stage.template):
            try:
                made()
            except FslmError as error:
                self.errors.append(f"step {step.name}: {_one_line(error)}")
        if "template" in vars(stage):
            known = {*stage.input.model_fields, *stage.input.model_computed_fields}
            for name in sorted(stage.template.variables - known):
                self.errors.append(
                    f"step {step.name}: {stage.template.name} uses {name!r},"
                    f" which is no field of {stage.input.__name__} (it has {', '.join(sorted(known))})"
                )
        if "schema" in vars(stage) and (complaint := stage.schema.grammar_error()):
            self.errors.append(f"step {step.name}: the grammar cannot express {stage.output.__name__}: {complaint}")

    def _condition(self, step: Step) -> None:
        if step.when is None:
            return
        try:
            condition = Expression(step.when)
        except PromptError as error:
            self.errors.append(f"step {step.name}: when: {_one_line(error)}")
            return
        for name in sorted(condition.names - set(self.models)):
            self.errors.append(
                f"step {step.name}: when={step.when!r} asks for {name!r}; known here: {', '.join(self.models)}"
            )
        for name, attribute in sorted(condition.attributes):
            if name in self.models and attribute not in self.models[name].model_fields:
                self.errors.append(
                    f"step {step.name}: when={step.when!r} asks for {name}.{attribute};"
                    f" {self.models[name].__name__} has {', '.join(self.models[name].model_fields)}"
                )
        self.conditions[step.name] = condition

    def _bind(self, name: str, model: type[BaseModel], explicit: Mapping[str, str], argument: str) -> None:
        bound: dict[str, Source] = {}
        self.sources[name] = bound
        for unknown in sorted(set(explicit) - set(model.model_fields)):
            self.errors.append(f"step {name}: {argument} names {unknown!r}, which is no field of {model.__name__}")
        for field_name, info in model.model_fields.items():
            source = (
                self._explicit(name, field_name, explicit[field_name], info.annotation)
                if field_name in explicit
                else self._implicit(name, field_name, info.annotation, info.is_required())
            )
            if source is not None:
                bound[field_name] = source

    def _explicit(self, step: str, name: str, path: str, wanted: Any) -> Source | None:
        head, *rest = path.split(".")
        place = f"step {step}: field {name!r} is bound to {path!r}"
        if head not in self.models or not rest:
            self.errors.append(f"{place}, but the suppliers here are " + ", ".join(f"{s}.<field>" for s in self.models))
            return None
        annotation: Any = self.models[head]
        for part in rest:
            inner = model_of(annotation)
            if inner is None or part not in inner.model_fields:
                has = (
                    f"{inner.__name__} has {', '.join(inner.model_fields)}"
                    if inner
                    else f"{show(annotation)} has no fields"
                )
                self.errors.append(f"{place}, but {has}")
                return None
            nullable = inner is not annotation and accepts_null(annotation)
            annotation = inner.model_fields[part].annotation
            if nullable:
                annotation = annotation | None
        source = Source(head, tuple(rest))
        self._fit(step, name, source, annotation, wanted)
        return source

    def _implicit(self, step: str, name: str, wanted: Any, required: bool) -> Source | None:
        same = [(s, m.model_fields[name].annotation) for s, m in self.models.items() if name in m.model_fields]
        fitting = [(s, annotation) for s, annotation in same if fits(annotation, wanted)]
        if len(fitting) == 1:
            supplier, annotation = fitting[0]
            source = Source(supplier, (name,))
            self._fit(step, name, source, annotation, wanted)
            return source
        if len(fitting) > 1:
            lines = " or ".join(f'bind={{"{name}": "{s}.{name}"}}' for s, _ in fitting)
            self.errors.append(f"step {step}: field {name!r} has several suppliers; choose one: {lines}")
        elif same:
            offers = ", ".join(f"{s}.{name} is {show(a)}" for s, a in same)
            self.errors.append(f"step {step}: field {name!r} wants {show(wanted)}, but {offers}")
        elif required:
            self.errors.append(
                f"step {step}: nobody supplies field {name!r} ({show(wanted)}); there are: {self._offers()}"
            )
        return None

    def _fit(self, step: str, name: str, source: Source, given: Any, wanted: Any) -> None:
        if not fits(given, wanted):
            self.errors.append(f"step {step}: field {name!r} wants {show(wanted)}, but {source} is {show(given)}")
        elif source.step in self.conditional and not accepts_null(wanted):
            self.errors.append(
                f"step {step}: field {name!r} comes from {source}, a step that may be skipped, so it must accept null:"
                f" write `{name}: {show(wanted)} | None`"
            )

    def _offers(self) -> str:
        return ", ".join(f"{step}.{name}" for step, model in self.models.items() for name in model.model_fields)


def _one_line(error: FslmError) -> str:
    parts = [f"{error.where}: {error.what}" if error.where else error.what]
    parts += [f"{label}: {text}" for label, text in (("found", error.found), ("next", error.hint)) if text]
    return "; ".join(parts)


__all__ = ["INPUT", "OUTPUT", "Source", "Stack", "Step", "Wiring", "fits"]
