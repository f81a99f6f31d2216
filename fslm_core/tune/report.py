"""What came of a tuning, as typed data and as a page: the schema of WORK's ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..evaluate import Interval, Report
from ..evaluate.render import ranged
from .plan import TunePlan

SCHEMA = "fslm-tune/1"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class MessagesReport(_Data):
    """What became of a step's messages: those that rows gave, those that were written, and rows left without one, by
    why. ``tokens`` and ``seconds`` are the teacher's, over all sessions."""

    step: str
    given: int
    passed: int
    written: int
    lost: dict[str, int]
    calls: int
    tokens: int
    seconds: float


class StageReport(_Data):
    """A stage's training in one round.

    ``fed`` counts the rows fed with what the steps before really said, and ``pairs`` those of a better and a worse
    answer of its own; ``again`` is False where the adapter of the round before stays, for there was neither, or it did
    worse with what there was.
    """

    stage: str
    round: int
    again: bool
    rows: int
    select: int
    fed: int
    pairs: int
    left_out: dict[str, int]
    tokens: int
    seconds: float
    epoch: int
    select_scores: dict[str, float]
    sha256: str


class StepScores(_Data):
    """The share of held-out rows in which a step is right: fed with gold, and inside the stack."""

    step: str
    gold_fed: Interval | None
    predicted_fed: Interval | None


class Scores(_Data):
    """Scores on the held-out rows: the output's, wholly right and valid at all, and each step's."""

    when: str
    rows: int
    exact: Interval
    valid: Interval
    steps: tuple[StepScores, ...]


class TuneReport(_Data):
    """The whole."""

    schema_name: str = SCHEMA
    stack: str
    fslm: str
    data_sha256: str
    plan: TunePlan
    messages: tuple[MessagesReport, ...]
    dev_written: dict[str, int]
    """By step, held-out rows whose gold the teacher wrote."""
    stages: tuple[StageReport, ...]
    scores: tuple[Scores, ...]
    adapters: dict[str, str]
    """By stage, its folder, relative to that of the report."""

    def to_json(self) -> str:
        """The report as JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """The report as a page."""
        return "\n".join(_page(self)).rstrip() + "\n"

    def to_settings(self, folder: Path) -> str:
        """The lines of ``fslm.toml`` that have the stack run the adapters.

        Args:
            folder: the one that the report lies in.
        """
        hashes = {stage.stage: stage.sha256 for stage in self.stages}
        lines = []
        for name, path in self.adapters.items():
            lines.append(f"[stages.{json.dumps(name)}]")
            lines.append(f"adapter = {json.dumps(str(folder / path))}")
            lines.append(f"sha256 = {json.dumps(hashes[name])}")
        return "\n".join(lines)


def scores_of(when: str, report: Report) -> Scores:
    """The figures of an evaluation that a tuning is about."""
    return Scores(
        when=when,
        rows=report.rows,
        exact=_plain(report.output.exact),
        valid=_plain(report.output.valid),
        steps=tuple(
            StepScores(
                step=step.name,
                gold_fed=_plain(step.gold_fed.exact) if step.gold_fed else None,
                predicted_fed=_plain(step.predicted_fed.exact) if step.predicted_fed else None,
            )
            for step in report.steps
        ),
    )


def _plain(figure: Interval) -> Interval:
    return Interval(value=figure.value, low=figure.low, high=figure.high, n=figure.n)


def _page(report: TuneReport) -> Iterator[str]:
    plan = report.plan
    yield f"# The stack `{report.stack}`, tuned\n"
    yield (
        f"{plan.train} rows to train on, {plan.select} to choose epochs by, {plan.dev} held out;"
        f" {plan.repeated} repeated another word for word and were left out.\n"
    )
    yield "## Scores\n"
    yield "The share of held-out rows that are wholly right, with 95 % bootstrap intervals.\n"
    yield from _table(
        ["", *(scores.when for scores in report.scores)],
        [
            ["the stack's output", *(ranged(scores.exact) for scores in report.scores)],
            *_by_step(report.scores),
        ],
    )
    if any(report.dev_written.values()):
        told = ", ".join(f"{step}: {count}" for step, count in report.dev_written.items() if count)
        yield f"Held-out rows for which the teacher wrote what a step should say, and may have been wrong: {told}.\n"
    yield "## Messages\n"
    heads = ["step", "given", "passed over", "written", "without", "calls", "tokens", "seconds"]
    yield from _table(
        heads,
        [
            [m.step, m.given, m.passed, m.written, sum(m.lost.values()), m.calls, m.tokens, round(m.seconds, 1)]
            for m in report.messages
        ],
    )
    for message in report.messages:
        yield from (f"- {message.step}: {count} rows without a message: {why}" for why, count in message.lost.items())
    yield "\n## Training\n"
    heads = [
        "round",
        "stage",
        "rows",
        "of them fed with what was said",
        "pairs",
        "tokens",
        "minutes",
        "epoch",
        "exact (select)",
    ]
    yield from _table(heads, [_trained(stage) for stage in report.stages])
    yield "## Adapters\n"
    yield "To run them, put this into `fslm.toml`, or copy each folder into its plugin:\n"
    yield f"```toml\n{report.to_settings(Path())}\n```"


def _by_step(scores: Sequence[Scores]) -> Iterator[list[Any]]:
    for place, step in enumerate(scores[0].steps if scores else ()):
        rows = [each.steps[place] for each in scores]
        yield [f"{step.step}, fed with gold", *(_told(row.gold_fed) for row in rows)]
        yield [f"{step.step}, in the stack", *(_told(row.predicted_fed) for row in rows)]


def _told(figure: Interval | None) -> str:
    return "not known" if figure is None else ranged(figure)


def _trained(stage: StageReport) -> list[Any]:
    if not stage.again:
        why = "did worse, not kept" if stage.pairs else "nothing new for it"
        return [stage.round, stage.stage, why, "", stage.pairs or "", "", "", "", ""]
    exact = stage.select_scores.get("exact")
    minutes = f"{stage.seconds / 60:.1f}"
    counts = [stage.rows, stage.fed, stage.pairs, stage.tokens]
    return [stage.round, stage.stage, *counts, minutes, stage.epoch, f"{exact:.3f}"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


__all__ = ["SCHEMA", "MessagesReport", "Scores", "StageReport", "StepScores", "TuneReport", "scores_of"]
