"""What people say of messages, for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..store import Label
from .drawing import clip, compact, plain


def drawn(label: Label, full: bool = False) -> Text:
    """A label in a line."""
    said = Text("right", style="bold green") if label.right else Text("wrong", style="bold red")
    if label.correction is not None:
        said = Text.assemble(said, ", it should have been ", plain(clip(compact(label.correction), full)))
    return Text.assemble(said, "; ", plain(clip(label.note, full))) if label.note else said


def in_words(label: Label) -> str:
    """A label as plain text."""
    return drawn(label).plain


def labels_table(labels: Iterable[Label]) -> RenderableType:
    """Labels as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", no_wrap=True, min_width=26)
    table.add_column("labelled", no_wrap=True)
    table.add_column("step", overflow="fold")
    table.add_column("label", overflow="fold")
    for label in labels:
        when = datetime.fromtimestamp(label.when).strftime("%m-%d %H:%M:%S")
        table.add_row(plain(label.run), when, plain(label.step), drawn(label))
    return table


__all__ = ["drawn", "in_words", "labels_table"]
