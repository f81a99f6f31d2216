"""The pages that only read: the list, a run, two runs beside each other, what is to blame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..errors import FslmError, UnknownNameError, UsageError
from ..explain.difference import compare_runs
from .desk import Desk
from .flow import flow, page_of
from .listing import ROWS, SINCE, STATUSES, Wanted, newest, search
from .live import pulse_of

if TYPE_CHECKING:
    from ..evaluate.blaming import Blame


def runs(desk: Desk, request: Request) -> Response:
    """The newest runs, or the messages that hold some words."""
    wanted = Wanted.of(request.query_params)
    known: dict[str, Any] = {
        "wanted": wanted,
        "stacks": desk.store.stacks(),
        "statuses": STATUSES,
        "ages": SINCE,
        "error": None,
        "found": None,
        "rows": (),
        "glimpses": {},
        "older": None,
        "pulse": None,
    }
    if wanted.q:
        try:
            known["found"], until = search(desk.store, wanted)
        except FslmError as error:
            return desk.page("runs.html", 400, **{**known, "found": [], "error": error})
        known["older"] = None if until is None else wanted.address(until=round(until, 4))
        return desk.page("runs.html", **known)
    rows = newest(desk.store, wanted, ROWS + 1)
    known["rows"] = rows[:ROWS]
    known["glimpses"] = desk.store.glimpses([row.id for row in rows[:ROWS]])
    known["older"] = wanted.address(before=rows[ROWS - 1].id) if len(rows) > ROWS else None
    known["pulse"] = None if wanted.before else pulse_of(rows[:ROWS])
    return desk.page("runs.html", **known)


def run(desk: Desk, request: Request) -> Response:
    """A run, a page of its steps at a time; an id that was cut short leads to the whole one."""
    name = request.path_params["run"]
    return run_page(desk, name, page_of(request.query_params)) or RedirectResponse(
        f"/runs/{desk.store.outline(name).row.id}", 303
    )


def run_page(
    desk: Desk,
    name: str,
    page: int,
    *,
    step: str | None = None,
    form: Mapping[str, str] | None = None,
    error: FslmError | None = None,
) -> Response | None:
    """A run's page; None where ``name`` is not its whole id.

    Args:
        step: the path of a step whose form was sent in vain; ``form`` is what stood in it, ``error`` what came of it.
    """
    found = flow(desk.store, name, page)
    if found.run.row.id != name:
        return None
    status = 200 if error is None else 422
    return desk.page("run.html", status, flow=found, run=found.run, step=step, form=form or {}, error=error)


def diff(desk: Desk, request: Request) -> Response:
    """Two runs beside each other."""
    names = [name for name in request.query_params.getlist("run") if name.strip()]
    if len(names) != 2:
        raise UsageError(
            "a comparison needs two runs",
            where="the address",
            found=f"{len(names)} of them",
            hint="tick two runs of the list, then `Compare`",
        )
    before, after = (desk.store.run(name.strip()) for name in names)
    return desk.page("diff.html", found=compare_runs(before, after), before=before, after=after)


def blame(desk: Desk, request: Request) -> Response:
    """What `fslm blame` found, as a plot, with the rows that came out wrong."""
    if desk.blame is None:
        raise UnknownNameError(
            "no blame is shown here",
            where="fslm ui",
            hint="write one with `fslm blame … --json`, then `fslm ui --blame FILE`",
        )
    return desk.page("blame.html", found=read_blame(desk))


def read_blame(desk: Desk) -> Blame:
    """The file, read anew each time: it may have been written again.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    from ..evaluate.blaming import Blame  # the engine comes with it

    assert desk.blame is not None
    try:
        return Blame.model_validate_json(desk.blame.read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise UsageError(
            "the file is not what `fslm blame --json` writes",
            where=str(desk.blame),
            found=found,
            hint=f"fslm blame STACK DATA --json > {desk.blame.name}",
        ) from None


__all__ = ["blame", "diff", "read_blame", "run", "run_page", "runs"]
