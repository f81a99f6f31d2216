"""``fslm train``: one stage by a recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ..train import Estimated, Event, Judged, Noted, Saved, Stepped, Working, run_recipe
from ..train.processes import is_main
from . import screen
from .progress import stderr_console
from .session import session_of

app = typer.Typer(add_completion=False)

_LINES = 20
"""Where there is no terminal, this many lines tell of the steps of a whole run."""


@app.command()
def train(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Which stage, which rows, and how.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace one value of the recipe, as in --set data.train=rows.jsonl."
        ),
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option("--preferences", metavar="PAIRS.jsonl", help="Train the adapter further by these pairs (DPO)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON.")] = False,
) -> None:
    """Train one stage by a recipe; prints the adapter's folder.

    Ctrl-C saves a checkpoint, from which --resume goes on. With --preferences the adapter that the recipe made before
    is trained further, and the new one is written beside it.
    """
    session = session_of(ctx)
    given = list(overrides or ())
    if preferences is not None:
        given.append(f"preference.pairs={json.dumps(str(preferences))}")
    with Display() as display:
        made = run_recipe(
            recipe,
            overrides=given,
            resume=resume,
            settings=session.settings,
            host=session.host,
            progress=display,
        )
    if not is_main():  # of several processes one tells
        return
    if as_json:
        found = {
            name: screen.clean(value) if isinstance(value, Path) else value for name, value in asdict(made).items()
        }
        screen.result(screen.as_json(found))
        return
    screen.say(f"best epoch {made.epoch}: {scores_text(made.scores)}")
    screen.say(f"trained for {time_text(made.seconds)} at {made.tokens_per_second:,.0f} tokens/s")
    screen.say(f"loss curve and checkpoints: {made.work}")
    screen.say(f"SHA-256 of the adapter's weights: {made.sha256}")
    screen.result(screen.clean(made.adapter))


class Display:
    """Draws what a training run tells: bars on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=stderr_console(),
            disable=not self._terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Noted(text):
                screen.say(text)
            case Estimated():
                screen.say(
                    f"estimate: {time_text(event.seconds)} for {event.steps:,} steps ({event.rows:,} rows an epoch,"
                    f" {event.tokens_per_second:,.0f} tokens/s)"
                )
            case Working():
                self._move(event.what, event.done, event.total, "")
            case Stepped():
                self._stepped(event)
            case Judged():
                screen.say(
                    f"epoch {event.epoch}: {scores_text(event.scores)}{', the best so far' if event.best else ''}"
                )
            case Saved():
                screen.say(f"checkpoint at step {event.step:,}: {event.path}")

    def clear(self) -> None:
        """Take the bars away: what comes is about something else."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()

    def _stepped(self, event: Stepped) -> None:
        speed, left = f"{event.tokens_per_second:,.0f} tokens/s", time_text(event.seconds_left)
        told = scores_text({"loss": event.loss, **event.figures})
        note = f"epoch {event.epoch}, {told}, {speed}, {left} left"
        self._move("training", event.step, event.steps, note)
        if not self._terminal and (event.step % max(1, event.steps // _LINES) == 0 or event.step == event.steps):
            screen.say(f"step {event.step:,} of {event.steps:,}: {note}")

    def _move(self, what: str, done: int, total: int, note: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(screen.clean(what), total=total, note=note)
            if not self._terminal and not note:
                screen.say(f"{what} …")
        self._bars.update(self._tasks[what], completed=done, total=total, note=note)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bars.disable:  # older versions of Rich end a line all the same
            self._bars.stop()


def scores_text(scores: Mapping[str, float]) -> str:
    """Scores in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def time_text(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


__all__ = ["Display", "app", "scores_text", "time_text"]
