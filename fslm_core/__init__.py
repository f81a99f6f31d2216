"""Stacks of small, fine-tuned language models: build, test and ship them; every step typed, traced and correctable.

The public names are imported when they are first used; importing this package imports neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints import Checkpoint, Folder, HubRepo, WheelFile
    from .engine import Engine, Outcome, Report, Run, check_stack
    from .errors import FslmError
    from .events import Event
    from .hooks import hookimpl
    from .message import Message, Problem, Usage
    from .plugins import PluginHost
    from .settings import Settings
    from .stack import Stack, Step
    from .stage import SLM, Decoding, Scored, Stage, files, tool

_HOMES = {
    "Checkpoint": "checkpoints",
    "Decoding": "stage",
    "Engine": "engine",
    "Event": "events",
    "Folder": "checkpoints",
    "FslmError": "errors",
    "HubRepo": "checkpoints",
    "Message": "message",
    "Outcome": "engine",
    "PluginHost": "plugins",
    "Problem": "message",
    "Report": "engine",
    "Run": "engine",
    "SLM": "stage",
    "Scored": "stage",
    "Settings": "settings",
    "Stack": "stack",
    "Stage": "stage",
    "Step": "stack",
    "Usage": "message",
    "WheelFile": "checkpoints",
    "check_stack": "engine",
    "files": "stage",
    "hookimpl": "hooks",
    "tool": "stage",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = [
    "SLM",
    "Checkpoint",
    "Decoding",
    "Engine",
    "Event",
    "Folder",
    "FslmError",
    "HubRepo",
    "Message",
    "Outcome",
    "PluginHost",
    "Problem",
    "Report",
    "Run",
    "Scored",
    "Settings",
    "Stack",
    "Stage",
    "Step",
    "Usage",
    "WheelFile",
    "check_stack",
    "files",
    "hookimpl",
    "tool",
]
