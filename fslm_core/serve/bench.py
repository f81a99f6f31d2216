"""How fast a stack is on this machine: several arms, interleaved rounds, medians and their spread.

Each round measures every arm once at every concurrency before the next round begins, so that whatever slows the
machine down for a while slows all of them. The first arm is the reference that the others' messages are compared with.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from .. import __version__
from ..errors import FslmError, InputError, UnknownNameError, UsageError
from ..explain.paired import percentile
from ..message import Usage
from ..schema import loads
from ..settings import Settings, TorchSettings
from ..stack import Stack
from .inputs import read_line
from .measuring import Arm, Loaded, Running, Timing
from .source import bounded_lines, count_lines

Progress = Callable[[str], None]
"""Told what is being done."""

_ONLY_FUSED = ("float16", "int8", "int4")
"""Precisions that the generic executor does not have."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Figure:
        """
        >>> Figure.of([3.0, 1.0, 2.0])
        Figure(median=2.0, low=1.0, high=3.0)
        """
        return cls(statistics.median(rounds), min(rounds), max(rounds))


@dataclass(frozen=True, slots=True)
class Speed:
    """A closed loop at one concurrency: seconds of a whole stack, and stacks a second."""

    p50_s: Figure
    p95_s: Figure
    stacks_per_s: Figure


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What was measured of one arm.

    Attributes:
        error: why it could not be measured; nothing else is known then.
        runs: the backend with device, number format and executor, by step.
        speeds: by concurrency.
        valid: the share of runs that ended with a valid output.
        agreement: the share of the reference's messages that were the same here, row by row; None for the reference,
            and where the reference has none.
        errors: how often a run failed, by the error's code.
        forwards: of the model, a message.
        cached: the share of the prompts' tokens that were not computed again.
        forced: the share of the output's tokens that the grammar dictated.
        peak_rss_mb: MiB that the arm's process held at most.
    """

    arm: str
    error: dict[str, Any] | None = None
    runs: Mapping[str, str] = field(default_factory=dict)
    load_s: float | None = None
    first_s: float | None = None
    speeds: Mapping[int, Speed] = field(default_factory=dict)
    valid: float | None = None
    agreement: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    forwards: float | None = None
    cached: float | None = None
    forced: float | None = None
    peak_rss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A whole benchmark; the first of ``arms`` is the reference."""

    stack: str
    rows: int
    rounds: int
    concurrency: tuple[int, ...]
    machine: Mapping[str, Any]
    arms: tuple[ArmReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


# -- what is measured ------------------------------------------------------------------------------------------------


def arms_of(settings: Settings, executors: Sequence[str], precisions: Sequence[str]) -> list[Arm]:
    """The arms: every executor at every precision that it has, in the order in which they were named.

    Without either, the settings decide: one arm.

    Raises:
        UsageError: the backend has neither, or no arm is left.
        UnknownNameError: there is no such executor or precision.
    """
    if not executors and not precisions:
        return [Arm(settings.backend)]
    if settings.backend != "torch":
        raise UsageError(
            "only the torch backend has executors and precisions",
            where="fslm bench",
            found=f"backend {settings.backend}",
            hint='leave --executors and --precisions out, or set backend to "torch"',
        )
    for label, key, names in (("executor", "executor", executors), ("precision", "precision", precisions)):
        known = dict.fromkeys(get_args(TorchSettings.model_fields[key].annotation))
        for name in names:
            if name not in known:
                raise UnknownNameError.of(label, name, known, where=f"--{label}s")
    arms = [
        Arm(" ".join((executor, precision)), executor, precision)
        for executor in dict.fromkeys(executors or [settings.torch.executor])
        for precision in dict.fromkeys(precisions or [settings.torch.precision])
        if executor != "generic" or precision not in _ONLY_FUSED
    ]
    if not arms:
        raise UsageError(
            "the generic executor has none of these precisions",
            where="fslm bench",
            found=", ".join(precisions),
            expected="auto, bfloat16 or float32 for it",
            hint="name the fused executor, too: --executors generic,fused",
        )
    return arms


def read_rows(stack: Stack[Any, Any], path: Path, count: int) -> list[dict[str, Any]]:
    """``count`` inputs out of a JSONL file, evenly spread; all of them if there are no more.

    A line is what `fslm batch` reads, or a labelled row of `fslm data prepare`, of which the input is taken.

    Raises:
        UsageError: there is no row.
        InputError: a row is not an input of the stack.
    """
    total = count_lines(path)
    chosen = range(total) if total <= count else {(2 * n + 1) * total // (2 * count) for n in range(count)}
    with path.open("rb") as file:
        rows = [
            _input_of(line, stack, f"{path.name}, line {number + 1}")
            for number, line in enumerate(bounded_lines(file))
            if number in chosen and line.strip()
        ]
    if not rows:
        raise UsageError("there is no row to run", where=str(path), hint="name a JSONL file that has rows")
    return rows


def _input_of(line: bytes, stack: Stack[Any, Any], where: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError, InputError):
        row = loads(line.decode("utf-8-sig"))
        if isinstance(row, dict) and isinstance(row.get("input"), dict) and "input" not in stack.input.model_fields:
            return dict(row["input"])
    return read_line(line, stack.input, where=where)


# -- measuring -------------------------------------------------------------------------------------------------------


def bench(
    stack: str,
    arms: Sequence[Arm],
    begin: Callable[[Arm], Running],
    *,
    rows: int,
    concurrency: Sequence[int],
    rounds: int,
    seed: int = 0,
    progress: Progress = lambda what: None,
) -> BenchReport:
    """Load every arm, then measure them in turn, round by round. An arm that fails is reported, and the others go on.

    Args:
        begin: starts an arm, which is closed at the end whatever happens.
        rows: how many each loop runs.
    """
    taken = {arm.name: _Taken() for arm in arms}
    with ExitStack() as opened:
        running: dict[str, Running] = {}
        for arm in arms:
            progress(f"{arm.name}: loading")
            own = begin(arm)
            opened.callback(own.close)
            with taken[arm.name].catching():
                taken[arm.name].loaded = own.load()
                running[arm.name] = own
        for number in range(rounds):
            for each in concurrency:
                for name, own in running.items():
                    if taken[name].error is None:
                        progress(f"{name}: round {number + 1} of {rounds}, {each} at once")
                        with taken[name].catching():
                            taken[name].timings.setdefault(each, []).append(own.time(each, seed))
    reference = taken[arms[0].name]
    reports = tuple(_report(arm.name, taken[arm.name], None if arm is arms[0] else reference) for arm in arms)
    return BenchReport(stack, rows, rounds, tuple(concurrency), _machine(), reports)


@dataclass
class _Taken:
    """What has been taken of an arm so far."""

    loaded: Loaded | None = None
    timings: dict[int, list[Timing]] = field(default_factory=dict)
    error: FslmError | None = None

    def catching(self) -> _Catching:
        return _Catching(self)

    @property
    def all(self) -> list[Timing]:
        return [timing for rounds in self.timings.values() for timing in rounds]


@dataclass
class _Catching:
    """Keeps an error of fslm's for the report."""

    taken: _Taken

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, FslmError):
            self.taken.error = error
            return True
        return False


def _report(name: str, taken: _Taken, reference: _Taken | None) -> ArmReport:
    loaded, timings = taken.loaded, taken.all
    if taken.error is not None or loaded is None:
        return ArmReport(name, taken.error.to_dict() if taken.error else {"what": "it was not measured"})
    usage = sum((timing.usage for timing in timings), Usage())
    ends = [message for timing in timings for message in timing.messages]
    messages = sum(len(end) for end in ends if end is not None)
    peaks = [timing.peak_rss for timing in timings if timing.peak_rss is not None]
    return ArmReport(
        arm=name,
        runs=loaded.runs,
        load_s=loaded.load_s,
        first_s=loaded.first_s,
        speeds={each: _speed(rounds) for each, rounds in taken.timings.items()},
        valid=sum(end is not None for end in ends) / len(ends),
        agreement=None if reference is None else agreement(reference.timings, taken.timings),
        errors=dict(Counter(code for timing in timings for code in timing.errors)),
        forwards=_ratio(usage.forwards, messages),
        cached=_ratio(usage.cached, usage.prompt),
        forced=_ratio(usage.forced, usage.output),
        peak_rss_mb=max(peaks) / 2**20 if peaks else None,
    )


def _speed(rounds: Sequence[Timing]) -> Speed:
    return Speed(
        p50_s=Figure.of([percentile(timing.latencies, 0.5) for timing in rounds]),
        p95_s=Figure.of([percentile(timing.latencies, 0.95) for timing in rounds]),
        stacks_per_s=Figure.of([len(timing.latencies) / timing.seconds for timing in rounds]),
    )


def agreement(reference: Mapping[int, Sequence[Timing]], other: Mapping[int, Sequence[Timing]]) -> float | None:
    """The share of the reference's messages that ``other`` made alike for the same row, round and concurrency.

    A run that failed has no message to agree with; one that failed in ``other`` alone agrees in none.
    """
    same = asked = 0
    for each, rounds in reference.items():
        for ours, theirs in zip(rounds, other.get(each, ()), strict=False):
            for wanted, made in zip(ours.messages, theirs.messages, strict=True):
                if wanted is not None:
                    asked += len(wanted)
                    same += sum((made or {}).get(step) == content for step, content in wanted.items())
    return _ratio(same, asked)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return {"system": system, "cores": cores, "python": platform.python_version(), "fslm": __version__}


__all__ = [
    "ArmReport",
    "BenchReport",
    "Figure",
    "Progress",
    "Speed",
    "agreement",
    "arms_of",
    "bench",
    "read_rows",
]
