"""Where the time of one run went, step by step. Everything here was measured while the run was at work.

Steps may run side by side, and so their times may add up to more than the run took. Wall time is shared out: each
moment is divided equally among the steps at work in it, so that the shares of all steps, and of what lies between
them, make one whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..engine import Run
from ..errors import StageFailedError
from ..message import Message, Usage, plain_path
from ..store import StoredRun
from .show import visible

PHASES = ("render", "queue", "prefill", "decode", "validate", "tool", "engine")
"""What a step does, in this order: narrow and render its prompt; tokenise it and wait for a place in a batch; read it;
write; validate. A tool's function stands in the place of the model. What is left over is the engine's own."""


_MANY = 6
"""Times that a step is shown by itself, where it ran several times."""
_SUMMED = ("seconds", "wall", "attempts", "forwards", "prompt", "cached", "output", "forced")
_Span: TypeAlias = tuple[int, str, float, float]
"""A phase of a step: the step's place among all, and from when to when."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of one step's attempts.

    Attributes:
        start: seconds after the run began.
        usages: of each attempt, in order.
    """

    name: str
    start: float
    usages: tuple[Usage, ...]
    tool: bool = False


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One step.

    Attributes:
        seconds: what it took by the clock, other steps beside it or not.
        wall: its part of the run's wall time, seconds; less than ``seconds`` where others ran beside it.
        phases: ``wall`` by :data:`PHASES`, seconds.
        prompt: tokens of its prompts, of which ``cached`` were not computed again.
        output: tokens it wrote, of which ``forced`` were dictated by the grammar.
        forwards: of the model, in which it took part.
    """

    name: str
    seconds: float
    wall: float
    phases: Mapping[str, float]
    attempts: int
    forwards: int
    prompt: int
    cached: int
    output: int
    forced: int


@dataclass(frozen=True, slots=True)
class Profile:
    """One run.

    Attributes:
        seconds: of the whole run; the ``wall`` of all steps and ``between`` add up to it.
        between: what no step was at work in, seconds: binding fields, writing the trace, ending the run.
        beside: True where steps ran side by side.
    """

    seconds: float
    between: float
    beside: bool
    steps: tuple[StepProfile, ...]

    @property
    def phases(self) -> dict[str, float]:
        """Wall time of the run by phase, seconds; they add up to ``seconds``."""
        whole = {phase: sum(step.phases[phase] for step in self.steps) for phase in PHASES}
        return {**whole, "engine": whole["engine"] + self.between}

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "phases": self.phases}


def of_run(run: Run[Any]) -> Profile:
    """The profile of a run that has ended. Of a failed one, the step that gave no valid message is there too."""
    began = run.input.started
    steps = [
        Tried(
            name,
            message.started - began,
            tuple(attempt.usage for attempt in message.attempts),
            all(attempt.prompt is None for attempt in message.attempts),
        )
        for name, message in run.messages.items()
        if isinstance(message, Message) and message.attempts  # a shape and its decisions take no time of their own
    ]
    error = run.error
    if isinstance(error, StageFailedError) and error.attempts and error.where:
        usages = tuple(attempt.usage for attempt in error.attempts)
        name = error.where.removeprefix(f"stack {run.stack}, step ")
        took = sum(usage.seconds for usage in usages)
        steps.append(Tried(name, run.seconds - took, usages, error.attempts[0].prompt is None))
    return profile(run.seconds, steps)


def of_stored(run: StoredRun) -> Profile:
    """The profile of a run in the trace. One that was recorded by an earlier version lacks render and validate."""
    steps: dict[str, Tried] = {}
    for node in run.nodes:
        if node.attempts:  # a step that failed has a node for each of them
            start = (node.started or run.row.started) - run.row.started
            usages = tuple(attempt.usage for attempt in node.attempts)
            tool = all(attempt.spans is None for attempt in node.attempts)
            before = steps.get(node.step, Tried(node.step, start, (), tool))
            steps[node.step] = replace(before, usages=before.usages + usages)
    return profile(run.row.seconds or 0.0, list(steps.values()))


def profile(seconds: float, steps: Sequence[Tried]) -> Profile:
    """Share out a run's wall time.

    Args:
        seconds: of the whole run.
        steps: those that were at work in it.

    >>> one = Usage(prefill=1.0, decode=1.0, seconds=2.0)
    >>> found = profile(4.0, [Tried("a", 1.0, (one,)), Tried("b", 2.0, (one,))])
    >>> [step.wall for step in found.steps], found.between, found.phases["prefill"]
    ([1.5, 1.5], 1.0, 1.5)
    """
    spans = [(place, *span) for place, step in enumerate(steps) for span in _spans(step, seconds)]
    begin, end = _by_time((span[2], span) for span in spans), _by_time((span[3], span) for span in spans)
    shared: list[dict[str, float]] = [dict.fromkeys(PHASES, 0.0) for _ in steps]
    beside, covered = False, 0.0
    at_work: dict[_Span, None] = {}
    for start, stop in pairwise(sorted({*begin, *end})):
        for span in end.get(start, ()):
            del at_work[span]
        at_work |= dict.fromkeys(begin.get(start, ()))
        covered += stop - start if at_work else 0.0
        beside = beside or len(at_work) > 1
        for place, phase, _, _ in at_work:
            shared[place][phase] += (stop - start) / len(at_work)
    made = tuple(_step(step, phases) for step, phases in zip(steps, shared, strict=True))
    return Profile(seconds, max(0.0, seconds - covered), beside, made)


