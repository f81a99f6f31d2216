"""Settings that no file and no variable of the machine has a say in, but for where its models lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import settings
from ..errors import SettingsError
from ..settings import Settings


def clean_settings(data_dir: Path, **changes: Any) -> Settings:
    """The defaults, with data in ``data_dir``; the folder of downloaded models stays the machine's own.

    Args:
        data_dir: where traces go.
        changes: fields to set otherwise, as in ``clean_settings(tmp_path, backend="mine")``.

    >>> clean_settings(Path("data"), profile="gpu").trace_path.as_posix()
    'data/trace.db'
    """
    shared = machine()
    fields = {"cache_dir": shared.cache_dir, "offline": shared.offline, "data_dir": data_dir, **changes}
    return Settings.model_construct(**fields)


def machine() -> Settings:
    """The settings as the machine has them; the defaults where they cannot be read."""
    try:
        return settings.load()
    except SettingsError:
        return Settings.model_construct()


__all__ = ["clean_settings", "machine"]
