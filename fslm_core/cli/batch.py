"""``fslm batch``: every row of a JSONL file through a stack, in order; and what that will take."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ReviewNeeded, UsageError
from ..serve.batch import Batch, header_of
from ..serve.estimate import SAMPLE, Estimate, Range, estimate, sample_of
from ..serve.journal import digest_of, keyed_digest
from ..serve.output import Mode, Output
from ..serve.source import Source, count_lines
from ..stack import Stack
from ..wording import counted
from . import inputs, screen
from .progress import RowBar
from .session import Session, content_of, opened, session_of

app = typer.Typer(add_completion=False)

_IN_FLIGHT = 64
_TABLES = {".csv", ".tsv", ".xlsx", ".xls", ".ods"}
"""Endings of files of which no line could be a row."""


@app.command()
def batch(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl",
            help="One JSON object a line, or a JSON string where `fslm run` takes bare text. '-' reads standard input.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="OUT.jsonl", help="Where the rows go, in the order of the input.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at work at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Decides every sampled token of every row.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds after which one row's run is stopped.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the batch that did not end; begin it if there is no OUT.jsonl yet."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.jsonl.")] = False,
    sensitive: Annotated[
        bool,
        typer.Option("--sensitive", help="Write sensitive fields in clear, even where trace.content is not 'full'."),
    ] = False,
    estimating: Annotated[
        bool,
        typer.Option("--estimate", help=f"Run {SAMPLE} rows, say what the whole will take, and write nothing."),
    ] = False,
    price: Annotated[
        float | None,
        typer.Option("--cost-per-hour", metavar="PRICE", min=0.0, help="Of this machine, for --estimate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimate as one JSON object.")] = False,
) -> None:
    """Run every row of a JSONL file through a stack.

    Row n is line n of the input, counted from 0. Each line of the output is {"row": n, "run": id, "output": {…}} or
    {"row": n, "run": id, "error": {…}}, the run being null where none began. Until the last row is written there is a
    journal beside the output, OUT.jsonl.fslm-batch; whatever ended the batch, the same command with --resume continues
    it. Where trace.content is not 'full', sensitive fields are redacted. The exit code is 1 if any row failed, else
    6 if any waits for a person to decide: its error's code is "review", and its run says what.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    path = None if source == inputs.STANDARD_INPUT else _input(source)
    if estimating:
        _estimate(session, found, path, concurrency, seed, timeout, price, as_json)
        return
    if price is not None or as_json:
        raise UsageError(
            "--cost-per-hour and --json are for an estimate", where="fslm batch", hint="pass --estimate with them"
        )
    if out is None:
        raise UsageError(
            "there is no output to write to", where="fslm batch", hint="pass --out OUT.jsonl, or --estimate"
        )
    if str(out) == inputs.STANDARD_INPUT:
        raise UsageError("'-' is no file to write", where="--out", hint="pass /dev/stdout to write to standard output")
    if path is not None and out.exists() and os.path.samefile(path, out):
        raise UsageError("input and output are one file", where=source, hint="choose another --out")
    if resume and force:
        raise UsageError("--resume and --force contradict each other", where="fslm batch", hint="pass one of them")
    mode: Mode = "resume" if resume else "anew" if force else "new"
    _batch(session, found, path, Output(out, mode), concurrency, seed, timeout, sensitive)


def _input(source: str) -> Path:
    if not Path(source).is_file() and not Path(source).is_fifo():
        raise UsageError(
            "there is no such input file", where=source, hint="name a JSONL file, or '-' for standard input"
        )
    if Path(source).suffix.lower() in _TABLES:
        raise UsageError(
            "a batch does not read tables",
            where=source,
            expected='a JSONL file: one JSON object a line, as {"text": "…"}',
            hint="write each row as one JSON object, into a file that ends in .jsonl",
        )
    return Path(source)


