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
    from .shapes import (
        Again,
        Agent,
        Ask,
        BestOf,
        Cascade,
        Fallback,
        Instead,
        Map,
        Reduce,
        Repair,
        Repeat,
        Route,
        Split,
        Vote,
    )
    from .stack import Stack, Step
    from .stage import SLM, Decoding, Scored, Stage, files, tool
    from .store import Sessions


_HOMES = {
    "Again": "shapes",
    "Agent": "shapes",
    "Ask": "shapes",
    "BestOf": "shapes",
    "Cascade": "shapes",
    "Checkpoint": "checkpoints",
    "Decoding": "stage",
    "Engine": "engine",
    "Event": "events",
    "Fallback": "shapes",
    "Folder": "checkpoints",
    "FslmError": "errors",
    "HubRepo": "checkpoints",
    "Instead": "shapes",
    "Map": "shapes",
    "Message": "message",
    "Outcome": "engine",
    "PluginHost": "plugins",
    "Problem": "message",
    "Reduce": "shapes",
    "Repair": "shapes",
    "Repeat": "shapes",
    "Report": "engine",
    "Route": "shapes",
    "Run": "engine",
    "SLM": "stage",
    "Scored": "stage",
    "Sessions": "store",
    "Settings": "settings",
    "Split": "shapes",
    "Stack": "stack",
    "Stage": "stage",
    "Step": "stack",
    "Usage": "message",
    "Vote": "shapes",
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
    "Again",
    "Agent",
    "Ask",
    "BestOf",
    "Cascade",
    "Checkpoint",
    "Decoding",
    "Engine",
    "Event",
    "Fallback",
    "Folder",
    "FslmError",
    "HubRepo",
    "Instead",
    "Map",
    "Message",
    "Outcome",
    "PluginHost",
    "Problem",
    "Reduce",
    "Repair",
    "Repeat",
    "Report",
    "Route",
    "Run",
    "Scored",
    "Sessions",
    "Settings",
    "Split",
    "Stack",
    "Stage",
    "Step",
    "Usage",
    "Vote",
    "WheelFile",
    "check_stack",
    "files",
    "hookimpl",
    "tool",
]
