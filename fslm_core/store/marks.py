"""What a stack marks as sensitive, its wiring followed: a mark in one model holds for what it is bound to in others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ..message import Marks, plain_path
from ..schema import is_denied, sensitive_fields
from ..stack import INPUT, OUTPUT, SESSION, Source, Stack, Step, Wiring, places
from ..stage import Stage

_Paths = dict[str, set[str]]


def marks_of(stack: Stack[Any, Any]) -> Marks:
    """Every field of the stack's messages that is sensitive.

    That is each field its own model marks, and

    - what is bound to a marked field, and what a marked field is bound to;
    - what a narrowed field takes its labels from, where one of the two is marked;
    - what a stage that makes a marked field is given, for the value may stand in it. Fields that can hold nothing but
      their author's labels, and those marked ``{"sensitive": False}``, are left out.

    A shape within the stack is one thing: where anything in it or about it is marked, so is every field of every
    message in it that can hold more than labels, for its steps hand on to each other what they were given.

    So is a session: where anything is marked, it holds what somebody said in earlier runs, whose values no later run
    knows. What a turn leaves in it the next one reads: the two have the same marks.

    Raises:
        CheckError: the stack cannot be wired.
    """
    given: _Paths = defaultdict(set)
    made: _Paths = defaultdict(set)
    made[INPUT] |= _own(stack.input)
    given[OUTPUT] |= _own(stack.output)
    if stack.session is not None:
        given[SESSION] |= _own(stack.session)
    for path, step in places(stack):
        given[path] |= _own(step.node.input)
        made[path] |= _own(step.node.output)
    before = -1
    while before != (before := sum(map(len, given.values())) + sum(map(len, made.values()))):
        for step in stack.steps:
            if isinstance(step.node, Stage):
                _inside(step.node, given[step.name], made[step.name])
            else:
                _throughout(step, given, made)
        _between(stack.wiring, given, made)
        if stack.session is not None and (any(given.values()) or any(made.values())):
            given[SESSION] |= made[SESSION] | set(_open_fields(stack.session, given[SESSION] | made[SESSION]))
            made[SESSION] |= given[SESSION]
    made[OUTPUT] = given[OUTPUT]
    return Marks(_frozen(given), _frozen(made))


def unmarked(stack: Stack[Any, Any]) -> list[str]:
    """A sentence for each field of the stack's input that its model does not mark and the rest of the stack does.

    Raises:
        CheckError: the stack cannot be wired.
    """
    found = marks_of(stack).made[INPUT]
    own = _own(stack.input)
    return [
        f"input.{path} is not marked as sensitive, but a field that is may hold what comes from it, so it is hidden"
        f" wherever the trace is not kept in full. Mark it in {stack.input.__name__}:"
        ' json_schema_extra={"sensitive": True}, or False if nothing sensitive can stand in it'
        for path in sorted(found)
        if not _covers(own, path)
    ]


def _own(model: type[BaseModel]) -> frozenset[str]:
    return sensitive_fields(model)


def _inside(stage: Stage[Any, Any], given: set[str], made: set[str]) -> None:
    """Within one stage: the labels of narrowed fields, and where a marked output can have come from."""
    for field, path in stage.narrow.items():
        computed = path.partition(".")[0] not in stage.input.model_fields and bool(given)
        if computed or _covers(given, path) or any(mark.startswith(f"{path}.") for mark in given):
            made.add(field)
        elif _covers(made, field):
            given.add(path)
    if any(_may_hold_more(stage.output, mark) for mark in made if mark.partition(".")[0] not in stage.narrow):
        given |= set(_open_fields(stage.input, given))


def _throughout(shape: Step, given: _Paths, made: _Paths) -> None:
    """Within one shape: everything that may hold what is marked anywhere in it."""
    assert not isinstance(shape.node, Stage)
    here = [(shape.name, shape), *places(shape.node, shape.name)]
    if any(given[path] or made[path] for path, _ in here):
        for path, step in here:
            given[path] |= set(_open_fields(step.node.input, given[path]))
            made[path] |= set(_open_fields(step.node.output, made[path]))


def made_at(marks: Marks, step: str, model: type[BaseModel]) -> frozenset[str]:
    """The sensitive fields of a message at a step, whose path may have indices.

    A decision of a shape is a message that no step makes: where anything is marked, all it may hold is taken to be.
    """
    return _at(marks, marks.made, step, model)


def given_at(marks: Marks, step: str, model: type[BaseModel]) -> frozenset[str]:
    """The sensitive fields of what a step is given, as :func:`made_at`."""
    return _at(marks, marks.given, step, model)


def _at(marks: Marks, paths: Mapping[str, frozenset[str]], step: str, model: type[BaseModel]) -> frozenset[str]:
    own, marked = _own(model), paths.get(plain_path(step))
    if marked is None:
        return own | frozenset(_open_fields(model, set())) if marks else own
    return own | marked


def _between(wiring: Wiring, given: _Paths, made: _Paths) -> None:
    for name, sources in wiring.sources.items():
        for field, source in sources.items():
            for mark in list(given[name]):
                head, _, rest = mark.partition(".")
                if head == field:
                    made[source.step].add(".".join((*source.path, *([rest] if rest else []))))
            given[name] |= set(_carried(field, source, made[source.step]))


def _carried(field: str, source: Source, made: set[str]) -> Iterator[str]:
    """The marks a bound field inherits from where it comes from."""
    path = ".".join(source.path)
    if _covers(made, path):
        yield field
        return
    for mark in made:
        if mark.startswith(f"{path}."):
            yield f"{field}.{mark[len(path) + 1 :]}"


def _covers(marks: set[str] | frozenset[str], path: str) -> bool:
    """Whether the path, or something it lies in, is marked."""
    parts = path.split(".")
    return any(".".join(parts[:end]) in marks for end in range(1, len(parts) + 1))


def _may_hold_more(model: type[BaseModel], mark: str) -> bool:
    """Whether the marked field can hold what stood in the stage's input, and not labels alone."""
    field = model.model_fields.get(mark.partition(".")[0])
    return field is None or not _labels_alone(field.annotation)


def _open_fields(model: type[BaseModel], given: set[str]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if not is_denied(field) and not _labels_alone(field.annotation) and not _covers(given, name):
            yield name


def _labels_alone(annotation: Any) -> bool:
    """Whether values of this type are their author's labels, truth values or nothing."""
    if annotation is None or annotation in (bool, type(None)) or get_origin(annotation) is Literal:
        return True
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return True
    arguments = [a for a in get_args(annotation) if a is not Ellipsis]
    return bool(arguments) and all(map(_labels_alone, arguments))


def _frozen(paths: _Paths) -> dict[str, frozenset[str]]:
    return {name: frozenset(found) for name, found in paths.items()}


__all__ = ["given_at", "made_at", "marks_of", "unmarked"]
