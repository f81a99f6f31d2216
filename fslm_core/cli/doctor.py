"""``fslm doctor``: what fslm found on this machine, and what to do about what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import FslmError
from . import checkup, screen
from .checkup import Finding, Row, Section
from .session import session_of

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Say what fslm found on this machine, what is wrong with it, and what to do next.

    The exit code is 0 whatever is wrong: it reports, it does not judge. With --json, `problems` is a list, empty where
    all is well.
    """
    session = session_of(ctx)
    found: list[Finding] = []
    sections: dict[str, list[Row]] = {}
    looks: dict[str, Callable[[], Section]] = {
        "machine": checkup.machine,
        "torch": checkup.torch,
        "settings": lambda: checkup.places(session),
        "models": lambda: checkup.models(session),
        "plugins": lambda: checkup.plugins(session),
        "versions": lambda: checkup.versions(session.settings.backend),
    }
    for name, look in looks.items():
        sections[name] = _rows(look, found)
    found = list(dict.fromkeys(found))  # wrong settings end several sections, with one and the same error
    problems = [finding for finding in found if finding.serious]
    notes = [finding for finding in found if not finding.serious]
    if as_json:
        data: dict[str, Any] = {name: dict(rows) for name, rows in sections.items()}
        data["problems"], data["notes"] = _as_data(problems), _as_data(notes)
        screen.result(screen.as_json(data))
        return
    for name, rows in sections.items():
        screen.result(name)
        for key, value in rows:
            screen.result(screen.clean(f"  {key:<18}{value}"))
    _print("good to know", notes)
    _print("problems", problems, otherwise="none")


def _rows(look: Callable[[], Section], found: list[Finding]) -> list[Row]:
    """A section's rows; its findings, and an error that ends it, go to ``found``: a doctor does not fall ill."""
    rows: list[Row] = []
    try:
        for item in look():
            if isinstance(item, Finding):
                found.append(item)
            else:
                rows.append(item)
    except FslmError as error:
        found.append(Finding(f"{error.where}: {error.what}" if error.where else error.what, error.hint or "see above"))
    return rows


def _as_data(findings: list[Finding]) -> list[dict[str, str]]:
    return [{"what": finding.what, "next": finding.next} for finding in findings]


def _print(title: str, findings: list[Finding], *, otherwise: str = "") -> None:
    if not findings and not otherwise:
        return
    screen.result(title)
    for finding in findings:
        screen.result(screen.clean(f"  {' '.join(finding.what.split())}\n    next: {' '.join(finding.next.split())}"))
    if not findings:
        screen.result(f"  {otherwise}")


__all__ = ["app"]
