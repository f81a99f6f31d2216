"""What a calibration found, as typed data: the schema of ``fslm calibrate --json``.

Every figure but ``threshold``, ``temperature`` and ``fitted`` is of rows that were not used to find them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .results import Data

SCHEMA = "fslm-calibrate/1"
"""Names the layout; another layout has another name."""


class Accepted(Data):
    """What a threshold accepts of ``rows``; ``error`` and its upper ``bound`` are null where it accepts none."""

    rows: int
    accepted: int
    wrong: int
    coverage: float | None
    error: float | None
    bound: float | None


class FieldCalibration(Data):
    """One field of one step.

    Attributes:
        step: its path in the stack.
        rows: those in which both its confidence and its gold are known.
        unknown: those in which it did not say how sure it was; a cascade takes them for unsure.
        accuracy: the share that is right, whatever the confidence.
        ece_before, ece_after: expected calibration error, before and after scaling.
        threshold: of the scaled confidence; null where none keeps the error as low as was asked.
        fitted: what the threshold accepts of the rows it was found on; ``held_out``: of the others.
        curve: coverage and error at every threshold.
    """

    step: str
    field: str
    stage: str
    rows: int
    unknown: int
    accuracy: float | None
    temperature: float
    ece_before: float | None
    ece_after: float | None
    threshold: float | None
    fitted: Accepted
    held_out: Accepted
    curve: tuple[tuple[float, float], ...]


class CascadeCalibration(Data):
    """What a cascade does with what was found.

    Attributes:
        step: its path in the stack.
        abstain_below, temperature: as it takes them, by ``step.field``; where no threshold was found it is 1, which
            only certainty passes.
        answered: the share of rows that each step answers; ``passed_on``: that the first hands on; ``unsure``: that
            nobody is sure of.
        error: the share of answers that are wrong in any field it goes by; ``bound``: its upper bound.
        tokens: read and written for a row, on average; ``tokens_of_each``: what each step spends on every row alone.
        curve: coverage, error and tokens a row, as the first step's threshold moves.
    """

    step: str
    name: str
    rows: int
    abstain_below: dict[str, float]
    temperature: dict[str, float]
    answered: dict[str, float]
    passed_on: float
    unsure: float
    error: float | None
    bound: float | None
    tokens: float
    tokens_of_each: dict[str, float]
    curve: tuple[tuple[float, float, float], ...]


class Calibration(Data):
    """The whole calibration."""

    schema_name: str = SCHEMA
    stack: str
    data: str
    data_sha256: str | None
    created: str
    fslm: str
    seed: int
    rows: int
    fitted_on: int
    reported_on: int
    max_error: float
    confidence: float
    fields: tuple[FieldCalibration, ...]
    cascades: tuple[CascadeCalibration, ...]
    notes: tuple[str, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """The fields, as ``step.field``, for which no threshold does what was asked."""
        return tuple(f"{found.step}.{found.field}" for found in self.fields if found.threshold is None)

    def lines(self) -> Iterator[str]:
        """What to write into each cascade, and around each step that stands in none."""
        within = tuple(f"{cascade.step}." for cascade in self.cascades)
        for cascade in self.cascades:
            yield f"# {cascade.step}"
            yield _line(cascade.abstain_below, cascade.temperature)
        alone: dict[str, list[FieldCalibration]] = {}
        for found in self.fields:
            if found.threshold is not None and not found.step.startswith(within):
                alone.setdefault(found.step, []).append(found)
        for step, fields in alone.items():
            yield f"# {step}"
            below = {found.field: found.threshold for found in fields if found.threshold is not None}
            yield _line(below, {found.field: found.temperature for found in fields})


def _line(below: dict[str, float], heat: dict[str, float]) -> str:
    return f"abstain_below={below!r}, temperature={heat!r}"


__all__ = ["SCHEMA", "Accepted", "Calibration", "CascadeCalibration", "FieldCalibration"]
