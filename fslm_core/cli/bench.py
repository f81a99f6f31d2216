"""``fslm bench``: a stack's speed on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.withhold import read_quietly
from ..errors import UsageError
from ..serve.bench import ArmReport, BenchReport, Figure, arms_of, bench, read_rows
from ..serve.measuring import Apart, Arm
from ..stack import Stack
from . import inputs, screen
from .session import Session, content_of, session_of

app = typer.Typer(add_completion=False)

_IN_FLIGHT = 64


@app.command("bench")
def bench_stack(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="ROWS.jsonl",
            help="Inputs, as `fslm batch` reads them, or labelled rows, as `fslm data prepare` writes them.",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="INPUT", help="One input, as `fslm run` reads it. Repeatable."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most this many rows of ROWS.jsonl, evenly spread.")] = 64,
    concurrency: Annotated[
        str, typer.Option(metavar="N,…", help="Rows at work at once, one loop for each number.")
    ] = "1,32",
    rounds: Annotated[int, typer.Option(min=1, help="Every loop of every arm is run so often, in turn.")] = 3,
    executors: Annotated[
        str, typer.Option(metavar="NAME,…", help="Of the torch backend: auto, generic, fused. An arm for each.")
    ] = "",
    precisions: Annotated[
        str,
        typer.Option(metavar="NAME,…", help="Of the torch backend: auto, int8, float16 and so on. An arm for each."),
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides every sampled token.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write all figures into this file, as JSON.")
    ] = None,
) -> None:
    """Time a stack on this machine, under one or several executors and precisions.

    Each arm runs in a process of its own. Loading and a first run are timed apart; then all arms run the same rows in
    turn, round by round, and the median of the rounds is told with the least and the greatest. The first arm is the
    reference: `same` is the share of its messages that another arm made alike. Nothing is written to the trace. The
    exit code is 1 if an arm could not be measured.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    arms = arms_of(session.settings, _names(executors), _names(precisions))
    loops = _numbers(concurrency)
    values = _values(session, found, data, given or [], rows)
    if out is not None:
        _may_write(out)

    def begin(arm: Arm) -> Apart:
        return Apart(found.name, values, arm.settings(session.settings), max(_IN_FLIGHT, *loops))

    report = bench(
        found.name,
        arms,
        begin,
        rows=len(values),
        concurrency=loops,
        rounds=rounds,
        seed=seed,
        progress=screen.say,
    )
    if out is not None:
        out.write_text(screen.as_json(report.to_dict()) + "\n", encoding="utf-8")
    _show(report)
    if any(arm.error for arm in report.arms):
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    """
    >>> _numbers("1, 32")
    (1, 32)
    """
    names = dict.fromkeys(_names(text))
    if not names or not all(name.isascii() and name.isdigit() and 0 < int(name) <= 10_000 for name in names):
        raise UsageError(
            "a concurrency is no number of rows",
            where="--concurrency",
            found=text,
            expected="numbers from 1 to 10000, with commas between them",
            hint="--concurrency 1,32",
        )
    return tuple(map(int, names))


def _values(
    session: Session, stack: Stack[Any, Any], data: Path | None, given: list[str], count: int
) -> list[dict[str, Any]]:
    """The inputs, every one of which fits the stack."""
    if (data is None) == (not given):
        raise UsageError(
            "a benchmark needs rows to run, from one place" if given else "there is no row to run",
            where="fslm bench",
            expected="--data ROWS.jsonl, or --input INPUT, once or more often",
            hint=f"fslm bench {stack.name} --data ROWS.jsonl",
        )
    if data is not None:
        if not data.is_file():
            raise UsageError("there is no such file", where=str(data), hint="name a JSONL file")
        found = read_rows(stack, data, count)
    else:
        found = [inputs.read(stack.input, text, as_json=False, where="--input") for text in given]
    for value in found:
        read_quietly(stack, value, content_of(session.settings))
    return found


def _may_write(out: Path) -> None:
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(
            "the figures cannot be written there",
            where=str(out),
            expected="a file in a folder that exists",
            hint="name another file with --json",
        )


# -- what is told ----------------------------------------------------------------------------------------------------


def _show(report: BenchReport) -> None:
    measured = [arm for arm in report.arms if arm.error is None]
    if measured:
        _speeds(report, measured)
        screen.result("")
        _costs(measured)
        screen.result("")
    for arm in measured:
        ways = ", ".join(dict.fromkeys(arm.runs.values()))
        failed = "".join(f"; {count} failed: {code}" for code, count in arm.errors.items())
        screen.result(screen.clean(f"{arm.arm}: {ways or 'tools alone'}{failed}"))
    for arm in report.arms:
        if arm.error is not None:
            told = " ".join(f"{arm.error.get(part, '')}" for part in ("what", "found")).strip()
            screen.result(screen.clean(f"{arm.arm}: not measured: {told}"))
            if "next" in arm.error:
                screen.result(screen.clean(f"  next: {arm.error['next']}"))
    machine = report.machine
    screen.result(
        f"{report.rows} row{'s' if report.rows > 1 else ''}, {report.rounds} round{'s' if report.rounds > 1 else ''},"
        f" {machine['cores']} cores, {machine['system']}"
    )


def _speeds(report: BenchReport, arms: list[ArmReport]) -> None:
    """A line for each arm and concurrency."""
    lines = []
    for arm in arms:
        for each, speed in arm.speeds.items():
            first = report.arms[0].speeds.get(each)
            gain = f"{speed.stacks_per_s.median / first.stacks_per_s.median:.2f}x" if first else ""
            times = (_time(speed.p50_s), _time(speed.p95_s))
            lines.append([arm.arm, each, *times, _figure(speed.stacks_per_s, "{:.2f}".format), gain])
    screen.table(["arm", "at once", "p50 of a stack", "p95", "stacks/s", "to the first"], lines)


def _costs(arms: list[ArmReport]) -> None:
    screen.table(
        ["arm", "valid", "same", "forwards/message", "cached", "forced", "memory", "load", "first run"],
        [
            [
                arm.arm,
                _share(arm.valid),
                "reference" if arm.agreement is None else _share(arm.agreement),
                "" if arm.forwards is None else f"{arm.forwards:.2f}",
                _share(arm.cached),
                _share(arm.forced),
                "" if arm.peak_rss_mb is None else f"{arm.peak_rss_mb:,.0f} MiB",
                f"{arm.load_s:.1f} s",
                f"{arm.first_s:.2f} s",
            ]
            for arm in arms
        ],
    )


def _time(figure: Figure) -> str:
    return _figure(figure, lambda seconds: f"{seconds * 1000:,.1f}") + " ms"


def _figure(figure: Figure, show: Any) -> str:
    """The median, and between which values the rounds lie.

    >>> _figure(Figure(2.0, 1.0, 3.5), str)
    '2.0 (1.0 to 3.5)'
    """
    if figure.low == figure.high:
        return str(show(figure.median))
    return f"{show(figure.median)} ({show(figure.low)} to {show(figure.high)})"


def _share(value: float | None) -> str:
    """Never rounded up to a whole that is not there.

    >>> _share(1.0), _share(0.9999), _share(None)
    ('100 %', '99.9 %', '')
    """
    if value is None:
        return ""
    return "100 %" if value == 1 else f"{min(value * 100, 99.9):.1f} %"


__all__ = ["app"]
