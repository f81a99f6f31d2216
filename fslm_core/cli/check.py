"""``fslm check``: how a stack is wired here, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from .. import backends
from ..backends.protocol import Capabilities
from ..engine import Report, StepReport, check_stack
from ..errors import CheckError, MissingExtraError
from ..stack import OUTPUT, SESSION, Arrow, Shape, Stack, Wiring
from ..stage import Stage
from . import screen
from .session import session_of

app = typer.Typer(add_completion=False)

_INDENT = "  "


@app.command()
def check(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what is otherwise only a warning.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a stack is wired, and what is wrong with it, without loading a weight.

    Exit code 3 says that the stack is refused.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    offers = backends.create(session.settings.backend, session.settings, extra=session.host.backends).capabilities
    report = check_stack(found, host=session.host, settings=session.settings, capabilities=offers, strict=strict)
    report.warnings += _missing_here(report, offers)
    if as_json:
        screen.result(screen.as_json(_data(found, report)))
    else:
        screen.result(screen.clean("\n".join(_lines(found, report))))
    for warning in report.warnings:
        screen.warn(warning)
    report.raise_if_refused()
    screen.say(f"stack {found.name}: passed the check{', with warnings' if report.warnings else ''}")


def _missing_here(report: Report, offers: Capabilities) -> Iterator[str]:
    """What this machine lacks to run the stack; a stack is right or wrong without it."""
    if offers.require is not None and any(step.model for step in report.steps):
        try:
            offers.require()
        except MissingExtraError as error:
            yield f"{error.what}, {error.found}; {error.hint}"


def _lines(stack: Stack[Any, Any], report: Report) -> list[str]:
    lines = [f"stack {stack.name}: {stack.input.__name__} -> {stack.output.__name__}"]
    if stack.description:
        lines.append(f"  {stack.description}")
    lines.append(f"input {stack.input.__name__}: {', '.join(stack.input.model_fields)}")
    if stack.session is not None:
        lines.append(f"session {stack.session.__name__}: {', '.join(stack.session.model_fields)}")
    lines += _steps(stack, "", report)
    lines += ["", f"output {stack.output.__name__}"]
    lines += _rows(_sources(stack, OUTPUT, stack.output), 1)
    if stack.session is not None:
        lines += ["", f"session {stack.session.__name__}, written by {', '.join(stack.writes) or 'no step'}"]
        lines += _rows(_sources(stack, SESSION, stack.session), 1)
    return lines


def _steps(shape: Shape[Any, Any], path: str, report: Report) -> Iterator[str]:
    """The steps of a shape, those of the shapes within it further to the right, each by its path."""
    depth = path.count(".") + 1 if path else 0
    for step in report.steps:
        if step.name.rpartition(".")[0] != path:
            continue
        yield from ("", f"{_INDENT * depth}step {step.name}", *_rows(_facts(step, shape), depth + 1))
        if isinstance(step.step.node, Shape):
            yield from _steps(step.step.node, step.name, report)
            yield from _rest(step.step.node, depth + 1)


def _rest(shape: Shape[Any, Any], depth: int) -> Iterator[str]:
    """What is bound in a shape besides its steps: its output, and what it hands to a step another time."""
    steps = {step.name for step in shape.steps}
    for target in shape.targets() if _wiring(shape) is not None else ():
        if target.name not in steps:
            yield from ("", f"{_INDENT * depth}{target.name}: {target.model.__name__}")
            yield from _rows(_sources(shape, target.name, target.model), depth + 1)


def _rows(facts: Iterable[tuple[str, str]], depth: int) -> list[str]:
    return [f"{_INDENT * depth}{name:<8} {value}" for name, value in facts]


def _facts(report: StepReport, shape: Shape[Any, Any]) -> list[tuple[str, str]]:
    node = report.step.node
    facts = _shape_facts(node) if isinstance(node, Shape) else _stage_facts(report, node)
    if report.step.when is not None:
        facts.append(("when", report.step.when))
    if report.step.on_error != "fail":
        facts.append(("on error", report.step.on_error))
    facts += _sources(shape, report.step.name, node.input)
    return facts if isinstance(node, Shape) else [*facts, *_bounds(report, node)]


def _shape_facts(shape: Shape[Any, Any]) -> list[tuple[str, str]]:
    facts = [(shape.kind, f"{shape.name}: {shape.input.__name__} -> {shape.output.__name__}")]
    facts += (("", label) for label in shape.labels())
    if _wiring(shape) is not None:
        facts += (("leads", _arrow(arrow)) for arrow in shape.arrows())
    if shape.decisions:
        facts.append(("decides", ", ".join(shape.decisions)))
    return facts


def _arrow(arrow: Arrow) -> str:
    return f"{arrow.source} -> {arrow.target}{f': {arrow.label}' if arrow.label else ''}"


def _stage_facts(report: StepReport, stage: Stage[Any, Any]) -> list[tuple[str, str]]:
    facts = [
        ("stage", f"{stage.name}: {stage.input.__name__} -> {stage.output.__name__}"),
        ("plugin", str(report.plugin) if report.plugin else "none"),
    ]
    if stage.tool is not None:
        facts.append(("tool", f"{stage.tool.function.__qualname__}, version {stage.tool.version}"))
    else:
        facts.append(("model", str(report.model) if report.model else "not found"))
    if report.candidate is not None:
        facts.append(("beside", f"{report.candidate}, in {report.share:.4g} of its runs"))
    return facts


def _bounds(report: StepReport, stage: Stage[Any, Any]) -> Iterator[tuple[str, str]]:
    if stage.narrow:
        yield "narrowed", ", ".join(f"{name} by {path}" for name, path in stage.narrow.items())
    if stage.tool is None:
        known = report.prompt_tokens is not None
        yield "prompt", f"{report.prompt_tokens} static tokens" if known else "tokens unknown until the model is here"
        if report.max_tokens is not None:
            yield "output", f"at most {report.max_tokens} tokens; its schema allows {stage.schema.max_bytes} bytes"


def _sources(shape: Shape[Any, Any], target: str, model: type[BaseModel]) -> list[tuple[str, str]]:
    bound = _bound(shape, target)
    if bound is None:
        return [("fields", ", ".join(model.model_fields))]
    return [("field", f"{name} <- {bound.get(name, 'its default')}") for name in model.model_fields]


def _bound(shape: Shape[Any, Any], target: str) -> dict[str, str] | None:
    """Where a target's fields come from; None in a shape that is not wired as it could run."""
    wiring = _wiring(shape)
    return None if wiring is None else {name: str(source) for name, source in wiring.sources[target].items()}


