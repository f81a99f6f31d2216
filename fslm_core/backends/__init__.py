"""What turns prompts into text, by name. A backend's own packages are imported when it is made, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import UnknownNameError
from .protocol import Backend

if TYPE_CHECKING:
    from ..settings import Settings

Factory = Callable[["Settings"], Backend]


def _torch(settings: Settings) -> Backend:
    from .torch.backend import TorchBackend

    return TorchBackend(settings.torch)


def _openai(settings: Settings) -> Backend:
    from .openai import OpenAIBackend

    return OpenAIBackend(settings.openai)


BUILTIN: Mapping[str, Factory] = {"torch": _torch, "openai": _openai}


def create(name: str, settings: Settings, *, extra: Mapping[str, Factory] | None = None) -> Backend:
    """Make the backend called ``name``.

    Args:
        name: ``torch``, ``openai``, or a name in ``extra``. The built-in names cannot be taken.
        settings: each factory reads its own section.
        extra: what plugins offer.

    Raises:
        UnknownNameError: there is no such backend.
        MissingExtraError: its packages are not installed.
    """
    factories = {**(extra or {}), **BUILTIN}
    if name not in factories:
        raise UnknownNameError.of("backend", name, factories)
    return factories[name](settings)


__all__ = ["BUILTIN", "Factory", "create"]
