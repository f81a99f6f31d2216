"""Files that are committed beside the tests and must not change unannounced: schemas and golden token ids.

A file that is missing or differs fails the test; ``pytest --fslm-update`` writes it anew, and pytest's summary then
says what changed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..schema import tree_of
from ..stack import Stack
from ..stage import Stage
from .broken import ContractBroken, shown

_SHOWN = 40
"""Lines of a difference that are shown."""


@dataclass(frozen=True)
class Kept:
    """Compares what a test finds with the file that was committed; or, when asked to update, writes it.

    Attributes:
        update: whether files are written.
        command: what a person types to have them written.
        tell: gets a line for each file that was written.
    """

    update: bool
    command: str
    tell: Callable[[str], None]

    def check(self, path: Path, found: str, *, what: str, hint: str) -> None:
        """Compare ``found`` with what the file at ``path`` holds.

        Args:
            what: what the file holds, for the error's text.
            hint: what to do about a difference that is meant.

        Raises:
            ContractBroken: the file is missing or holds something else.
        """
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == found:
            return
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found, encoding="utf-8")
            self.tell(f"{shown(path)}: {'new' if before is None else 'changed'}")
            return
        if before is None:
            raise ContractBroken(
                f"{what} has no snapshot", where=shown(path), hint=f"write it with `{self.command}`, and commit it"
            )
        raise ContractBroken(
            f"{what} changed\n{difference(before, found)}",
            where=shown(path),
            hint=f"undo the change; or, if it is meant: {hint}, then `{self.command}`",
        )


def difference(before: str, found: str) -> str:
    """Two texts as a unified diff of at most 40 lines.

    >>> print(difference("a\\nb", "a\\nc"))
      -b
      +c
    """
    lines = list(difflib.unified_diff(before.splitlines(), found.splitlines(), lineterm="", n=0))[2:]
    shown = [f"  {line}" for line in islice((line for line in lines if not line.startswith("@@")), _SHOWN)]
    left = sum(not line.startswith("@@") for line in lines) - len(shown)
    return "\n".join([*shown, *([f"  … and {left} lines more"] if left > 0 else [])])


def schema_text(thing: Stage[Any, Any] | Stack[Any, Any]) -> str:
    """The schemas of what a stage or stack takes and gives, as the text of a snapshot."""
    kind = "stage" if isinstance(thing, Stage) else "stack"
    return as_text({kind: thing.name, "input": tree_of(thing.input), "output": tree_of(thing.output)})


def as_text(data: object) -> str:
    """JSON data as a file that people compare."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def schema_path(folder: Path, thing: Stage[Any, Any] | Stack[Any, Any]) -> Path:
    """Where a snapshot of schemas lies.

    Args:
        folder: the folder of the tests.
    """
    return folder / "snapshots" / f"{thing.name}{'' if isinstance(thing, Stage) else '.stack'}.schema.json"


def write_snapshots(
    folder: Path, *, stages: Iterable[Stage[Any, Any]] = (), stacks: Iterable[Stack[Any, Any]] = ()
) -> list[Path]:
    """Write the snapshots of schemas, as ``pytest --fslm-update`` would.

    Args:
        folder: the folder of the tests.

    Returns:
        The files.
    """
    things: list[Stage[Any, Any] | Stack[Any, Any]] = [*stages, *stacks]
    written = [schema_path(folder, thing) for thing in things]
    for path, thing in zip(written, things, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(schema_text(thing), encoding="utf-8")
    return written


__all__ = ["Kept", "as_text", "difference", "schema_path", "schema_text", "write_snapshots"]
