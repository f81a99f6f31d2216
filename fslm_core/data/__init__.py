"""Labelled rows: read from tables, checked against a stage or a stack, and divided into train, dev and test."""

from __future__ import annotations

from .columns import parse_mapping
from .prepare import Options, Prepared, prepare
from .rows import Rejected, Row, read_rows
from .table import Reading
from .target import Target

__all__ = ["Options", "Prepared", "Reading", "Rejected", "Row", "Target", "parse_mapping", "prepare", "read_rows"]
