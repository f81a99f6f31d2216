"""A report as a folder: there whole, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from ..errors import UsageError
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
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        _fill(report, fresh)
        if folder.exists():
            old = folder.with_name(f"{fresh.name}.old")
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    except OSError as error:
        raise UsageError(
            f"the report cannot be written: {error.strerror}", where=str(folder), hint="name another folder with --out"
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fill(report: Report, folder: Path) -> None:
    drawn = plots(report)
    texts = {
        "report.md": to_markdown(report),
        "report.html": to_html(report, drawn),
        "report.json": report.to_json(),
        "errors.jsonl": "".join(wrong.model_dump_json() + "\n" for wrong in report.errors),
    }
    (folder / "plots").mkdir()
    texts |= {f"plots/{plot.name}.svg": plot.file for plot in drawn}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


__all__ = ["FILES", "may_write", "write_report"]
