"""``fslm trace label``, ``fix``, ``labels`` and ``unlabel``: what people say of messages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import DuplicateNameError, PluginLoadError, UnknownNameError, UsageError
from ..explain.labels import in_words, labels_table
from ..schema import loads
from ..stack import Stack
from ..store import StoredNode, StoredRun, TraceStore
from ..store.edits import apply
from . import inputs, screen
from .session import Session, session_of

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or 'last'.")]
StepPath = Annotated[str, typer.Argument(metavar="STEP", help="The step's path, as `fslm trace show` has it.")]
Note = Annotated[str, typer.Option(help="Anything else that is to be said of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the label as one JSON object.")]


def label(
    ctx: typer.Context,
    run: RunName,
    step: StepPath,
    right: Annotated[bool, typer.Option("--right", help="What it said is right.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="What it said is wrong.")] = False,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Say whether what a step said is right or wrong.

    A message has one label: a new one replaces the one before. `fslm trace fix` writes what would have been right.
    """
    if right == wrong:
        raise UsageError(
            "a label says right or wrong, and one of them",
            where="fslm trace label",
            expected="--right, or --wrong",
            hint="write what would have been right with `fslm trace fix RUN STEP --set FIELD=VALUE`",
        )
    with _writing(ctx) as store:
        _tell(store, store.run(run), step, as_json, right=right, note=note)


def fix(
    ctx: typer.Context,
    run: RunName,
    step: StepPath,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field as it should have been; the others stay. VALUE is JSON where it can be read as JSON, else"
            " text. Repeatable.",
        ),
    ] = None,
    value: Annotated[
        str | None, typer.Option("--value", metavar="JSON", help="The whole message as it should have been.")
    ] = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Write what a step should have said, also where it failed.

    It is checked against the step's output model, and what its input narrowed that to. `fslm trace export-training`
    makes training rows of it. To see what would have come of it, `fslm trace replay RUN --set STEP.FIELD=VALUE`.
    """
    if bool(edits) == (value is not None):
        raise UsageError(
            "a correction is fields that are set, or a whole message, and one of them",
            where="fslm trace fix",
            expected="--set FIELD=VALUE, or --value JSON",
            hint="fslm trace fix last kind --set kind=complaint",
        )
    session = session_of(ctx)
    with _writing(ctx) as store:
        stored = store.run(run)
        said = _said(stored, step) if edits else {}
        made = _whole(value) if value is not None else apply(said, dict(map(_edit, edits or ())), f"step {step}")
        stack = stack_of(session, stored.row.stack)
        _tell(store, stored, step, as_json, correction=made, note=note, stack=stack)


def labels(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run's.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only those of this stage's messages.")] = None,
    stack: Annotated[str | None, typer.Option(help="Only those in runs of this stack.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List what is said of messages: right, wrong, or what would have been right."""
    with TraceStore.open(session_of(ctx).settings.trace_path, readonly=True) as store:
        found = store.labels(run, stage=stage, stack=stack, limit=limit)
    if as_json:
        screen.result(screen.as_json([asdict(one) for one in found]))
    elif found:
        screen.render(labels_table(found))
    else:
        screen.say("no such label is in the trace")


def unlabel(ctx: typer.Context, run: RunName, step: StepPath, as_json: AsJson = False) -> None:
    """Take back what was said of a step's message."""
    with _writing(ctx) as store:
        gone = store.unlabel(run, step)
    if as_json:
        screen.result(screen.as_json(asdict(gone)))
    else:
        screen.say(f"{gone.step} of run {gone.run} has no label any more; it was {in_words(gone)}")


def _writing(ctx: typer.Context) -> TraceStore:
    path = session_of(ctx).settings.trace_path
    TraceStore.open(path, readonly=True).close()  # there must be one: none is made here
    return TraceStore.open(path)


def _tell(store: TraceStore, run: StoredRun, step: str, as_json: bool, **said: Any) -> None:
    """Label a message and say so, and what it replaces."""
    before = run.labels.get(step)
    made = store.label(run.row.id, step, **said)
    if as_json:
        screen.result(screen.as_json(asdict(made)))
        return
    replaced = f"; it was {in_words(before)}" if before is not None else ""
    screen.say(f"{made.step} of run {made.run} is {in_words(made)}{replaced}")


def _said(run: StoredRun, step: str) -> Any:
    """What the step said, to be corrected; nothing where it failed."""
    nodes: list[StoredNode] = [node for node in run.nodes if node.step == step and node.content is not None]
    return nodes[-1].content.data if nodes and nodes[-1].content is not None else {}


def stack_of(session: Session, name: str) -> Stack[Any, Any] | None:
    """The stack by which a correction is checked; None, and a warning, where it is not to be had."""
    try:
        return session.host.stack(name)
    except (UnknownNameError, PluginLoadError, DuplicateNameError) as error:
        screen.warn(f"the correction is checked against what was recorded alone: {error.what}")
        return None


def _edit(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise UsageError(
            "a correction names a field and a value",
            where="--set",
            found=text,
            expected="FIELD=VALUE",
            hint="write --set kind=complaint; `fslm trace show RUN` has the fields",
        )
    return name.strip(), inputs.json_or_text(value)


def _whole(text: str) -> Any:
    typed, where = inputs.typed_or_piped(text)
    try:
        return loads(typed)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the message is not JSON",
            where=where,
            found=str(error),
            expected='a JSON object: {"field": "value", …}',
            hint="put it in single quotes, or pass - and pipe it in",
        ) from None


__all__ = ["fix", "label", "labels", "stack_of", "unlabel"]
