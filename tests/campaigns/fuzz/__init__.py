"""Hostile input by the hundred thousand: every door through which foreign text or files come in.

``python -m tests.campaigns.fuzz --seconds 60 --target all --json fuzz.json`` gives each target a process of its own,
where atheris (coverage guided, if it is installed) or plain mutation feeds it. A target raises only where there is a
defect: an error that is not fslm's own, or not of the class its door promises. A crash, a hang, or memory without
bound ends the process, which is told too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Try = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One door.

    Attributes:
        name: what the command line calls it.
        attempt: takes one input; raises only where there is a defect.
        seeds: inputs to begin with, made by the program.
        words: pieces that a mutation may put in.
        torch: it needs the extra fslm-core[torch].
        slow: one input takes milliseconds; fewer are tried in the tests.
    """

    name: str
    attempt: Try
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    torch: bool = False
    slow: bool = False


def targets() -> dict[str, Target]:
    """Every target by name."""
    from . import definitions, files, texts, traces

    found = [*texts.TARGETS, *definitions.TARGETS, *files.TARGETS, *traces.TARGETS]
    return {target.name: target for target in found}


__all__ = ["Target", "targets"]
