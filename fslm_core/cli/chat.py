"""``fslm chat``: a conversation with a stack, one run a line; its session is what it remembers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import BaseModel

from ..engine.turns import refuse
from ..engine.withhold import read_quietly, withholds
from ..errors import FslmError, InputError
from ..events import RunEvent, RunFinished, RunStarted
from ..schema import plain_data
from ..serve.inputs import MAX_INPUT, decode
from ..stack import OUTPUT, Stack
from ..wording import counted
from . import screen
from .beside import Board, Steps
from .form import Form, text_field
from .session import Session, content_of, opened, session_of

if TYPE_CHECKING:
    from ..engine import Engine

app = typer.Typer(add_completion=False)

_YOU = "you> "
_HELP = """/state             what the session holds
/steps on|off      show the steps, or do not
/trace             the last turn's trace
/fork [ID]         go on in a copy of the session; the old one stays as it is
/quit              end; Ctrl-D does too, and Ctrl-C stops a turn
//text             send a text that begins with a slash"""


@app.command()
def chat(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    turn_of: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", help="The session to go on with, or to begin; a new one by default."),
    ] = None,
    input_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The input's field that takes what is typed.")
    ] = None,
    output_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The output's field that is the reply.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another field of each input: text, or JSON. Repeatable."),
    ] = None,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Show each step as it happens.")] = True,
    seed: Annotated[int, typer.Option(help="Decides every sampled token.")] = 0,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds after which a turn is stopped.")] = None,
) -> None:
    """Talk with a stack, turn by turn, with its steps shown beside.

    Replies go to standard output, all else to standard error. Each line is one run; a line that begins with a slash is
    a command, and /help lists them. Ctrl-C stops a turn and not the chat, and the session is as it was; Ctrl-D ends.
    Lines may be piped in; the exit code is 1 where one of their turns failed.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    refuse(found, turn_of)
    form = Form.of(found, input_field, tuple(set_ or ()))
    reply = text_field(found.output, output_field, "--output-field", found.name)
    with opened(session, found, max_in_flight=1) as engine:
        talk = Talk(session, engine, found, form, reply, turn_of, steps=steps, seed=seed, timeout=timeout)
        talk.greet()
        for line in lines(_YOU):
            if not talk.take(line):
                break
        talk.part()
    if talk.failed and not sys.stdin.isatty():
        raise typer.Exit(1)


class Talk:
    """A conversation: what it remembers is in its session, or here where none is kept.

    Attributes:
        failed: how many turns failed.
    """

    def __init__(
        self,
        session: Session,
        engine: Engine,
        stack: Stack[Any, Any],
        form: Form,
        reply: str | None,
        turn_of: str | None,
        *,
        steps: bool,
        seed: int,
        timeout: float | None,
    ) -> None:
        self.failed = 0
        self._settings = session.settings
        self._engine = engine
        self._stack = stack
        self._form = form
        self._reply = reply
        self._grows = _source_of(stack, reply)
        self._steps = steps
        self._seed = seed
        self._timeout = timeout
        self._content = content_of(session.settings)
        self._quotes = not withholds(stack, self._content)
        self._state: BaseModel | None = None if stack.session is None else stack.session()
        self._kept = turn_of is not None or (stack.session is not None and session.settings.sessions.keep)
        self._id = (turn_of or _new_id()) if self._kept else None
        self._last = ""
        if turn_of is not None:
            engine.sessions  # noqa: B018 (whether any can be kept is told before the first turn)

    def greet(self) -> None:
        """Say what is talked with, and what it remembers."""
        if self._id is not None:
            found = self._engine.sessions.find(self._id)
            turns = "new" if found is None else f"{counted(found.version, 'turn')} so far"
            told = f"session {self._id} ({turns})"
        else:
            told = (
                "no session is kept" if self._stack.session is not None else "it has no session: no line knows another"
            )
        screen.say(f"{self._stack.name}: {told}; /help lists commands, Ctrl-D ends")
        if not self._quotes:
            screen.say(
                "what the steps say is not shown: the stack marks fields as sensitive, and trace.content is not full"
            )

    def part(self) -> None:
        """Say how to go on."""
        if self._id is not None and self._engine.sessions.find(self._id) is not None:
            screen.say(f"go on with: fslm chat {self._stack.name} --session {self._id}")

    def take(self, line: str | InputError) -> bool:
        """Take a line: a turn, or a command; False where it ends the chat."""
        if isinstance(line, InputError):
            self._failed(line)
        elif line.startswith("//"):
            self._turn(line[1:])
        elif line.startswith("/"):
            return self._command(*line[1:].split())
        elif line.strip():
            self._turn(line)
        return True

    # -- a turn ---------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        try:
            value = read_quietly(self._stack, self._form.filled(text), self._content)
            ended = self._run(value)
        except FslmError as error:
            self._failed(error)
            return
        except KeyboardInterrupt:
            screen.say("stopped; the session is as it was" if self._stack.session is not None else "stopped")
            return
        if ended is None or ended.output is None:
            if ended is not None and ended.error is not None:
                self._failed(ended.error)
        elif ended.state is not None:
            self._state = ended.state

    def _run(self, value: BaseModel) -> RunFinished | None:
        begun = self._state if self._id is None else None
        events = self._engine.stream(
            self._stack, value, seed=self._seed, timeout=self._timeout, session=self._id, state=begun
        )
        ended: RunFinished | None = None
        steps = Steps(self._quotes) if self._steps else None
        with Board(steps, self._grows) as board, closing(cast("Generator[RunEvent, None, None]", events)):
            for event in events:
                if isinstance(event, RunStarted):
                    self._last = event.run
                if isinstance(event, RunFinished):
                    ended = event
                    if event.output is not None:
                        board.reply(self._said(event.output.content))
                board.see(event)
        return ended

    def _said(self, output: BaseModel) -> str:
        data = plain_data(output)
        value = None if self._reply is None else data[self._reply]
        return value if isinstance(value, str) else screen.as_json(data if self._reply is None else value)

    def _failed(self, error: FslmError) -> None:
        self.failed += 1
        screen.show_error(error)

    # -- commands -------------------------------------------------------------------------------------------------

    def _command(self, name: str = "help", word: str = "", *more: str) -> bool:
        known: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "state": self._show_state,
            "steps": self._show_steps,
            "trace": self._show_trace,
            "fork": self._fork,
        }
        if name in ("quit", "exit"):
            return False
        if name not in known or more:
            screen.say(f"there is no such command as /{name}; /help lists them, and //{name} sends it as text")
            return True
        try:
            known[name](word)
        except FslmError as error:
            screen.show_error(error)
        except KeyboardInterrupt:
            screen.say("stopped")
        return True

    def _help(self, _: str) -> None:
        screen.say(_HELP)

    def _show_state(self, _: str) -> None:
        found = None if self._id is None else self._engine.sessions.find(self._id)
        state = found.state if found is not None else None if self._state is None else plain_data(self._state)
        screen.say("the stack has no session" if state is None else screen.as_json(state))

    def _show_steps(self, how: str) -> None:
        if how in ("on", "off"):
            self._steps = how == "on"
        screen.say(f"steps are {'shown' if self._steps else 'not shown'}; /steps on|off")

    def _show_trace(self, _: str) -> None:
        from ..explain.show import show
        from ..store import TraceStore

        if not self._last or not self._engine.traced:
            screen.say("there is no turn yet" if self._engine.traced else "no trace is kept")
            return
        with TraceStore.open(self._settings.trace_path, readonly=True) as store:
            screen.render(show(store.run(self._last)), err=True)

    def _fork(self, to: str) -> None:
        if self._id is None:
            screen.say("no session is kept, so there is none to fork")
            return
        made = self._engine.sessions.fork(self._id, to or None)
        screen.say(f"session {made.id}, forked from {made.parent}")
        self._id = made.id


def _source_of(stack: Stack[Any, Any], reply: str | None) -> tuple[str, str] | None:
    """The step and the field of it that the reply is, where it is one as it stands."""
    source = None if reply is None else stack.wiring.sources[OUTPUT].get(reply)
    return (source.step, source.path[0]) if source is not None and len(source.path) == 1 else None


def lines(prompt: str) -> Iterator[str | InputError]:
    """What is typed or piped in, line by line; a line that cannot be read is the error that says why.

    On a terminal Ctrl-C gives up the line that is being typed, and Ctrl-D ends.
    """
    if not sys.stdin.isatty():
        yield from _piped()
        return
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() its history and editing)
    while True:
        try:
            line = input(prompt) if sys.stdout.isatty() else _asked(prompt)
        except EOFError:
            screen.say("")
            return
        except KeyboardInterrupt:
            screen.say("\n(Ctrl-D or /quit ends the chat)")
            continue
        yield _typed(line)


def _asked(prompt: str) -> str:
    """As ``input()``, where standard output is no terminal: a prompt is no reply."""
    typer.echo(prompt, nl=False, err=True)
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\r\n")


def _typed(line: str) -> str | InputError:
    try:
        return decode(os.fsencode(line), where="the line typed")
    except InputError as error:
        return error


def _piped() -> Iterator[str | InputError]:
    number, source = 0, sys.stdin.buffer
    while line := source.readline(MAX_INPUT + 1):
        number += 1
        rest = line
        while not rest.endswith(b"\n") and (rest := source.readline(MAX_INPUT)):
            pass  # what is beyond the largest line is refused below
        try:
            yield decode(line, where=f"standard input, line {number}").rstrip("\r\n")
        except InputError as error:
            yield error


def _new_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"


__all__ = ["app"]
