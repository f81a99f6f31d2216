"""Scores of the stack on the held-out rows: before it is tuned, and after each round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import __version__
from ..engine import Engine
from ..errors import CheckError
from ..evaluate import Plan, Report, Work
from ..evaluate.gold import Cases
from ..folders import put_file
from ..message import digest
from ..plugins import PluginHost
from ..schema import dumps
from ..settings import Settings
from ..stack import Stack
from ..train import Noted, Working
from .progress import Progress
from .rows import Item, cases_of


def scored(
    stack: Stack[Any, Any],
    items: Sequence[Item],
    *,
    settings: Settings,
    host: PluginHost,
    seed: int,
    file: Path,
    progress: Progress,
) -> Report | None:
    """Score a stack step by step, fed with gold and fed with predictions; a report that is there is read.

    Args:
        settings: with the adapters that it is to run.
        file: for the report.

    Returns:
        The report; None where the stack as it is may not be run, which is told.
    """
    cases = cases_of(stack, items)
    with Engine(settings=settings, host=host, trace=False) as engine:
        try:
            origins = engine.origins(stack)
        except CheckError as error:
            progress(Noted(f"the stack cannot be scored as it is: {'; '.join(error.findings)}"))
            return None
        rows = dumps([[item.raw[part] for part in ("input", "output", "steps")] for item in items])
        made_by = [f"{name} {origin.fingerprint}" for name, origin in origins.items()]
        key = digest(__version__, rows, str(seed), *stack.plan(), *made_by)
        if (found := _read(file, key)) is not None:
            return found
        plan = Plan(stack, Cases(cases), data="the held-out rows", data_sha256=digest(rows))
        work = Work(plan, None, seed=seed, content="none", progress=lambda *told: progress(Working(*told)))
        report = work.report(engine)
    put_file(file, report.to_json())
    put_file(file.with_suffix(".key"), key)
    return report


def _read(file: Path, key: str) -> Report | None:
    try:
        if file.with_suffix(".key").read_text("utf-8") != key:
            return None
        return Report.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


__all__ = ["scored"]
