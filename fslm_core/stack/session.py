"""What is wrong with a stack's session: the typed state that its steps may read and one of them writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import SchemaError
from ..schema import canonical, schema_id_of
from .fitting import fits, show
from .wiring import INPUT, SESSION, Supplier, Target

if TYPE_CHECKING:
    from .shape import Step
    from .stack import Stack

_DECLARED = "Stack(session_bind=…)"


def new_state(stack: Stack[Any, Any], session: type[BaseModel]) -> Target:
    """What makes the next state: fields that the writer gives are the writer's, all others stay as they are.

    A writer that is passed over writes nothing, so its fields are never null here.
    """
    known = {SESSION: Supplier(session), INPUT: Supplier(stack.input)}
    for step in _writers(stack)[:1]:
        known[step.name] = Supplier(step.node.output)
    others = {step.name for step in stack.steps} - set(known)  # told as a finding: they would write it too
    bind = {name: path for name, path in stack.session_bind.items() if _head(path) not in others}
    return Target(SESSION, session, bind, known, _DECLARED, prefers=next(iter(stack.writes), ""))


def session_findings(stack: Stack[Any, Any]) -> Iterator[str]:
    """One sentence for each thing that is wrong with the session itself, or with who writes it."""
    if stack.session is None:
        for argument, given in (("writes", stack.writes), ("session_bind", stack.session_bind)):
            if given:
                yield f"{argument} is given, but the stack has no session; pass session=State, a pydantic model"
        return
    yield from _of_the_model(stack.session)
    yield from _of_the_writers(stack, stack.session)


def _of_the_model(session: type[BaseModel]) -> Iterator[str]:
    required = [name for name, field in session.model_fields.items() if field.is_required()]
    if not session.model_fields:
        yield f"session: {session.__name__} has no field, so there is nothing to remember"
    if required:
        yield (
            f"session: {session.__name__} needs a default for {', '.join(required)}:"
            f" the first turn begins with {session.__name__}()"
        )
        return
    try:
        session.model_validate_json(canonical(session()), by_name=True)
        schema_id_of(session)
    except ValidationError as error:
        wrong = sorted({".".join(map(str, found["loc"])) or "the whole" for found in error.errors()})
        yield f"session: {session.__name__}() is not valid itself: {', '.join(wrong)}"
    except SchemaError as error:
        yield f"session: {error.what}"


def _of_the_writers(stack: Stack[Any, Any], session: type[BaseModel]) -> Iterator[str]:
    for name in stack.writes:
        if name not in {step.name for step in stack.steps}:
            known = ", ".join(step.name for step in stack.steps)
            yield f"session: writes={name!r} is no step of this stack; there are: {known}"
    if not stack.writes:
        yield "session: no step writes it; pass writes='STEP', the one step that says what is remembered"
    if len(stack.writes) > 1:
        both = " and ".join(stack.writes)
        yield f"session: {both} would both write it; one step alone may, so let it take what it needs from the others"
    for writer in _writers(stack)[:1]:
        yield from _of_the_writer(stack, writer, session)
    for name, path in stack.session_bind.items():
        if _head(path) in {step.name for step in stack.steps} - set(stack.writes):
            yield (
                f"session: field {name!r} is bound to {path!r}, so {_head(path)} would write it too; only the declared"
                f" writer may: let {next(iter(stack.writes), 'it')} hand the value on"
            )


def _of_the_writer(stack: Stack[Any, Any], writer: Step, session: type[BaseModel]) -> Iterator[str]:
    given = writer.node.output.model_fields
    by_name = [name for name in session.model_fields if name in given and name not in stack.session_bind]
    for name in by_name:
        wanted, found = session.model_fields[name].annotation, given[name].annotation
        if not fits(found, wanted):
            yield f"session: field {name!r} wants {show(wanted)}, but {writer.name}.{name} is {show(found)}"
    if not by_name and writer.name not in map(_head, stack.session_bind.values()):
        yield (
            f"session: {writer.name} writes it, but gives none of its fields: {session.__name__} has"
            f" {', '.join(session.model_fields)}, {writer.node.output.__name__} has {', '.join(given)};"
            f" name one alike, or bind it: session_bind={{'field': '{writer.name}.field'}}"
        )


def _writers(stack: Stack[Any, Any]) -> list[Step]:
    return [step for name in stack.writes for step in stack.steps if step.name == name]


def _head(path: str) -> str:
    return path.partition(".")[0]


__all__ = ["new_state", "session_findings"]
