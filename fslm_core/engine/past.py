"""An earlier run that a new one begins from: what it said is said again, but for what was edited and what follows.

A step's message is taken from the earlier run where the step would do the same work: the same stage, prompt, adapter
and model (its fingerprint) on the same input with the same seed (the ``work_key``). What has no work key, a tool that
is not ``pure``, is taken where it ended before the place from which all is done anew, and done again after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import InputError, UsageError
from ..message import Message, Origin, Problem, node_id, plain_path
from ..schema import canonical, content_id, plain_data
from ..stack import INPUT, SESSION, Node, Stack, places
from ..stage import Stage
from ..store import StoredNode, StoredRun
from ..store.edits import apply, read, require_writable, unknown_step
from .run import Run


@dataclass(frozen=True, slots=True)
class Said:
    """A message of an earlier run, out of a trace or out of the run itself; ``json`` is its content as it was."""

    id: str
    json: str
    fingerprint: str
    work_key: str
    attempt: int
    confidence: Mapping[str, float] | None
    narrowed: Mapping[str, Any] | None


@dataclass(frozen=True)
class Earlier:
    """An earlier run, as much of it as a new one may take.

    Attributes:
        steps: the paths of all that ended, in that order; one that was tried several times stands there as often.
        said: the messages that were kept as they were, by path.
        kept: what was kept of it: ``full``, ``redacted`` or ``none``.
    """

    id: str
    stack: str
    seed: int
    steps: tuple[str, ...]
    said: Mapping[str, Said]
    kept: str = "full"


def of_stored(run: StoredRun) -> Earlier:
    """A run out of a trace."""
    said = {node.step: made for node in run.nodes if (made := _of_node(node)) is not None}
    if run.input is not None and run.input.kind == "full":
        said[INPUT] = Said(node_id(run.row.id, INPUT), run.input.json, "", "", 0, None, None)
    return Earlier(
        run.row.id, run.row.stack, run.row.seed, tuple(node.step for node in run.nodes), said, run.row.content
    )


def of_run(run: Run[Any]) -> Earlier:
    """A run that this program has in hand."""
    messages = {INPUT: run.input, **run.messages}
    said = {path: _of_message(m) for path, m in messages.items() if isinstance(m, Message)}
    return Earlier(run.id, run.stack, run.seed, tuple(run.messages), said)


def _of_node(node: StoredNode) -> Said | None:
    if node.status != "ok" or node.content is None or node.content.kind != "full":
        return None
    attempt = _attempt(node.reused, node.attempt)
    return Said(node.id, node.content.json, node.fingerprint, node.work_key, attempt, node.confidence, node.narrowed)


def _of_message(message: Message[Any]) -> Said:
    fingerprint = message.origin.fingerprint if message.origin else ""
    attempt = _attempt(message.reused, message.attempts[-1].index if message.attempts else 0)
    text = canonical(message.content)
    return Said(message.node_id, text, fingerprint, message.work_key, attempt, message.confidence, message.narrowed)


def _attempt(reused: str, own: int) -> int:
    """The number of the attempt that made a message, in whichever run that was."""
    last = reused.rpartition("/")[2]
    return int(last) if last.isdecimal() else own


@dataclass(frozen=True)
class Past:
    """What a new run takes of an earlier one.

    Attributes:
        run: the earlier one's id.
        said: the messages that it may take, by the step's path.
        before: the steps that ended before the place from which all is done anew.
        anew: the steps that are done again whatever their work.
        edits: by the step's path, its message with what was edited; by a field's path, the new value.
        out: the steps that are left out.
    """

    run: str
    said: Mapping[str, Said]
    before: frozenset[str]
    anew: frozenset[str]
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    out: frozenset[str] = frozenset()

    def edited(
        self, node: Node, path: str, where: str, value: BaseModel, run: str, origin: Origin
    ) -> Message[Any] | None:
        """The message of a step that was edited, made of what the earlier run said; None where it was not.

        Args:
            value: the step's input now, which may narrow what it can say.

        Raises:
            InputError: what comes of the edit is nothing that the step could say.
        """
        if path not in self.edits:
            return None
        kept = self.said.get(path)
        data = {} if kept is None else json.loads(kept.json)
        data = apply(data, self.edits[path], where)
        content = read(node.output, data, where)
        narrowed = None
        if isinstance(node, Stage) and node.tool is None:
            schema = node.narrowed(value)
            require_writable(schema, data, where)
            narrowed = schema.tree if node.narrow else None
        return Message(
            path,
            content,
            node_id=node_id(run, path),
            content_id=content_id(content),
            origin=origin,
            narrowed=narrowed,
            reused=kept.id if kept is not None else "",
            edited=tuple(self.edits[path]),
        )

    def again(self, stage: Stage[Any, Any], path: str, run: str, origin: Origin, key: str) -> Message[Any] | None:
        """What a step said before, where it would do the same work; else None.

        Args:
            key: of the work that it would do; empty for a tool that is not pure.
        """
        kept = self.said.get(path)
        if kept is None or path in self.anew or kept.fingerprint != origin.fingerprint:
            return None
        if key != kept.work_key or (not key and path not in self.before):
            return None
        try:
            content = stage.output.model_validate_json(kept.json)
        except ValidationError:  # its model changed, and its fingerprint does not say so
            return None
        return Message(
            path,
            content,
            node_id=node_id(run, path),
            content_id=content_id(content),
            work_key=key,
            confidence=kept.confidence,
            origin=origin,
            narrowed=kept.narrowed,
            reused=kept.id,
        )

    def attempt(self, path: str) -> int:
        """The number of the attempt that gave a step's message, from 0."""
        kept = self.said.get(path)
        return 0 if kept is None else kept.attempt


