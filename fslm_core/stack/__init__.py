"""Typed arrangements of steps: where each field comes from, when a step runs, and whether it all fits.

A field with exactly one supplier is wired by itself; with several, the check refuses and prints the ``bind`` lines to
choose from. What stands at a step is a stage or a :class:`Shape`; a :class:`Stack` is the first of these, the others
are in :mod:`fslm_core.shapes`. Nothing here loads a weight.
"""

from __future__ import annotations

from .fitting import fits
from .known import Known, fetch, seen
from .shape import FAILURES, Arrow, Node, OnError, Place, Result, Shape, Step, output_of, places, stages_of
from .stack import Stack
from .together import each, together
from .wiring import INPUT, OUTPUT, SESSION, Source, Supplier, Target, Wiring, annotation_at, condition_of, labels_at

__all__ = [
    "FAILURES",
    "INPUT",
    "OUTPUT",
    "SESSION",
    "Arrow",
    "Known",
    "Node",
    "OnError",
    "Place",
    "Result",
    "Shape",
    "Source",
    "Stack",
    "Step",
    "Supplier",
    "Target",
    "Wiring",
    "annotation_at",
    "condition_of",
    "each",
    "fetch",
    "fits",
    "labels_at",
    "output_of",
    "places",
    "seen",
    "stages_of",
    "together",
]
