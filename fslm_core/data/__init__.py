"""Labelled rows: read from tables, checked against a stage or a stack, divided into train, dev and test, cleaned."""

from __future__ import annotations

from .cleaning import Cleaned, Rules, clean, clean_file
from .columns import parse_mapping
from .prepare import Options, Prepared, prepare
from .rows import Rejected, Row, read_rows
from .table import Reading
from .target import Target

__all__ = [
    "Cleaned",
    "Options",
    "Prepared",
    "Reading",
    "Rejected",
    "Row",
    "Rules",
    "Target",
    "clean",
    "clean_file",
    "parse_mapping",
    "prepare",
    "read_rows",
]
