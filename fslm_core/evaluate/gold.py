"""Labelled rows: what goes in, what should come out, and what each step on the way should say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..engine.reading import read_input
from ..errors import FslmError, PromptError, SchemaError
from ..schema import dumps, plain_data, problems_of
from ..stack import INPUT, OUTPUT, SESSION, Stack, Step
from ..stage import Stage
from ..store import marks_of
from .fields import Json, Mark

_PARTS = ("input", "output", "steps")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Something wrong with a row: its line, and what."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A row that fits the stack.

    Attributes:
        line: its line in the file, or its place among the rows, counted from 1.
        steps: what each step should say: JSON data (of a part of its fields, where no more is known), or a mark.
        columns: everything else the row holds.
    """

    line: int
    input: BaseModel
    gold: Json
    steps: Mapping[str, Json | Mark]
    columns: Mapping[str, Any]


@dataclass
class Cases:
    """The rows of a data set.

    Attributes:
        cases: the rows that fit.
        misfits: the rows that do not, and so are not scored.
        notes: what is odd about rows that fit: gold that contradicts the stack's own conditions or schemas.
    """

    cases: list[Case] = field(default_factory=list)
    misfits: list[RowProblem] = field(default_factory=list)
    notes: list[RowProblem] = field(default_factory=list)


def read_cases(stack: Stack[Any, Any], rows: Iterable[Mapping[str, Any]], lines: Sequence[int] | None = None) -> Cases:
    """Check rows against a stack, and find what each step should say.

    Args:
        rows: ``{"input": {…}, "output": {…}}``, and optionally ``"steps": {step: {…} or null for skipped}``; anything
            else is kept as columns.
        lines: the line of each row; its place, counted from 1, where not given.

    Raises:
        CheckError: the stack cannot be wired.
    """
    found, private = Cases(), bool(marks_of(stack))
    for place, row in enumerate(rows):
        line = lines[place] if lines is not None else place + 1
        try:
            reader = _Reader(stack, line, found.notes, private)
            found.cases.append(reader.case(row))
        except FslmError as error:
            said = f"{error.what}: {error.found}" if error.found else error.what
            found.misfits.append(RowProblem(line, said))
    return found


