"""Labelled rows: read from tables, checked against a stage or a stack, and divided into train, dev and test."""

from __future__ import annotations

from .rows import Rejected, Row, read_rows
from .table import Reading
from .target import Target

__all__ = ["Reading", "Rejected", "Row", "Target", "read_rows"]