def _batch(
    session: Session,
    stack: Stack[Any, Any],
    path: Path | None,
    output: Output,
    concurrency: int,
    seed: int,
    timeout: float | None,
    sensitive: bool,
) -> None:
    content = content_of(session.settings)
    began = time.monotonic()
    with (
        output,
        opened(session, stack, max_in_flight=max(_IN_FLIGHT, concurrency)) as engine,
        Source(path) as source,
    ):
        digest, key = (digest_of, "") if content == "full" else keyed_digest(session.settings.trace_path)
        output.begin(header_of(engine, stack, seed=seed, content=content, sensitive=sensitive, key=key))
        before = output.done
        if output.mode == "resume" and before:
            screen.say(f"continuing: {counted(before, 'row')} done, {output.failed} failed")
        with RowBar(count_lines(path) if path is not None and path.is_file() else None, done=before) as bar:
            redacted = content != "full" and not sensitive
            passing = Batch(engine, stack, output, digest, concurrency, seed, timeout, redacted, bar.row)
            try:
                asyncio.run(passing.go(source.lines()))
            except KeyboardInterrupt:
                screen.say(f"{counted(output.done, 'row')} done, in {output.path}; --resume continues")
                raise
        output.finish()
    _conclude(output, before, time.monotonic() - began)


def _conclude(output: Output, before: int, took: float) -> None:
    rate = f"{(output.done - before) / took * 60:,.0f} a minute"
    earlier = f", {before:,} of them earlier" if before else ""
    asked = f", {output.review:,} for review" if output.review else ""
    failed = f"{output.failed} failed{asked}"
    screen.say(f"{counted(output.done, 'row')} in {took:.1f} s ({rate}){earlier}, {failed}, in {output.path}")
    if output.failed or output.review:
        raise typer.Exit(1 if output.failed else ReviewNeeded.exit_code)


def _estimate(
    session: Session,
    stack: Stack[Any, Any],
    path: Path | None,
    concurrency: int,
    seed: int,
    timeout: float | None,
    price: float | None,
    as_json: bool,
) -> None:
    if path is None or not path.is_file():
        raise UsageError(
            "an estimate needs an input whose rows can be counted",
            where="standard input" if path is None else str(path),
            hint="name a JSONL file",
        )
    rows, sample = sample_of(path)
    began = time.monotonic()
    with opened(session, stack, max_in_flight=max(_IN_FLIGHT, concurrency), trace=False) as engine:
        passing = estimate(
            engine,
            stack,
            rows,
            sample,
            concurrency=concurrency,
            seed=seed,
            timeout=timeout,
            began=began,
            price=price,
        )
        told = asyncio.run(passing)
    screen.result(screen.as_json(told.to_dict()) if as_json else _in_words(told, price))


def _in_words(told: Estimate, price: float | None) -> str:
    lines = {
        "rows": f"{told.rows:,}; {told.sampled} of them run, {told.failed} failed",
        "start": _span(told.start_seconds),
        "time": f"{_ranged(told.seconds, _span)}, the start included",
        "rate": f"{60 / told.row_seconds.expected:,.0f} rows a minute, {told.concurrency} at work at once"
        if told.row_seconds.expected
        else "too quick to tell",
        "memory": "unknown" if told.peak_memory_bytes is None else f"{told.peak_memory_bytes / 1e9:.2f} GB at most",
    }
    if told.cost is not None:
        lines["cost"] = f"{_ranged(told.cost, '{:,.2f}'.format)}, at {price:g} an hour"
    return "\n".join(f"{name:<8}{text}" for name, text in lines.items())


def _ranged(value: Range, show: Callable[[float], str]) -> str:
    return f"{show(value.expected)} ({show(value.low)} to {show(value.high)}, with 90 % confidence)"


def _span(seconds: float) -> str:
    """A time in words.

    >>> _span(4.21), _span(95), _span(7260)
    ('4.2 s', '1 min 35 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


__all__ = ["app"]
