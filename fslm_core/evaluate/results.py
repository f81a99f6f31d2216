"""What an evaluation found, as typed data: the schema of ``report.json``.

A figure that is not defined (a share of no rows) has the value null. Intervals are 95 % percentile bootstrap intervals.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import UnknownNameError

SCHEMA = "fslm-eval/1"
"""Names the layout of ``report.json``; another layout has another name."""

LOWER_IS_BETTER = frozenset({"missed", "invented", "false_alarms"})
NO_SCORE = frozenset({"confidence"})
"""Figures that say neither good nor bad."""


class Data(BaseModel):
    """What a report is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Data):
    """A number, its interval, and how many rows it is about."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Figure(Interval):
    """A figure of the stack; beside it, on the same rows, that of the control, and the difference (stack - control)."""

    control: Interval | None = None
    difference: Interval | None = None


class LabelReport(Data):
    """One label of a field, against all others.

    ``support``: rows whose gold it is. ``predicted``: rows it was given to. ``false_alarms``: the share of rows with
    another gold that it was given to.
    """

    label: str
    support: int
    predicted: int
    precision: Figure
    recall: Figure
    f1: Figure
    false_alarms: Figure


class Confusion(Data):
    """How often each gold label (line) was given each label (column); ``(skipped)`` and ``(failed)`` may stand in."""

    gold: tuple[str, ...]
    predicted: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Bin(Data):
    """Rows whose confidence lies in a tenth of the scale: their mean confidence, and the share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class FieldReport(Data):
    """One field.

    ``figures`` by kind: ``accuracy`` (exact), ``confidence`` (mean) for all; label: ``f1`` (macro), ``micro_f1``; text:
    ``f1`` (tokens), ``normalised`` (exact but for case, punctuation, articles), ``filled`` (exact where gold is not
    null), ``missed`` (null where gold is not), ``invented`` (a text where gold is null), ``verbatim`` (share of the
    texts written that stand in the input); list: ``f1`` (as sets).
    """

    name: str
    kind: Literal["label", "text", "number", "list", "other"]
    figures: dict[str, Figure]
    labels: tuple[LabelReport, ...] = ()
    confusion: Confusion | None = None
    bins: tuple[Bin, ...] = ()


class ViewReport(Data):
    """A message compared with gold over ``rows`` rows: all fields right, valid at all, failures by error code."""

    rows: int
    exact: Figure
    valid: Figure
    fields: tuple[FieldReport, ...]
    failures: dict[str, int] = {}

    def field(self, name: str) -> FieldReport:
        """The field of that name.

        Raises:
            UnknownNameError: there is none.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise UnknownNameError.of("field", name, [field.name for field in self.fields], where="the report")


class Skips(Data):
    """A step that may be passed over: how often gold and stack agreed, and the rows (by line) where they did not."""

    rightly_skipped: int
    wrongly_skipped: tuple[int, ...]
    wrongly_run: tuple[int, ...]


class StepReport(Data):
    """One step.

    ``gold_fed``: run alone, on what the steps before it should have said. ``predicted_fed``: inside the whole stack.
    ``lost``: what the steps before it cost (right when fed with gold, less right in the stack), on the same rows.
    ``ran`` and ``reused``: how many gold-fed answers were run alone, and how many taken from the whole stack, which had
    given the step the same input. ``unknown`` says why there are no scores, ``partial`` which fields are not scored.
    """

    name: str
    stage: str
    when: str | None
    origin: dict[str, str | None]
    gold_rows: int
    unknown: str | None = None
    partial: str | None = None
    unfed: int = 0
    ran: int = 0
    reused: int = 0
    gold_fed: ViewReport | None = None
    predicted_fed: ViewReport | None = None
    lost: Figure | None = None
    skips: Skips | None = None


class SliceReport(Data):
    """The rows that share a value in a column."""

    column: str
    value: str
    rows: int
    exact: Figure
    fields: dict[str, Figure]


class ControlReport(Data):
    """The control without a language model: what it was fitted on, and how it answers each field."""

    rows: int
    seconds: float
    seen: int
    """Inputs of the scored rows that occur in the rows it was fitted on."""
    ways: dict[str, str]


class Requirement(Data):
    """What was asked of a figure (the point estimate, not its interval), and whether it is so."""

    name: str
    wanted: float
    value: float | None
    met: bool


class Row(Data):
    """A row by its line, and something said of it."""

    line: int
    text: str


class Wrong(Data):
    """A row that is not wholly right: which fields and steps are wrong, with gold and what was said in its place."""

    row: int
    run: str | None
    fields: tuple[str, ...]
    input: Any
    gold: Any
    predicted: Any
    error: dict[str, Any] | None
    steps: dict[str, dict[str, Any]]


class Report(Data):
    """The whole evaluation."""

    schema_name: str = SCHEMA
    stack: str
    description: str
    data: str
    data_sha256: str | None
    created: str
    fslm: str
    seed: int
    resamples: int
    group: str | None
    groups: int
    content: Literal["full", "redacted", "none"]
    seconds: float
    rows: int
    wrong: int
    misfits: tuple[Row, ...]
    notes: tuple[Row, ...]
    output: ViewReport
    steps: tuple[StepReport, ...]
    slices: tuple[SliceReport, ...]
    slices_left_out: dict[str, int]
    control: ControlReport | None
    no_control: str | None
    """Why there is no control."""
    requirements: tuple[Requirement, ...]
    metrics: dict[str, Interval]
    """Every figure by the name that ``--fail-under`` knows it by."""
    errors: tuple[Wrong, ...] = Field(default=(), exclude=True)
    """The rows that are not wholly right; they go into ``errors.jsonl``, not into ``report.json``."""

    def to_json(self) -> str:
        """The report as JSON (see :data:`SCHEMA`), without its errors."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """The report as Markdown tables."""
        from .render import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """The report as one HTML page that asks for nothing from outside.

        Raises:
            MissingExtraError: matplotlib, which draws the plots, is not installed.
        """
        from .render import to_html

        return to_html(self)


__all__ = [
    "LOWER_IS_BETTER",
    "NO_SCORE",
    "SCHEMA",
    "Bin",
    "Confusion",
    "ControlReport",
    "Data",
    "FieldReport",
    "Figure",
    "Interval",
    "LabelReport",
    "Report",
    "Requirement",
    "Row",
    "Skips",
    "SliceReport",
    "StepReport",
    "ViewReport",
    "Wrong",
]