@dataclass(frozen=True)
class Beginning:
    """What a new run that replays an earlier one begins with; ``state`` is None where its stack has no session."""

    past: Past
    input: Any
    state: Any
    seed: int


def begin(
    run: Earlier,
    stack: Stack[Any, Any],
    *,
    start: str | None = None,
    edits: Mapping[str, Any] | None = None,
    input: Any = None,
    state: Any = None,
) -> Beginning:
    """Work out what a new run takes of an earlier one.

    Args:
        start: the step from which all is done anew; None: where something is edited, what changes by it; else all.
        edits: the new values, JSON data, by ``step.field``; ``input.field`` and ``session.field`` among them. None for
            a ``step`` leaves it out.
        input: in place of the earlier run's; needed where that was not kept as it was.
        state: in place of the session's state that the earlier run read.

    Raises:
        UnknownNameError: no such step.
        UsageError: an edit names no field, or no place in the message; a step cannot be left out.
        InputError: the input, or the state, was not kept as it was and is not given.
    """
    edits = edits or {}
    known = [INPUT, *([SESSION] if stack.session else []), *run.steps, *(path for path, _ in places(stack))]
    by_step: dict[str, dict[str, Any]] = {}
    out = {name for name, value in edits.items() if value is None and name in known}
    _require_absent(stack, out)
    for name, value in edits.items():
        if name not in out:
            step, path = _parted(name, known)
            by_step.setdefault(step, {})[path] = value
    if start is not None:
        if start not in known:
            raise unknown_step(start, known, "replay")
        begins = _first(run.steps, [start])
    else:
        begins = _first(run.steps, by_step.keys() | out) if edits else 0
    anew = run.steps[begins:] if start is not None or not edits else ()
    given = _kept(run, INPUT, input, by_step.pop(INPUT, {}))
    if stack.session is not None:
        state = _kept(run, SESSION, state, by_step.pop(SESSION, {}))
    before = frozenset(run.steps[:begins]) - frozenset(run.steps[begins:])
    past = Past(run.id, run.said, before, frozenset(anew), by_step, frozenset(out))
    return Beginning(past, given, state, run.seed)


def _kept(run: Earlier, name: str, given: Any, edits: Mapping[str, Any]) -> Any:
    """What was kept of the input or the state, or what is given in its place, with what was edited in it."""
    if given is None:
        if name not in run.said:
            what, key = ("input", "input") if name == INPUT else ("session's state", "state")
            raise InputError(
                f"the run's {what} was not kept as it was",
                where=f"run {run.id}",
                found=f"kept as {run.kept}",
                hint=f"give the {what} anew (in Python `{key}=…`), and the run is replayed with it",
            )
        given = json.loads(run.said[name].json)
    if not edits:
        return given
    data = plain_data(given) if isinstance(given, BaseModel) else given
    return apply(data, edits, f"run {run.id}, {name}")


def _require_absent(stack: Stack[Any, Any], out: Iterable[str]) -> None:
    """See that what stands after a step can do without it, which its wiring says of a step that may be skipped.

    Raises:
        UsageError: it may never be.
    """
    skippable = {path for path, step in places(stack) if step.may_be_skipped}
    for name in sorted(out):
        if plain_path(name) not in skippable:
            raise UsageError(
                "the step cannot be left out: what comes after it counts on what it says",
                where="replay",
                found=name,
                expected=", ".join(sorted(skippable)) or "none of this stack's steps may be skipped",
                hint="edit its fields instead; a step may be left out if it has a `when`, or says on_error='skip'",
            )


def require_accepted(problems: Sequence[Problem], where: str) -> None:
    """See that no plugin's check refuses an edited message.

    Raises:
        InputError: one does.
    """
    if problems:
        raise InputError(
            "the edited message was refused by a check",
            where=where,
            found="; ".join(f"{p.source}: {p.text}" for p in problems[:3]),
            hint="choose a value that it accepts",
        )


def _parted(name: str, known: Iterable[str]) -> tuple[str, str]:
    """The step of an edit, the longest there is, and the field's path in its message."""
    steps = sorted((step for step in set(known) if name.startswith(f"{step}.")), key=len)
    if steps:
        return steps[-1], name[len(steps[-1]) + 1 :]
    if name in set(known):
        raise UsageError(
            "the edit names a step and no field of it", where="replay", found=name, hint=f"write {name}.FIELD=VALUE"
        )
    raise unknown_step(name.partition(".")[0], known, "replay")


def _first(order: Sequence[str], steps: Iterable[str]) -> int:
    """The place of the first node of any of these steps, or of a step within one; the end where none has any."""
    wanted = set(steps)
    if wanted & {INPUT, SESSION}:
        return 0
    heads = tuple(f"{step}{sign}" for step in wanted for sign in ".[")
    return next((n for n, path in enumerate(order) if path in wanted or path.startswith(heads)), len(order))


__all__ = ["Beginning", "Earlier", "Past", "Said", "begin", "of_run", "of_stored", "require_accepted"]
