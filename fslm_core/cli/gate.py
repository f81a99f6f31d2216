"""``fslm plugins gate``: whether another version of a plugin may take this one's place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import screen
from .session import content_of, session_of

if TYPE_CHECKING:
    from ..govern.gate import Example, GateReport
    from ..govern.questions import Question
    from ..govern.sides import Answers, Side
    from ..plugins import PluginHost
    from ..stack import Stack

_NEWEST = 1000
_TOLD = 80
"""Characters of a value that are shown."""


def gate(
    ctx: typer.Context,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline-python",
            metavar="PYTHON",
            help="The python of the environment with the version that is compared with, such as old/bin/python.",
        ),
    ],
    stack: Annotated[
        str | None, typer.Option(metavar="STACK", help="The stack to run; needed where there are several.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Labelled rows, {"input": {…}, "output": {…}} a line.'),
    ] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="What runs in the trace were given, equal inputs once.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"So many rows: the first of FILE, the newest of the trace (there {_NEWEST:,})."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A fall whose p-value is above this counts as chance.")
    ] = 0.05,
    any_fall: Annotated[bool, typer.Option("--any-fall", help="Every fall counts, chance or not.")] = False,
    max_changed: Annotated[
        float | None, typer.Option(metavar="SHARE", min=0.0, max=1.0, help="So many rows may change at most, 0 to 1.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at work at once, in each environment.")] = 8,
    seed: Annotated[int, typer.Option(help="Decides every sampled token.")] = 0,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds after which a row's run is stopped.")] = None,
    baseline_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file for the baseline, where it does not know all keys of ours."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the whole report there too.")] = None,
) -> None:
    """Run two versions of a plugin on the same rows, and say what changed, field by field.

    The baseline runs in its own environment, which needs its fslm-core and its version of the plugin; the current
    version runs as it is installed here. The exit code is 1 if fewer rows are valid, or fewer are right of those that
    are labelled, and that is no chance (exact McNemar test), or if more rows changed than --max-changed allows.
    """
    import tempfile
    from concurrent.futures import ThreadPoolExecutor

    from ..govern.gate import compare
    from ..govern.questions import of_file, of_trace
    from ..govern.sides import died, look, variables
    from ..store import marks_of

    session = session_of(ctx)
    found = _stack(session.host, stack)
    if (data is None) is not traces:
        raise UsageError(
            "the rows are those of a file or those of the trace",
            where="fslm plugins gate",
            expected="--data FILE or --traces",
            hint="pass one of them",
        )
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError("there is no folder to write to", where=str(out), hint="make it, or choose another --json")
    settings = session.settings
    rows = of_file(data, limit) if data else of_trace(settings.trace_path, found.name, limit or _NEWEST)
    with tempfile.TemporaryDirectory(prefix="fslm-gate-") as folder:
        old = variables(Path(folder, "old.db"), other=True, locked=settings.locked, settings=baseline_config)
        new = variables(Path(folder, "new.db"), other=False, locked=settings.locked)
        with ThreadPoolExecutor() as both:
            looks = [
                both.submit(look, "baseline", baseline, found.name, old),
                both.submit(look, "current", sys.executable, found.name, new),
            ]
        sides = looks[0].result(), looks[1].result()
        before, after = (_answers(side, found.name, rows, concurrency, seed, timeout) for side in sides)
    quotes = content_of(settings) == "full" or not marks_of(found)
    report = compare(found.name, *sides, rows, before.rows, after.rows, quotes=quotes)
    faults = report.faults(alpha=1.0 if any_fall else alpha, max_changed=max_changed)
    complete = before.died is None and after.died is None
    _show(report)
    if out is not None:
        told = {**report.to_dict(), "complete": complete, "faults": faults, "open": complete and not faults}
        out.write_text(screen.as_json(told) + "\n", encoding="utf-8")
    for side, answers in zip(sides, (before, after), strict=True):
        if answers.died is not None:
            done = len(answers.rows)
            raise died(side, rows[done].row, done, len(rows), answers.died)
    for fault in faults:
        screen.say(f"shut: {fault}")
    if faults:
        raise typer.Exit(1)
    screen.say("open: nothing fell" if any_fall else "open: nothing fell that chance would not explain")


def _stack(host: PluginHost, name: str | None) -> Stack[Any, Any]:
    if name is not None:
        return host.stack(name)
    if len(host.stacks) != 1:
        raise UsageError(
            "several stacks are installed" if host.stacks else "no stack is installed",
            where="fslm plugins gate",
            expected="one of " + ", ".join(sorted(host.stacks)) if host.stacks else None,
            hint="say which: --stack NAME",
        )
    (only,) = host.stacks.values()
    return only


def _answers(
    side: Side, stack: str, rows: Sequence[Question], concurrency: int, seed: int, timeout: float | None
) -> Answers:
    from ..govern.sides import ask
    from .progress import RowBar

    screen.say(f"{side.name}: {side.version}, {', '.join(side.plugins) or 'no plugin'}")
    with RowBar(len(rows)) as bar:
        return ask(
            side,
            stack,
            [row.input for row in rows],
            concurrency=concurrency,
            seed=seed,
            timeout=timeout,
            on_row=lambda failed: bar.row(failed=failed),
        )


# -- what is told ----------------------------------------------------------------------------------------------------


def _show(report: GateReport) -> None:
    sides = (report.baseline, report.current)
    screen.table(
        ["", "fslm", "plugins", "python", "median time"],
        ([s.name, s.version.removeprefix("fslm "), ", ".join(s.plugins), s.python, _time(report, s)] for s in sides),
    )
    share = f" ({report.changed / report.rows:.1%})" if report.rows else ""
    screen.result(f"\n{report.rows:,} rows, {report.changed:,} changed{share}\n")
    screen.table(
        ["good rows", "baseline", "current", "of", "lost", "gained", "p"],
        ([f.name, f.before, f.after, f.rows, f.lost, f.gained, f"{f.p:.3g}"] for f in report.figures),
    )
    screen.result("")
    screen.table(["field", "changed", "of"], ([c.name, c.changed, c.rows] for c in report.fields))
    examples = [(c.name, example) for c in report.fields for example in c.examples]
    examples += [("(invalid)", example) for example in report.newly_invalid]
    if examples:
        screen.result("")
        screen.table(["field", "row", "baseline", "current"], (_cells(name, example) for name, example in examples))
    for side in sides:
        if codes := report.errors[side.name]:
            told = ", ".join(f"{code} {count:,}" for code, count in codes.items())
            screen.result(f"errors of the {side.name}: {screen.clean(told)}")


def _time(report: GateReport, side: Side) -> str:
    seconds = report.seconds[side.name]
    return "unknown" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _cells(name: str, example: Example) -> list[str]:
    return [name, example.row, _told(example.before), _told(example.after)]


def _told(value: Any) -> str:
    if value is None:
        return "null"
    text = value if isinstance(value, str) else screen.as_json(value, indent=None)
    return text if len(text) <= _TOLD else f"{text[:_TOLD]} …"


__all__ = ["gate"]
