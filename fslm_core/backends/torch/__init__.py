"""The in-process backend. Nothing here is imported until a model is wanted; torch itself comes with it."""

from __future__ import annotations
