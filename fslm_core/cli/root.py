"""The ``fslm`` command itself: its verbs, each imported only when it is typed, and how every error ends."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ..errors import FslmError, InternalError, SystemRefusedError, UsageError, shorten
from . import screen
from .quiet import hold_streams, let_go, quiet
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable


class Verb(NamedTuple):
    """Where a verb lives, and its line in ``fslm --help``."""

    module: str
    line: str


VERBS = {
    "run": Verb("run", "Run one input through a stack; the result goes to standard output."),
    "chat": Verb("chat", "Talk with a stack, turn by turn, with its steps shown beside."),
    "batch": Verb("batch", "Run every row of a JSONL file through a stack."),
    "eval": Verb("eval", "Score a stack on labelled rows, step by step, beside a linear control."),
    "blame": Verb("blame", "Find out which step's errors cost a stack its answers."),
    "ablate": Verb("ablate", "Take away each step's message in turn, and see whether anybody used it."),
    "calibrate": Verb("calibrate", "Find out below which confidence a stack's steps should abstain."),
    "bench": Verb("bench", "Time a stack on this machine, under one or several executors and precisions."),
    "check": Verb("check", "Show how a stack is wired, and what is wrong with it, without loading a weight."),
    "graph": Verb("graph", "Draw a stack: its steps, and which fields lead where, as Mermaid text, SVG or PNG."),
    "list": Verb("listing", "List the installed stacks and stages."),
    "plugins": Verb("plugins", "List the plugins, and why one is not loaded; show, verify, enable or disable one."),
    "lock": Verb("lock", "Write down what runs here, tell what differs from it, or go back to the lock before."),
    "models": Verb("models", "List, get, verify or find the base models."),
    "trace": Verb("trace", "Look at what was kept of earlier runs, or forget it."),
    "ui": Verb("ui", "Serve a page to look at traces, on this machine alone."),
    "sessions": Verb("sessions", "Look at what is remembered of sessions, fork one, or forget it."),
    "new": Verb("new", "Write a new plugin, with its tests: a stage, a stack or a tool."),
    "data": Verb("data", "Make rows to train on and to score by, out of a table."),
    "train": Verb("train", "Train one stage by a recipe; prints the adapter's folder."),
    "tune": Verb("tune", "Tune every stage of a stack by one recipe; prints the settings that run its adapters."),
    "errors": Verb("errors", "Say what an error's code means, what causes it and what to do."),
    "doctor": Verb("doctor", "Say what fslm found on this machine, what is wrong with it, and what to do next."),
}

EXIT_CODES = {
    0: "all went well",
    1: "a run failed, or a row of a batch; what was compared differs",
    2: "the command, its input, a setting or a recipe is wrong",
    3: "a stack was refused by its check, or its definition cannot work",
    4: "something is missing, damaged or refused here: a plugin, a model, an adapter, the trace, an extra, a full disk",
    5: "the engine is too busy",
    6: "a run, or a row of a batch, waits for a person to decide; none failed",
    70: "an error in fslm itself, or in a plugin's code",
    130: "interrupted with Ctrl-C",
}

_INTERRUPTED = 130
_EPILOG = "\b\n" + "\n".join(["Exit codes", *(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items())])


class VerbGroup(TyperGroup):
    """Lists the verbs from the table above, and imports the one that was typed.

    A plugin's verb is looked for only when the verb is none of fslm's own, so it can replace none, and ``--help``
    loads no plugin; ``fslm plugins`` lists them.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, verb in VERBS.items():
            self.add_command(TyperCommand(name, help=verb.line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the verb that ``args`` begins with."""
        name, session = args[0], ctx.ensure_object(Session)
        session.locked = bool(ctx.params.get("locked"))  # before any plugin is asked
        if name not in VERBS and (function := session.host.commands.get(name)):
            session.hold()
            return name, _plugin_verb(name, function), args[1:]
        found, command, rest = super().resolve_command(ctx, args)
        return found, load(found) if found in VERBS else command, rest


def load(name: str) -> Any:
    """Import one of fslm's own verbs and return its command."""
    module = importlib.import_module(f".{VERBS[name].module}", __package__)
    command = get_command(module.app)
    command.name = name
    return command


def _plugin_verb(name: str, function: Callable[..., Any]) -> Any:
    app = typer.Typer(add_completion=False)
    app.command(name)(function)
    return get_command(app)


app = typer.Typer(
    name="fslm",
    cls=VerbGroup,
    no_args_is_help=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("fslm-core")
        except PackageNotFoundError:
            from .. import __version__ as number
        typer.echo(f"fslm {number}")
        raise typer.Exit()


@app.callback()
def fslm(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Run nothing that differs from the lock file, fslm.lock.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run stacks of small fine-tuned language models, every step typed, traced and correctable.

    Results go to standard output, everything else to standard error. `fslm plugins` lists the verbs that plugins add.
    """
    ctx.ensure_object(Session).debug = debug


def whole() -> TyperGroup:
    """Return the command with all of fslm's own verbs imported, as the reference pages need it."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name in VERBS:
        group.add_command(load(name), name)
    return group


def run(args: list[str]) -> int:
    """Run the command and return the exit code; every error is told on standard error, none as a traceback."""
    session = Session()
    hold_streams()
    screen.prepare()
    with quiet(lambda: session.debug):
        code = _ended(args, session)
        let_go(sys.stdout)
    return code


def _as_utf8(argument: str) -> str:
    """An argument that the locale could not read, read as UTF-8 if it is that."""
    try:
        argument.encode()
        return argument
    except UnicodeEncodeError:
        return os.fsencode(argument).decode("utf-8", "surrogateescape")


def _ended(args: list[str], session: Session) -> int:
    """Run the command and say how it ended."""
    try:
        code = get_command(app).main(list(map(_as_utf8, args)), prog_name="fslm", standalone_mode=False, obj=session)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # what Typer makes of Ctrl-C
            screen.say("interrupted")
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        screen.say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone; there is nobody to tell
        return 1
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str):  # a plugin's verb ends as it likes
            return error.code if isinstance(error.code, int) else 0
        if session.debug:
            screen.show_traceback(error)
        return _told(error)


def _told(error: BaseException) -> int:
    """Print an error and return its exit code."""
    if isinstance(error, typer.Abort):
        screen.say("stopped")
        return 1
    told = error if isinstance(error, FslmError) else _as_ours(error)
    if told.what:
        screen.show_error(told)
    return error.exit_code if isinstance(error, typer.TyperException) else told.exit_code


def _as_ours(error: BaseException) -> FslmError:
    if isinstance(error, typer.TyperException):
        text = error.format_message().strip().replace(": Value error, ", ": ")  # which is pydantic's word for it
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fslm"
        return UsageError(text, where=path, hint=f"see `{path} --help`{_option_hint(text, path)}")
    if isinstance(error, OSError):
        place = "this machine" if error.filename is None else str(error.filename)
        hint = "see that it is there and yours, and that the disk has room"
        return SystemRefusedError(f"the system refused: {error.strerror or error}", where=place, hint=hint)
    if isinstance(error, MemoryError):
        hint = "end other programs, choose a smaller model, or set a smaller torch.max_batch"
        return SystemRefusedError("there is not enough memory", where="this machine", hint=hint)
    return InternalError(
        f"an error in fslm itself, or in a plugin's code: {type(error).__name__}: {shorten(str(error))}",
        where=_line_of(error),
        hint="run `fslm --debug …` to see where, and report it with what it shows",
    )


def _option_hint(text: str, path: str) -> str:
    if "No such option" not in text:
        return ""
    for option in ("--debug", "--locked"):
        if option in text:
            verb = path.partition(" ")[2]
            return f"; {option} stands before the verb: `fslm {option} {verb} …`"
    return "; write `--` before a text that begins with a dash"


def _line_of(error: BaseException) -> str:
    """The line that raised, by the last two parts of its file's path: they say whose code it is."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "fslm"
    return f"{'/'.join(Path(trace.tb_frame.f_code.co_filename).parts[-2:])}, line {trace.tb_lineno}"


__all__ = ["EXIT_CODES", "VERBS", "app", "load", "run", "whole"]