def _by_time(spans: Iterable[tuple[float, _Span]]) -> dict[float, list[_Span]]:
    found: dict[float, list[_Span]] = {}
    for moment, span in spans:
        found.setdefault(moment, []).append(span)
    return found


def _spans(step: Tried, seconds: float) -> Iterator[tuple[str, float, float]]:
    """Each phase of a step with its start and end, within the run."""
    now = max(0.0, step.start)
    for usage in step.usages:
        for phase, took in _phases(usage, step.tool).items():
            start, now = now, now + max(0.0, took)
            if min(now, seconds) > start:
                yield phase, start, min(now, seconds)


def _phases(usage: Usage, tool: bool) -> dict[str, float]:
    """One attempt's seconds by phase, in the order in which they come."""
    known = {
        "render": usage.render,
        "queue": usage.queued,
        "prefill": usage.prefill,
        "decode": usage.decode,
        "validate": usage.validate,
    }
    rest = max(0.0, usage.seconds - sum(known.values()))
    return {"tool": rest, **known} if tool else {**known, "engine": rest}


def _step(step: Tried, phases: Mapping[str, float]) -> StepProfile:
    whole = sum(step.usages, Usage())
    return StepProfile(
        name=step.name,
        seconds=whole.seconds,
        wall=sum(phases.values()),
        phases=phases,
        attempts=len(step.usages),
        forwards=whole.forwards,
        prompt=whole.prompt,
        cached=whole.cached,
        output=whole.output,
        forced=whole.forced,
    )


# -- as a person reads it --------------------------------------------------------------------------------------------


def drawn(found: Profile) -> RenderableType:
    """A profile as two tables: times in milliseconds, and what was counted. A step that ran many times is one line."""
    shown = replace(found, steps=tuple(_merged(found.steps)))
    parts: list[RenderableType] = [_times(shown), Text(""), _counts(shown)]
    if found.beside:
        note = "Steps ran side by side: a moment is shared equally among those at work in it; `took` is by the clock."
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def _merged(steps: Sequence[StepProfile]) -> Iterator[StepProfile]:
    """The steps, those that ran many times on one line."""
    times: dict[str, list[StepProfile]] = {}
    for step in steps:
        times.setdefault(plain_path(step.name), []).append(step)
    for path, same in times.items():
        if len(same) <= _MANY:
            yield from same
        else:
            sums = {name: sum(getattr(step, name) for step in same) for name in _SUMMED}
            phases = {phase: sum(step.phases[phase] for step in same) for phase in PHASES}
            yield StepProfile(name=f"{path}, {len(same)} times", phases=phases, **sums)


def _times(found: Profile) -> Table:
    phases = [phase for phase in PHASES if phase != "tool" or found.phases["tool"]]
    table = _table(["ms", *phases, "in all", "share", *(["took"] if found.beside else [])])
    for step in found.steps:
        cells = [_ms(step.phases[phase]) for phase in phases]
        clock = [_ms(step.seconds)] if found.beside else []
        table.add_row(_name(step.name), *cells, _ms(step.wall), _share(step.wall, found.seconds), *clock)
    rest = [_ms(found.between) if phase == "engine" else "" for phase in phases]
    table.add_row(Text("between", style="dim"), *rest, _ms(found.between), _share(found.between, found.seconds))
    totals = [found.phases[phase] for phase in phases]
    took = [_ms(found.seconds)] if found.beside else []
    table.add_section()
    table.add_row(Text("run", style="bold"), *map(_ms, totals), _ms(found.seconds), "100 %", *took)
    table.add_row("share", *(_share(total, found.seconds) for total in totals), "100 %")
    return table


def _counts(found: Profile) -> Table:
    heads = ["tokens", "prompt computed", "prompt cached", "output", "forced", "forwards", "attempts"]
    table = _table(heads)
    rows = [
        (step.prompt - step.cached, step.cached, step.output, step.forced, step.forwards, step.attempts)
        for step in found.steps
    ]
    for step, row in zip(found.steps, rows, strict=True):
        table.add_row(_name(step.name), *map(str, row))
    sums = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * (len(heads) - 1)
    table.add_row(Text("run", style="bold"), *map(str, sums))
    return table


def _table(heads: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=not place, max_width=None if place else 40)
    return table


def _name(name: str) -> Text:
    return Text(visible(name).replace("\n", "\\n"))


def _ms(seconds: float) -> str:
    """Milliseconds, of which three figures are told.

    >>> _ms(0.0000412), _ms(0.0412), _ms(1.2345)
    ('0.04', '41.2', '1234')
    """
    ms = seconds * 1000
    return f"{ms:.2f}" if ms < 1 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}".replace("%", " %") if whole else ""


__all__ = ["PHASES", "Profile", "StepProfile", "Tried", "drawn", "of_run", "of_stored", "profile"]
