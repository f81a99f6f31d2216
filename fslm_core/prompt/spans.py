"""What a rendered prompt is made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["system", "user"]
ROLES: tuple[Role, ...] = ("system", "user")
REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt.

    Attributes:
        text: the piece itself.
        role: whose turn it belongs to.
        static: True only for text the template wrote itself.
        field: the input field a data span came from, or None where it cannot be told.
    """

    text: str
    role: Role
    static: bool = True
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: spans in order, the system's turn before the user's."""

    spans: tuple[Span, ...]

    def text(self, role: Role) -> str | None:
        """Return one turn as text, or None if the template has no such turn."""
        parts = [s.text for s in self.spans if s.role == role]
        return "".join(parts) if parts else None

    @property
    def turns(self) -> list[tuple[Role, str]]:
        """The turns there are, as (role, text)."""
        return [(role, text) for role in ROLES if (text := self.text(role)) is not None]

    @property
    def static(self) -> Prompt:
        """The prompt without its data: what every run of the stage shares."""
        return Prompt(tuple(s for s in self.spans if s.static))

    def redacted(self, sensitive: Collection[str]) -> Prompt:
        """Return a copy in which data of ``sensitive`` fields, and data of unknown origin, is blanked.

        Nothing is blanked where ``sensitive`` is empty.
        """
        if not sensitive:
            return self
        hide = {s for s in self.spans if not s.static and (s.field is None or s.field in sensitive)}
        return Prompt(tuple(replace(s, text=REDACTED) if s in hide else s for s in self.spans))


__all__ = ["REDACTED", "ROLES", "Prompt", "Role", "Span"]
