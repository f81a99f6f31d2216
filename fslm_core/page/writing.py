"""What the page changes: a label of a message, a correction of it, a replay of a run with a message edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..errors import EngineStateError, FslmError, RunFailed, UnknownNameError, UsageError
from ..explain.tree import path_of
from ..serve.asgi import while_connected
from ..stack import INPUT
from ..store import StoredContent, StoredRun
from .desk import Desk
from .editing import changed
from .flow import anchor_of, page_of
from .reading import run_page


async def replay(desk: Desk, request: Request) -> Response:
    """Replay a run with what a card's form says, and go to the new run; what is wrong is told at the card."""
    name, form = request.path_params["run"], await desk.form(request)
    step = form.get("step", "")
    try:
        if desk.replayer is None:
            raise EngineStateError("no engine replays here", where="fslm ui", hint="use `fslm trace replay`")
        stored = await run_in_threadpool(desk.store.outline, name)
        again = form.get("do") == "again"
        edits = {} if again else await run_in_threadpool(_edits, desk, stored.row.id, step, form)
        start = step if again and step != INPUT else None
        made = await while_connected(request.receive, desk.replayer.replay(stored.row.id, start=start, edits=edits))
        if made is None:
            return Response(status_code=499)  # whoever asked has gone
        return RedirectResponse(f"/runs/{made.id}", 303)
    except RunFailed as failed:
        if failed.run.parent is not None:
            return RedirectResponse(f"/runs/{failed.run.id}", 303)
        error: FslmError = failed
    except FslmError as refused:
        error = refused
    return await run_in_threadpool(_in_place, desk, name, step, form, error)


def label(desk: Desk, name: str, form: Mapping[str, str]) -> Response:
    """Say of a message that it is right or wrong, or write what would have been, or take that back."""
    step, what, note = form.get("step", ""), form.get("do", ""), form.get("note", "").strip()
    try:
        if what in ("right", "wrong"):
            desk.store.label(name, step, right=what == "right", note=note)
        elif what == "unlabel":
            desk.store.unlabel(name, step)
        elif what == "fix":
            run = desk.store.run(name, nodes=_nodes(desk, name, step))
            content = _content(run, step)
            correction = {**content.data, **changed(content, form)}
            desk.store.label(name, step, correction=correction, note=note, stack=desk.stacks(run.row.stack))
        else:
            raise UsageError(
                "that is no label",
                where="the form",
                found=what,
                expected="right, wrong, fix or unlabel",
                hint="press one of the card's buttons",
            )
    except FslmError as error:
        return _in_place(desk, name, step, form, error)
    return RedirectResponse(f"/runs/{quote(name)}?page={page_of(form)}#{quote(anchor_of(step))}", 303)


def _in_place(desk: Desk, name: str, step: str, form: Mapping[str, str], error: FslmError) -> Response:
    shown = run_page(desk, name, page_of(form), step=step, form=form, error=error)
    return shown or desk.page("error.html", 400, error=error)


def _edits(desk: Desk, run: str, step: str, form: Mapping[str, str]) -> dict[str, Any]:
    """The edits that a form asks for, by the paths that :meth:`~fslm_core.engine.Engine.replay` takes.

    Raises:
        UsageError: nothing was changed, or the message cannot be edited.
    """
    content = _content(desk.store.run(run, nodes=() if step == INPUT else _nodes(desk, run, step)), step)
    found = {f"{step}.{name}": value for name, value in changed(content, form).items()}
    if not found:
        raise UsageError(
            "nothing was changed",
            where=f"run {run}, step {step}",
            hint="change a field, or press `Do again from here`",
        )
    return found


def _nodes(desk: Desk, run: str, step: str) -> list[str]:
    return [node.id for node in desk.store.outline(run).nodes if path_of(node) == step]


def _content(run: StoredRun, step: str) -> StoredContent:
    """What a step said.

    Raises:
        UnknownNameError: the run has no such step.
        UsageError: its message was not kept as it was, or has no fields.
    """
    nodes = [node for node in run.nodes if path_of(node) == step]
    content = run.input if step == INPUT else nodes[-1].content if nodes else None
    if content is None and not nodes:
        raise UnknownNameError(f"there is no step {step!r}", where=f"run {run.row.id}", hint="load the page again")
    if content is None or content.kind != "full" or not isinstance(content.data, dict):
        raise UsageError(
            "the message cannot be edited: it was not kept as it was, or has no fields",
            where=f"run {run.row.id}, step {step}",
            hint="keep runs with trace.content = 'full', or use `fslm trace replay --input`",
        )
    return content


__all__ = ["label", "replay"]
