"""A plan as a distribution on disk: what the templates are told, and where the files go, all of them or none."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InternalError, MissingExtraError, UsageError, shorten
from ..folders import swap
from .answers import About, answers_of, preparing, training
from .naming import Names
from .plan import Plan

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Project:
    """A plugin that was written.

    Attributes:
        files: paths below its folder.
        next: the commands to type from here.
    """

    names: Names
    plan: Plan
    path: Path
    files: tuple[str, ...]
    next: tuple[str, ...]


def write_project(plan: Plan, names: Names, out: Path, about: About) -> Project:
    """Write a plugin into a new folder, whole or not at all.

    Raises:
        UsageError: something is there, or it cannot be written.
        MissingExtraError: the extra ``new`` is not installed.
    """
    place = Path(os.path.abspath(out))
    _require_free(place)
    run_copy = _copier()
    answers = answers_of(plan, names, about)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            for template in ("plugin", "classifier")[: 2 if plan.what == "tool" else 1]:
                _render(run_copy, TEMPLATES / template, made, answers)
            files = tuple(sorted(_finished(made)))
            swap(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"the plugin cannot be written: {error.strerror or error}",
            where=str(out),
            hint="choose another --dir, or make room there",
        ) from None
    return Project(names, plan, out, files, tuple(_next(plan, names, out)))


def _require_free(place: Path) -> None:
    if place.is_symlink() or (place.exists() and not (place.is_dir() and not any(place.iterdir()))):
        raise UsageError(
            "something is there already",
            where=str(place),
            expected="a folder that does not exist, or an empty one",
            hint="choose another --dir, or another name",
        )
    if Path.cwd().is_relative_to(place):
        raise UsageError(
            "a plugin is not written over the folder that the command runs in",
            where=str(place),
            hint="run it in the folder above",
        )


def _copier() -> Callable[..., Any]:
    try:
        from copier import run_copy
    except ImportError as error:
        raise MissingExtraError(
            "new plugins are written by copier, which is not installed",
            where="fslm new",
            found=str(error),
            hint="run `python -m pip install 'fslm-core[new]'`",
        ) from None
    return run_copy


def _render(run_copy: Callable[..., Any], template: Path, out: Path, answers: dict[str, Any]) -> None:
    how = {"cleanup_on_error": False, "defaults": True, "overwrite": True, "quiet": True, "unsafe": False}
    try:
        run_copy(str(template), out, answers, **how)
    except OSError:
        raise
    except Exception as error:  # of the template, of Jinja or of copier's own settings: nobody foresaw it
        raise InternalError(
            f"copier could not fill in a template: {type(error).__name__}: {shorten(str(error))}",
            where=template.name,
            hint="see that copier's own settings file is right; else report it with the command",
        ) from error


def _finished(folder: Path) -> Iterator[str]:
    """Give new files and folders the usual rights, whatever those of the templates are; yields the files' paths.

    Letters that look like others are what the rows have: a linter shall not mind them.
    """
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_dir():
            continue
        if path.suffix == ".py" and not (source := path.read_text(encoding="utf-8")).isascii():
            path.write_text(f"# ruff: noqa: RUF001, RUF002, RUF003, RUF100\n{source}", encoding="utf-8")
        yield path.relative_to(folder).as_posix()


def _next(plan: Plan, names: Names, out: Path) -> Iterator[str]:
    """The next three commands."""
    place = str(out)
    extras = "[test,train,eval]" if plan.draft else "[test]"
    yield shlex.join(["python", "-m", "pip", "install", "-e", os.path.join(".", place) + extras])
    if plan.draft is None:
        yield shlex.join(["fslm", "check", names.name])
        yield shlex.join(["python", "-m", "pytest", place])
        return
    yield shlex.join(preparing(plan, names, str(plan.draft.path), os.path.join(place, "data")))
    words = training(plan)[0].split()
    yield shlex.join([os.path.join(place, word) if "/" in word else word for word in words])


__all__ = ["TEMPLATES", "Project", "write_project"]
