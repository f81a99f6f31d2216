"""Every figure has a name: what ``--fail-under`` takes, and how the names are made.

``exact``, ``valid``, ``FIELD.accuracy`` (or just ``FIELD``), ``FIELD.f1``, ``FIELD.LABEL.recall``; the same of a step
below ``steps.STEP.gold_fed`` and ``steps.STEP.predicted_fed``; of the rows that share a value, below
``by.COLUMN.VALUE``. The output model's name in lower case means ``exact``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..stack import Stack
from .fields import FieldSpec
from .results import LOWER_IS_BETTER, NO_SCORE, Interval, Requirement, SliceReport, StepReport, ViewReport

_OF_KIND = {
    "label": ("accuracy", "f1", "micro_f1"),
    "text": ("accuracy", "f1", "normalised", "filled", "verbatim"),
    "number": ("accuracy",),
    "list": ("accuracy", "f1"),
    "other": ("accuracy",),
}
_OF_LABEL = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Known:
    """The names a data set and a stack have figures for, before anything was run.

    Attributes:
        main: those worth listing.
        every: all of them.
        aliases: short names, and what they mean.
    """

    main: tuple[str, ...]
    every: frozenset[str]
    aliases: Mapping[str, str]

    def read(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Resolve short names.

        Raises:
            UsageError: a name that means nothing, or a value that is no share.
        """
        found: dict[str, float] = {}
        for name, value in wanted.items():
            full = name if name in self.every else self.aliases.get(name)
            if full is None:
                near = difflib.get_close_matches(name, [*self.every, *self.aliases], n=3, cutoff=0.6)
                raise UsageError(
                    f"there is no metric named {name!r}",
                    where="--fail-under",
                    expected="one of " + ", ".join(self.main) + "; or FIELD.LABEL.precision, .recall or .f1",
                    hint=f"did you mean {' or '.join(repr(n) for n in near)}?" if near else "take one of these",
                )
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise UsageError(
                    "a metric cannot be this",
                    where=name,
                    found=value,
                    expected="0 to 1",
                    hint="write a share, as in --fail-under exact=0.9",
                )
            found[full] = value
        return found


def known_names(
    stack: Stack[Any, Any],
    output: Sequence[FieldSpec],
    steps: Mapping[str, Sequence[FieldSpec]],
    slices: Mapping[str, Iterable[str]],
) -> Known:
    """Name every figure there will be.

    Args:
        steps: for each step whose gold is known, its fields.
        slices: for each column, its values.
    """
    main = list(_view_names(output, labels=False))
    every = [*_view_names(output, labels=True)]
    for step, specs in steps.items():
        for fed in ("gold_fed", "predicted_fed"):
            every += (f"steps.{step}.{fed}.{name}" for name in _view_names(specs, labels=True))
            main.append(f"steps.{step}.{fed}.exact")
    for column, values in slices.items():
        for value in values:
            every += (f"by.{column}.{value}.{name}" for name in ("exact", *(f"{s.name}.accuracy" for s in output)))
    aliases = {name.removesuffix(".accuracy"): name for name in every if name.endswith(".accuracy")}
    aliases.setdefault(stack.output.__name__.lower(), "exact")
    return Known(tuple(main), frozenset(every), aliases)


def _view_names(specs: Sequence[FieldSpec], *, labels: bool) -> Iterator[str]:
    yield "exact"
    yield "valid"
    for spec in specs:
        yield from (f"{spec.name}.{name}" for name in _OF_KIND[spec.kind])
        if labels:
            yield from (f"{spec.name}.{label}.{name}" for label in spec.labels for name in _OF_LABEL)


def metrics_of(output: ViewReport, steps: Sequence[StepReport], slices: Sequence[SliceReport]) -> dict[str, Interval]:
    """Every figure of a report by its name, those that a higher value betters."""
    found = dict(_named(output, ""))
    for step in steps:
        for fed, view in (("gold_fed", step.gold_fed), ("predicted_fed", step.predicted_fed)):
            if view is not None:
                found |= _named(view, f"steps.{step.name}.{fed}.")
    for part in slices:
        prefix = f"by.{part.column}.{part.value}."
        found[f"{prefix}exact"] = part.exact
        found |= {f"{prefix}{name}.accuracy": figure for name, figure in part.fields.items()}
    return {
        name: Interval(value=figure.value, low=figure.low, high=figure.high, n=figure.n)
        for name, figure in found.items()
    }


def _named(view: ViewReport, prefix: str) -> Iterator[tuple[str, Interval]]:
    yield f"{prefix}exact", view.exact
    yield f"{prefix}valid", view.valid
    for field in view.fields:
        for name, figure in field.figures.items():
            if name not in LOWER_IS_BETTER | NO_SCORE:
                yield f"{prefix}{field.name}.{name}", figure
        for label in field.labels:
            for name in _OF_LABEL:
                yield f"{prefix}{field.name}.{label.label}.{name}", getattr(label, name)


def judged(wanted: Mapping[str, float], metrics: Mapping[str, Interval]) -> tuple[Requirement, ...]:
    """Compare what was asked with what was found; a figure that no row gave is not met."""
    found = {name: metrics[name].value if name in metrics else None for name in wanted}
    return tuple(
        Requirement(name=name, wanted=least, value=value, met=value is not None and value >= least)
        for (name, least), value in zip(wanted.items(), found.values(), strict=True)
    )


__all__ = ["Known", "judged", "known_names", "metrics_of"]
