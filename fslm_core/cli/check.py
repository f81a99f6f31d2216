"""``fslm check``: how a stack is wired here, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .. import backends
from ..backends.protocol import Capabilities
from ..engine import Report, StepReport, check_stack
from ..errors import MissingExtraError
from ..stack import OUTPUT, Stack
from . import screen
from .session import session_of

app = typer.Typer(add_completion=False)


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
    for step in report.steps:
        lines += ["", f"step {step.name}", *(f"  {name:<9}{value}" for name, value in _facts(step, report))]
    lines += ["", f"output {stack.output.__name__}"]
    lines += [f"  {name:<9}{value}" for name, value in _sources(OUTPUT, stack.output.model_fields, report)]
    return lines


def _facts(report: StepReport, whole: Report) -> list[tuple[str, str]]:
    stage = report.step.stage
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
    if report.step.when is not None:
        facts.append(("when", report.step.when))
    facts += _sources(report.name, stage.input.model_fields, whole)
    if stage.narrow:
        facts.append(("narrowed", ", ".join(f"{name} by {path}" for name, path in stage.narrow.items())))
    if stage.tool is None:
        known = report.prompt_tokens is not None
        size = f"{report.prompt_tokens} static tokens" if known else "tokens unknown until the model is here"
        facts.append(("prompt", size))
        if report.max_tokens is not None:
            bound = f"at most {report.max_tokens} tokens; its schema allows {stage.schema.max_bytes} bytes"
            facts.append(("output", bound))
    return facts


def _sources(step: str, fields: Any, report: Report) -> list[tuple[str, str]]:
    if report.wiring is None:
        return [("fields", ", ".join(fields))]
    bound = report.wiring.sources[step]
    return [("field", f"{name} <- {bound.get(name, 'its default')}") for name in fields]


def _data(stack: Stack[Any, Any], report: Report) -> dict[str, Any]:
    def sources(step: str) -> dict[str, str] | None:
        if report.wiring is None:
            return None
        return {name: str(source) for name, source in report.wiring.sources[step].items()}

    steps = [
        {
            "name": step.name,
            "stage": step.step.stage.name,
            "plugin": str(step.plugin) if step.plugin else None,
            "model": str(step.model) if step.model else None,
            "candidate": str(step.candidate) if step.candidate else None,
            "shadow": step.share if step.candidate else None,
            "when": step.step.when,
            "fields": sources(step.name),
            "prompt_tokens": step.prompt_tokens,
            "max_tokens": step.max_tokens,
        }
        for step in report.steps
    ]
    return {
        "stack": stack.name,
        "steps": steps,
        "output": sources(OUTPUT),
        "errors": report.errors,
        "warnings": report.warnings,
        "refused": bool(report.errors),
    }


__all__ = ["app"]
