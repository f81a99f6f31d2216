"""What to say where OpenTelemetry's API is wanted and not installed."""

from __future__ import annotations

import sys

from ..errors import MissingExtraError


def missing(what: str) -> MissingExtraError:
    """The error of something (a sentence's beginning, as in "spans of runs need") that cannot be had without it."""
    return MissingExtraError(
        f"{what} opentelemetry-api",
        where=sys.executable,
        found="without opentelemetry",
        expected="the extra [otel]",
        hint="run `python -m pip install 'fslm-core[otel]'` with this Python",
    )


__all__ = ["missing"]