class _Reader:
    """Reads one row; where ``private``, nothing is quoted of it."""

    def __init__(self, stack: Stack[Any, Any], line: int, notes: list[RowProblem], private: bool) -> None:
        self._stack = stack
        self._line = line
        self._notes = notes
        self._private = private

    def case(self, row: Mapping[str, Any]) -> Case:
        """Return the row as a case.

        Raises:
            FslmError: it does not fit.
        """
        for part in ("input", "output"):
            if not isinstance(row.get(part), Mapping):
                raise _misfit(f"the row has no {part!r} that is an object")
        given = row.get("steps") or {}
        if not isinstance(given, Mapping) or set(given) - {step.name for step in self._stack.steps}:
            names = ", ".join(step.name for step in self._stack.steps)
            raise _misfit(f"'steps' is an object whose names are steps of the stack ({names})")
        input = self._input(row["input"])
        gold = self._valid(self._stack.output, row["output"], "output")
        before = begun(self._stack, input)
        steps: dict[str, Json | Mark] = {**before}
        for step in self._stack.steps:
            steps[step.name] = self._step(step, given, gold, steps)
        for step in self._stack.steps:
            self._writable(step, steps)
        steps = {name: said for name, said in steps.items() if name not in before}
        return Case(self._line, input, gold, steps, {name: v for name, v in row.items() if name not in _PARTS})

    def _input(self, value: Mapping[str, Any]) -> BaseModel:
        try:
            checked: BaseModel = read_input(self._stack, value)
        except FslmError as error:
            said = f"{error.what}: {error.found}" if error.found else error.what
            raise _misfit(f"input does not fit {self._stack.input.__name__}" if self._private else said) from None
        return checked

    def _step(self, step: Step, given: Mapping[str, Any], gold: Json, known: Mapping[str, Json | Mark]) -> Json | Mark:
        running = runs(self._stack, step, known)
        derived = self._derived(step, gold)
        if step.name in given:
            return self._given(step, given[step.name], running)
        if running is False:
            if any(value is not None for value in derived.values()):
                self._note(step, "the output has its fields although its condition says that it is skipped")
            return Mark.SKIPPED
        if not derived or (running is None and all(value is None for value in derived.values())):
            return Mark.UNKNOWN
        return self._checked(step, derived)

    def _given(self, step: Step, message: Any, runs: bool | None) -> Json | Mark:
        if runs is not None and runs is (message is None):
            says = "runs" if runs else "is skipped"
            self._note(step, f"'steps' contradicts its condition, by which it {says}")
        if message is None:
            return Mark.SKIPPED
        return self._checked(step, message)

    def _checked(self, step: Step, message: Any) -> Json | Mark:
        """The message as its model reads it; of a part of one, each field as its model reads that."""
        model = step.node.output
        if not isinstance(message, Mapping):
            self._note(step, "its gold message is no object")
            return Mark.UNKNOWN
        place = f"step {step.name}"
        try:
            if set(model.model_fields) - set(message):
                return self._part(model, message, place)
            return self._valid(model, message, place)
        except FslmError as error:
            self._note(step, f"no gold: {error.what}")
            return Mark.UNKNOWN

    def _writable(self, step: Step, known: Mapping[str, Json | Mark]) -> None:
        """Note gold that the step's output, as narrowed for this row, cannot be."""
        message, stage = known[step.name], step.node
        if not isinstance(stage, Stage) or not stage.narrow or isinstance(message, Mark):
            return
        fed = bound(self._stack, step, known)
        if isinstance(fed, str):
            return
        try:
            allowed = stage.narrowed(fed).problems({**_filler(stage.output, message), **message})
        except FslmError as error:
            self._note(step, f"gold narrows it to nothing it could say: {error.what}")
            return
        if wrong := [str(problem) for problem in allowed if problem.field in message]:
            self._note(step, "its gold is outside what gold narrows it to" + ("" if self._private else f": {wrong[0]}"))

    def _derived(self, step: Step, gold: Json) -> Json:
        """Fields of the step that the stack's output takes over as they are."""
        sources = self._stack.wiring.sources[OUTPUT].items()
        return {
            source.path[0]: gold[name] for name, source in sources if source.step == step.name and len(source.path) == 1
        }

    def _valid(self, model: type[BaseModel], value: Mapping[str, Any], place: str) -> Json:
        """JSON data as ``model`` reads and writes it.

        Raises:
            SchemaError: it does not fit; where the stack marks anything as sensitive, nothing is quoted of it.
        """
        self._no_others(model, value, place)
        try:
            return plain_data(model.model_validate(dict(value), by_name=True))
        except ValidationError as error:
            raise self._unfit(model, error, place) from None

    def _part(self, model: type[BaseModel], value: Mapping[str, Any], place: str) -> Json:
        """Some of a model's fields, each as the model reads and writes it.

        Raises:
            SchemaError: one does not fit.
        """
        self._no_others(model, value, place)
        made: Json = {}
        for name, part in value.items():
            info = model.model_fields[name]
            kind: Any = Annotated[info.annotation, info]
            reader: TypeAdapter[Any] = TypeAdapter(kind)
            try:
                made[name] = reader.dump_python(reader.validate_python(part), mode="json")
            except ValidationError as error:
                raise self._unfit(model, error, f"{place}, {name},") from None
        return made

    def _no_others(self, model: type[BaseModel], value: Mapping[str, Any], place: str) -> None:
        if unknown := sorted(set(map(str, value)) - set(model.model_fields)):
            named = "a field" if self._private else ", ".join(unknown)
            has = ", ".join(model.model_fields)
            raise _misfit(f"{place} has {named} that {model.__name__} does not have (it has {has})")

    def _unfit(self, model: type[BaseModel], error: ValidationError, place: str) -> SchemaError:
        said = f"{place} does not fit {model.__name__}"
        return _misfit(said if self._private else f"{said}: " + "; ".join(map(str, problems_of(error))))

    def _note(self, step: Step, text: str) -> None:
        self._notes.append(RowProblem(self._line, f"step {step.name}: {text}"))


