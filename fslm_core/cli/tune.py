"""``fslm tune``: every stage of a stack by one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evaluate.render import ranged
from ..tune import Event, Part, Planned, TunePlan, TuneReport, plan_stack, tune_stack
from . import screen
from .labelled import StackName
from .session import session_of
from .train import Display, time_text

app = typer.Typer(add_completion=False)


@app.command()
def tune(
    ctx: typer.Context,
    stack: StackName,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Which rows, which teacher, and how.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would take, from a short measured probe, and stop.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe, as in --set train.epochs=1."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Tune every stage of a stack by one recipe; prints the settings that run its adapters.

    A teacher writes the messages that rows lack, each stage is trained on its part, then on what the tuned steps before
    it really say, and the stack is scored before and after. Whatever ends it, the same command goes on. Everything
    that is made lies in one folder, report.md among it; no plugin is changed.
    """
    session = session_of(ctx)
    session.hold()
    with _Display() as display:
        if plan:
            found = plan_stack(
                stack, recipe, overrides=overrides or (), settings=session.settings, host=session.host, progress=display
            )
        else:
            made = tune_stack(
                stack, recipe, overrides=overrides or (), settings=session.settings, host=session.host, progress=display
            )
    if plan and as_json:
        screen.result(screen.as_json({**found.model_dump(mode="json"), "seconds": found.seconds}))
    elif plan:
        _tell_plan(found, err=False)
    elif as_json:
        folder, report = screen.clean(made.work), made.report.model_dump(mode="json")
        screen.result(screen.as_json({"work": folder, **report}))
    else:
        _tell_scores(made.report)
        screen.say(f"report: {made.work / 'report.md'}")
        screen.say("to run the adapters, put this into fslm.toml, or copy each folder into its plugin:")
        screen.result(screen.clean(made.report.to_settings(made.work)))


class _Display(Display):
    """What training shows, under the part of the tuning that it is about."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Part(what, number, total):
                self.clear()
                screen.say(f"[{number} of {total}] {what}")
            case Planned(plan):
                _tell_plan(plan, err=True)
            case _:
                super().__call__(event)


def _tell_plan(plan: TunePlan, *, err: bool) -> None:
    say = screen.say if err else screen.result
    say(f"{plan.train:,} rows to train on, {plan.select:,} to choose epochs by, {plan.dev:,} held out")
    for part in plan.teaching:
        say(
            f"messages of {part.step}: {part.missing:,} rows lack theirs, {part.calls:,} calls to make,"
            f" {part.tokens:,} tokens, {time_text(part.seconds)}"
        )
    for stage in plan.training:
        more = f", and up to {time_text(stage.exposed)} in later rounds" if stage.exposed else ""
        say(
            f"training {stage.stage}: {stage.rows:,} rows, {stage.tokens:,} tokens an epoch,"
            f" {time_text(stage.seconds)}{more}"
        )
    say(f"estimate: {time_text(plan.seconds)}, scoring left aside")


def _tell_scores(report: TuneReport) -> None:
    """The share of held-out rows that are right, a line for each step, on standard error."""
    for scores in report.scores:
        screen.say(f"{scores.when}: {ranged(scores.exact)} of {scores.rows} held-out rows wholly right")
        for step in scores.steps:
            views = (("fed with gold", step.gold_fed), ("in the stack", step.predicted_fed))
            told = [f"{ranged(figure)} {name}" for name, figure in views if figure is not None]
            screen.say(f"  {step.step}: {', '.join(told) or 'not known'}")


__all__ = ["app"]
