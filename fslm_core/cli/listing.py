"""``fslm list``: the installed stacks and stages."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..plugins import PluginHost
from ..stack import Stack
from ..stage import Stage
from . import screen
from .session import session_of

app = typer.Typer(add_completion=False)


@app.command("list")
def list_(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """List the installed stacks and stages."""
    host = session_of(ctx).host
    stacks = [_stack(stack, host) for _, stack in sorted(host.stacks.items())]
    stages = [_stage(stage, host) for _, stage in sorted(host.stages.items())]
    if as_json:
        screen.result(screen.as_json({"stacks": stacks, "stages": stages}))
    elif stacks or stages:
        _tables(stacks, stages)
    if not stacks and not stages:
        screen.say("no plugin offers a stack or a stage; install one with pip, then see `fslm plugins`")
    _missing(host)


def _tables(stacks: list[dict[str, Any]], stages: list[dict[str, Any]]) -> None:
    rows = ([s["name"], f"{s['input']} -> {s['output']}", ", ".join(s["steps"]), s["description"]] for s in stacks)
    screen.table(["stack", "from -> to", "steps", "what it does"], rows)
    screen.result("")
    rows = ([s["name"], f"{s['input']} -> {s['output']}", s["runs"], s["plugin"], s["description"]] for s in stages)
    screen.table(["stage", "from -> to", "runs", "plugin", "what it does"], rows)


def _stack(stack: Stack[Any, Any], host: PluginHost) -> dict[str, Any]:
    return {
        "name": stack.name,
        "input": stack.input.__name__,
        "output": stack.output.__name__,
        "steps": [step.name for step in stack.steps],
        "description": stack.description,
    }


def _stage(stage: Stage[Any, Any], host: PluginHost) -> dict[str, Any]:
    if stage.model is None:
        runs = "a tool"
    elif stage.model.adapter is not None:
        runs = f"{stage.model.base} + adapter"
    else:
        runs = f"{stage.model.base} (untuned)" if stage.model.untuned else stage.model.base
    owner = host.owner(stage)
    return {
        "name": stage.name,
        "input": stage.input.__name__,
        "output": stage.output.__name__,
        "runs": runs,
        "plugin": str(owner) if owner else "",
        "description": stage.description,
    }


def _missing(host: PluginHost) -> None:
    for info in host.plugins:
        if info.state == "quarantined":
            screen.warn(f"plugin {info.name} ({info}) is not loaded: {info.reason}")


__all__ = ["app"]
