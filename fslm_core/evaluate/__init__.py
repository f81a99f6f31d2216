"""Scores of a stack on labelled rows: whole, step by step, field by field, beside a control without a language model.

::

    report = evaluate("support", rows, train=train_rows, by=["source"])
    report.output.exact.value                                   # the share of rows that are wholly right
    report.steps[1].gold_fed.exact, report.steps[1].lost        # the step by itself, and what earlier steps cost it
    report.to_html()

Needs the extra ``fslm-core[eval]``.
"""

from __future__ import annotations

from .ablating import Ablated, Ablation, ablate
from .blaming import Blame, BlamedRow, Share, StepBlame, blame
from .calibrating import calibrate
from .calibration import Accepted, Calibration, CascadeCalibration, FieldCalibration
from .drifting import Drift, FieldDrift, Shift, drift
from .evaluating import Plan, Rows, Work, evaluate, require_extra
from .gold import Cases, read_cases
from .results import (
    Bin,
    Confusion,
    ControlReport,
    FieldReport,
    Figure,
    Interval,
    LabelReport,
    Report,
    Requirement,
    SliceReport,
    StepReport,
    ViewReport,
    Wrong,
)
from .running import Progress
from .writing import write_report

__all__ = [
    "Ablated",
    "Ablation",
    "Accepted",
    "Bin",
    "Blame",
    "BlamedRow",
    "Calibration",
    "CascadeCalibration",
    "Cases",
    "Confusion",
    "ControlReport",
    "Drift",
    "FieldCalibration",
    "FieldDrift",
    "FieldReport",
    "Figure",
    "Interval",
    "LabelReport",
    "Plan",
    "Progress",
    "Report",
    "Requirement",
    "Rows",
    "Share",
    "Shift",
    "SliceReport",
    "StepBlame",
    "StepReport",
    "ViewReport",
    "Work",
    "Wrong",
    "ablate",
    "blame",
    "calibrate",
    "drift",
    "evaluate",
    "read_cases",
    "require_extra",
    "write_report",
]
