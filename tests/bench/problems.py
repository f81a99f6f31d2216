"""What is told to whoever asked for a benchmark that cannot be run."""

from __future__ import annotations


class BenchError(Exception):
    """One sentence that says what is wrong and what to do."""


__all__ = ["BenchError"]