def _misfit(what: str) -> SchemaError:
    return SchemaError(what, where="a labelled row", hint="mend the row, or name the columns with --map")


def _filler(model: type[BaseModel], message: Json) -> Json:
    """A null for each field of ``model`` that a partly known message lacks."""
    return dict.fromkeys(set(model.model_fields) - set(message))


def begun(stack: Stack[Any, Any], input: BaseModel) -> dict[str, Json]:
    """What a row's run has before its first step: its input, and the session as one begins."""
    given = {INPUT: plain_data(input)}
    if stack.session is not None:
        given[SESSION] = plain_data(stack.session())
    return given


def runs(stack: Stack[Any, Any], step: Step, known: Mapping[str, Json | Mark]) -> bool | None:
    """Whether messages (the stack's ``input`` among them) have a step run; None where that cannot be told."""
    condition = stack.wiring.conditions.get(step.name)
    if condition is None:
        return True
    messages = {name: known[name] for name in condition.names}
    if any(message is Mark.UNKNOWN or message is Mark.FAILED for message in messages.values()):
        return None
    models = {s.name: s.node.output for s in stack.steps}
    seen = {
        name: dict.fromkeys(models[name].model_fields) if isinstance(message, Mark) else message
        for name, message in messages.items()
    }
    try:
        return condition.holds(seen)
    except PromptError:  # it asks for a field that a partly known message does not have
        return None


def bound(stack: Stack[Any, Any], step: Step, messages: Mapping[str, Json | Mark]) -> BaseModel | str:
    """A step's input as its wiring makes it of messages (the stack's ``input`` among them).

    Returns:
        The instance, or why there is none.
    """
    values: Json = {}
    for name, source in stack.wiring.sources[step.name].items():
        message = messages.get(source.step, Mark.UNKNOWN)
        if message is Mark.UNKNOWN or message is Mark.FAILED:
            return f"nobody knows what {source} should be"
        value: Any = None if isinstance(message, Mark) else message
        for part in source.path:
            if value is not None and part not in value:
                return f"nobody knows what {source} should be"
            value = None if value is None else value[part]
        values[name] = value
    try:
        made: BaseModel = step.node.input.model_validate_json(dumps(values), by_name=True)
        return made
    except ValidationError:
        return f"what the steps before should say does not fit {step.node.input.__name__}"


def coverage(cases: Sequence[Case], step: Step) -> tuple[int, frozenset[str]]:
    """For how many rows the step's gold is known (skipped ones too), and which of its fields are known in any."""
    known = [case.steps[step.name] for case in cases if case.steps[step.name] is not Mark.UNKNOWN]
    return len(known), frozenset(name for message in known if not isinstance(message, Mark) for name in message)


def clusters(cases: Sequence[Case], column: str | None) -> list[int]:
    """Number the groups that rows are drawn in: by the value of a column (a row without one stands alone)."""
    if column is None:
        return list(range(len(cases)))
    numbers: dict[Any, int] = {}
    words = [_word(case.columns.get(column)) for case in cases]
    keys = (place if word is None else word for place, word in enumerate(words))
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def slices(cases: Sequence[Case], column: str) -> dict[str, list[bool]]:
    """For each value of a column (each member, where it holds a list) which rows have it, commonest first."""
    counts = Counter(value for case in cases for value in _values(case.columns.get(column)))
    return {value: [value in _values(case.columns.get(column)) for case in cases] for value, _ in counts.most_common()}


def _values(cell: Any) -> Iterator[str]:
    for value in dict.fromkeys(map(_word, cell if isinstance(cell, list) else [cell])):
        if value is not None:
            yield value


def _word(value: Any) -> str | None:
    """A cell as text; None where it is empty. Dates and what else JSON does not know are written as Python does."""
    if value is None or isinstance(value, str):
        return value or None
    try:
        return dumps(value)
    except SchemaError:
        return str(value)


__all__ = ["Case", "Cases", "RowProblem", "begun", "bound", "clusters", "coverage", "read_cases", "runs", "slices"]
