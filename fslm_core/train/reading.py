"""Recipes as TOML files: read, with paths that are relative to the file and keys that a command line overrides."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..checkpoints.definitions import is_folder
from ..errors import TrainError

Paths = Sequence[tuple[str, ...]]
R = TypeVar("R", bound=BaseModel)


def read_toml(path: Path, kind: type[R], paths: Paths, overrides: Iterable[str] = ()) -> R:
    """Read a TOML file as a model.

    Args:
        paths: the dotted keys that hold paths, or checkpoints' names; ``*`` is any section. Paths in the file are
            relative to it, those of overrides to the current folder.

    Raises:
        TrainError: no such file, not TOML, an unknown key, a value out of range; all problems are listed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(
            f"the recipe cannot be read: {error.strerror}",
            where=str(path),
            hint="give the path of a recipe, such as a plugin's train/NAME.toml",
        ) from None
    except (ValueError, RecursionError) as error:
        raise TrainError(
            f"the recipe is not TOML: {error}", where=str(path), hint='mend that line: text is written key = "text"'
        ) from None
    _resolve_paths(raw, paths, path.parent.resolve())
    for override in overrides:
        _set(raw, override)
    _resolve_paths(raw, paths, Path.cwd())
    return as_model(raw, kind, where=str(path))


def as_model(raw: Mapping[str, Any], kind: type[R], *, where: str, prefix: str = "") -> R:
    """Check what a recipe says.

    Args:
        prefix: goes before the keys that are named.

    Raises:
        TrainError: with the first five problems.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        listed = [
            f"{prefix}{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors(include_url=False)
        ]
        raise TrainError(
            f"the recipe has {len(listed)} problem{'s' * (len(listed) > 1)}",
            where=where,
            found="; ".join(listed[:5]),
            hint="see the recipe reference in docs/training.md",
        ) from None


def _resolve_paths(raw: Mapping[str, Any], paths: Paths, folder: Path) -> None:
    for *sections, key in paths:
        for place in _places(raw, sections):
            given = place.get(key)
            if isinstance(given, str):
                place[key] = _resolved(key, given, folder)
            elif isinstance(given, list):
                place[key] = [_resolved(key, path, folder) if isinstance(path, str) else path for path in given]


def _places(raw: Any, sections: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The sections of these names; ``*`` stands for every name."""
    if not isinstance(raw, dict):
        return
    if not sections:
        yield raw
        return
    first, *rest = sections
    for section in raw.values() if first == "*" else [raw.get(first)]:
        yield from _places(section, rest)


def _resolved(key: str, given: str, folder: Path) -> str:
    """A path from ``folder`` on; a checkpoint's name, which ``base`` may be, as it is."""
    if key == "base":
        if not is_folder(given):
            return given
        given = os.path.expanduser(given)
    return os.path.normpath(folder / given)


def _set(raw: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise TrainError(
            "an override is written key=value",
            where="--set",
            found=override,
            hint="such as --set data.train=rows.jsonl",
        )
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        value = text
    *sections, key = name.strip().split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise TrainError(
                "an override goes through a key that is no section",
                where="--set",
                found=override,
                hint="write section.key=value, such as --set optim.epochs=3",
            )
    place[key] = value


__all__ = ["Paths", "as_model", "read_toml"]
