"""Find plugins, drop the blocked ones before anything is imported, load each alone, and know who owns what."""

from __future__ import annotations

from .finding import PluginInfo, State, normal
from .host import PluginHost
from .installed import Installed, Source
from .loading import Offers

__all__ = ["Installed", "Offers", "PluginHost", "PluginInfo", "Source", "State", "normal"]
