"""A report as a folder: there whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..folders import put_whole
from .render import plots, to_html, to_markdown
from .results import Report

FILES = ("report.md", "report.html", "report.json", "errors.jsonl")


def may_write(folder: Path, *, force: bool) -> None:
    """See that a report can take this place, before anything is run.

    Raises:
        UsageError: something is there, and ``force`` is not given or it is no report.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not force:
        raise UsageError(
            "the report's folder exists", where=str(folder), hint="choose another --out, or pass --force to replace it"
        )
    if not folder.is_dir() or folder.is_symlink() or not _is_report(folder):
        raise UsageError(
            "--force replaces a report alone, and this is none",
            where=str(folder),
            expected="a folder that holds report.json and what else `fslm eval` writes",
            hint="choose another --out",
        )


def _is_report(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or ("report.json" in names and names <= {*FILES, "plots"})


def write_report(report: Report, folder: Path, *, force: bool = False) -> None:
    """Write ``report.md``, ``report.html``, ``report.json``, ``errors.jsonl`` and ``plots/*.svg``.

    Raises:
        UsageError: something is there already, or it cannot be written.
    """
    may_write(folder, force=force)
    try:
        put_whole(folder, _files(report))
    except OSError as error:
        raise UsageError(
            f"the report cannot be written: {error.strerror}", where=str(folder), hint="name another folder with --out"
        ) from None


def _files(report: Report) -> dict[str, str]:
    drawn = plots(report)
    return {
        "report.md": to_markdown(report),
        "report.html": to_html(report, drawn),
        "report.json": report.to_json(),
        "errors.jsonl": "".join(wrong.model_dump_json() + "\n" for wrong in report.errors),
        **{f"plots/{plot.name}.svg": plot.file for plot in drawn},
    }


__all__ = ["FILES", "may_write", "write_report"]