def _wiring(shape: Shape[Any, Any]) -> Wiring | None:
    try:
        return shape.wiring
    except CheckError:
        return None


def _data(stack: Stack[Any, Any], report: Report) -> dict[str, Any]:
    shapes: dict[str, Shape[Any, Any]] = {"": stack}
    shapes |= {s.name: s.step.node for s in report.steps if isinstance(s.step.node, Shape)}
    return {
        "stack": stack.name,
        "steps": [_step_data(step, shapes[step.name.rpartition(".")[0]]) for step in report.steps],
        "output": _bound(stack, OUTPUT),
        "session": None if stack.session is None else {"writes": list(stack.writes), "fields": _bound(stack, SESSION)},
        "errors": report.errors,
        "warnings": report.warnings,
        "refused": bool(report.errors),
    }


def _step_data(report: StepReport, within: Shape[Any, Any]) -> dict[str, Any]:
    """A step as JSON data; of a shape ``stage`` is null, and ``shape`` says what is known of it."""
    node = report.step.node
    return {
        "name": report.name,
        "stage": None if isinstance(node, Shape) else node.name,
        "shape": _shape_data(node) if isinstance(node, Shape) else None,
        "plugin": str(report.plugin) if report.plugin else None,
        "model": str(report.model) if report.model else None,
        "candidate": str(report.candidate) if report.candidate else None,
        "shadow": report.share if report.candidate else None,
        "when": report.step.when,
        "on_error": report.step.on_error,
        "fields": _bound(within, report.step.name),
        "prompt_tokens": report.prompt_tokens,
        "max_tokens": report.max_tokens,
    }


def _shape_data(shape: Shape[Any, Any]) -> dict[str, Any]:
    steps = {step.name for step in shape.steps}
    wired = _wiring(shape)
    others = None if wired is None else {name: _bound(shape, name) for name in wired.sources if name not in steps}
    return {
        "name": shape.name,
        "kind": shape.kind,
        "facts": shape.facts(),
        "decisions": list(shape.decisions),
        "bound": others,
    }


__all__ = ["app"]
