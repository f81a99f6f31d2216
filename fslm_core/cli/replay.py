"""``fslm trace replay``: an earlier run anew, with messages edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ReviewNeeded, RunFailed, UsageError
from ..message import LEFT_OUT, Message, Skipped
from ..schema import plain_data
from ..stack import INPUT, SESSION
from ..store import TraceStore
from . import inputs, screen
from .session import opened, session_of

if TYPE_CHECKING:
    from ..engine import Run


def replay(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[ID|last]", help="A run's id, its beginning, or 'last'.")] = "last",
    start: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Do this step again, and whatever ended after it.")
    ] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STEP.FIELD=VALUE",
            help="Have a step say this, and do again what changes by it; `input.FIELD` and `session.FIELD` too. VALUE"
            " is JSON where it can be read as JSON, else text; STEP=null leaves a step out. Repeatable.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--input", metavar="INPUT", help="In place of the run's own input, as `fslm run` takes it."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds after which the run is stopped.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: the new run's id, its output, what was taken and made."),
    ] = False,
) -> None:
    """Run an earlier run's stack again, with messages edited; what would do the same work is taken from it.

    Without --from and --set all of it is done again. The new run knows the earlier one as its parent. No session is
    written.
    """
    from .run import question  # the engine comes with it, which `fslm trace list` need not wait for

    session = session_of(ctx)
    with TraceStore.open(session.settings.trace_path, readonly=True) as store:
        stored = store.run(run)
    values = dict(_edit(edit) for edit in edits or ())
    stack = session.stack(stored.row.stack)
    given = None
    if text is not None:
        typed, where = inputs.typed_or_piped(text)
        given = inputs.read(stack.input, typed, as_json=inputs.bare_field(stack.input) is None, where=where)
    with opened(session, stack, max_in_flight=1) as engine:
        try:
            made = engine.replay(stored, start=start, edits=values, input=given, timeout=timeout)
        except RunFailed as failed:
            if as_json:
                screen.result(screen.as_json(_told(failed.run)))
            screen.show_error(failed)
            _hint(failed.run)
            raise typer.Exit(failed.exit_code) from None
        if as_json:
            screen.result(screen.as_json(_told(made)))
        elif isinstance(made.error, ReviewNeeded):
            screen.result(screen.as_json({"review": question(made, made.error)}))
        else:
            screen.result(screen.as_json(plain_data(made.output)))
        if made.error is not None:
            screen.show_error(made.error)
        _unused(values, made)
        _hint(made)
        if made.error is not None:
            raise typer.Exit(made.error.exit_code)


def _edit(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or ("." not in name and value.strip() != "null"):
        raise UsageError(
            "an edit names a step, a field and a value",
            where="--set",
            found=text,
            expected="STEP.FIELD=VALUE, or STEP=null to leave it out",
            hint="write --set intent.intent=track_refund; `fslm trace show RUN` has the steps' names",
        )
    return name.strip(), inputs.json_or_text(value)


def _told(run: Run[Any]) -> dict[str, Any]:
    messages = [message for message in run.messages.values() if isinstance(message, Message)]
    return {
        "id": run.id,
        "parent": run.parent,
        "status": run.status,
        "output": plain_data(run.result.content) if run.result else None,
        "error": run.error.to_dict() if run.error else None,
        "edited": {message.step: list(message.edited) for message in messages if message.edited},
        "taken": [message.step for message in messages if message.reused and not message.edited],
        "made": [message.step for message in messages if message.attempts],
    }


def _unused(values: dict[str, Any], run: Run[Any]) -> None:
    """Say of each edit whose step did not come to run."""
    messages = (message for message in run.messages.values() if isinstance(message, Message))
    used = {f"{message.step}.{field}" for message in messages for field in message.edited}
    used |= {said.step for said in run.messages.values() if isinstance(said, Skipped) and said.when == LEFT_OUT}
    for name in values:
        if name not in used and name.partition(".")[0] not in (INPUT, SESSION):
            screen.warn(f"{name} was not used: its step did not run this time")


def _hint(run: Run[Any]) -> None:
    told = _told(run)
    screen.say(f"taken: {', '.join(told['taken']) or 'nothing'}; made: {', '.join(told['made']) or 'nothing'}")
    screen.say(f"trace: fslm trace show {run.id}; where they part: fslm trace diff {run.parent} {run.id}")


__all__ = ["replay"]
