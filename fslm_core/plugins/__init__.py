"""Find plugins, drop the blocked ones before anything is imported, load each alone, and know who owns what."""

from __future__ import annotations

from .finding import PluginInfo, State
from .host import PluginHost

__all__ = ["PluginHost", "PluginInfo", "State"]
