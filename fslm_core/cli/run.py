"""``fslm run``: one input through a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from ..engine.turns import refuse
from ..engine.withhold import read_quietly, withheld, withholds
from ..errors import InputError, ReviewNeeded, RunFailed
from ..message import Message
from ..schema import plain_data
from ..stack import Stack
from . import inputs, screen
from .session import Session, content_of, opened, session_of

if TYPE_CHECKING:
    from ..engine import Engine, Run

app = typer.Typer(add_completion=False)


@app.command()
def run(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    text: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Bare text where the stack's input has exactly one required field and that is a string, whatever the"
            " text looks like; a JSON object otherwise. '-' reads standard input.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="INPUT is a JSON object, even where bare text would do.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides every sampled token.")] = 0,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds after which the run is stopped.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show on standard error where the time went, step by step.")
    ] = False,
    turn_of: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="ID", help="The session that the run is a turn of; begun where there is none."
        ),
    ] = None,
) -> None:
    """Run one input through a stack; the result goes to standard output.

    The result is one indented JSON object. Standard error says how to look at the trace. Where no step was sure enough
    and a person is to decide, standard output says what, and the exit code is 6.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    refuse(found, turn_of)
    given, where = inputs.typed_or_piped(text)
    content = content_of(session.settings)
    try:
        value = inputs.read(found.input, given, as_json=as_json, where=where)
    except InputError as error:
        if withholds(found, content):
            raise withheld(error, found, where=where) from None
        raise
    if not as_json and _looks_like_json(given, found):
        screen.say("note: the input was taken as text; pass --json if it is a JSON object")
    checked = read_quietly(found, value, content)  # before a weight is loaded
    _run(session, found, checked, seed, timeout, profile, turn_of)


def _run(
    session: Session,
    stack: Stack[Any, Any],
    checked: BaseModel,
    seed: int,
    timeout: float | None,
    profile: bool,
    turn_of: str | None,
) -> None:
    with opened(session, stack, max_in_flight=1) as engine:
        try:
            run = engine.run(stack, checked, seed=seed, timeout=timeout, session=turn_of)
        except RunFailed as failed:
            if session.debug:
                screen.show_traceback(failed)
            screen.show_error(failed)
            if profile:
                _show_profile(failed.run)
            _hint(engine, failed.run.id)
            raise typer.Exit(failed.exit_code) from None
        except KeyboardInterrupt:
            _hint(engine, "last")
            raise
        if isinstance(run.error, ReviewNeeded):
            screen.result(screen.as_json({"review": question(run, run.error)}))
            screen.show_error(run.error)
        else:
            screen.result(screen.as_json(plain_data(run.output)))
        if profile:
            _show_profile(run)
        _hint(engine, run.id)
        if run.error is not None:
            raise typer.Exit(run.error.exit_code)


def question(run: Run[Any], needed: ReviewNeeded) -> dict[str, Any]:
    """What a person is to decide: the message that was not sure enough, and what each field in doubt might be.

    Returns:
        ``step``, ``message`` (both null where no step gave one) and ``unsure``: by field its ``value``, ``confidence``
        (null where unknown) and ``alternatives``, pairs of a label and its probability.
    """
    message = run.messages.get(needed.step or "")
    if not isinstance(message, Message):
        return {"step": None, "message": None, "unsure": {}}
    data, known = plain_data(message.content), message.confidence or {}
    unsure = {
        name: {
            "value": data[name],
            "confidence": known.get(name),
            "alternatives": [list(pair) for pair in message.alternatives.get(name, ())],
        }
        for name in needed.fields
    }
    return {"step": needed.step, "message": data, "unsure": unsure}


def _show_profile(run: Run[Any]) -> None:
    from ..explain.profile import drawn, of_run

    screen.render(drawn(of_run(run)), err=True)


def _hint(engine: Engine, run: str) -> None:
    if engine.traced and not engine.records_lost:
        screen.say(f"trace: fslm trace show {run}")


def _looks_like_json(text: str, stack: Stack[Any, Any]) -> bool:
    """Whether a text that was taken as it stands may have been meant as the whole input."""
    field = inputs.bare_field(stack.input)
    return field is not None and text.lstrip().startswith("{") and f'"{field}"' in text


__all__ = ["app"]
