"""Preference tuning: from an adapter and pairs of a better and a worse answer to a better adapter."""

from __future__ import annotations

from .samples import sample_pairs
from .tuning import PACKAGES, prefer

__all__ = ["PACKAGES", "prefer", "sample_pairs"]
