"""Another environment's fslm, asked over pipes: one process never holds two versions of a plugin.

The protocol, version 1, is three verbs that every fslm-core has, run as ``PYTHON -m fslm_core VERB``:

- ``--version`` prints ``fslm`` and the version;
- ``check STACK --json`` prints one object, of which ``steps`` (each with ``name``, ``plugin`` and ``model``) and
  ``errors`` are read;
- ``batch STACK - --out /dev/stdout --force --sensitive --concurrency N --seed N`` reads one JSON object a line on
  standard input and writes, in the same order, ``{"row": n, "run": id, "output": {…}}`` or ``{"row": n, "run": id,
  "error": {"code": …, "what": …}}``, ``n`` counted from 0. Exit code 1 says that a row failed.

Inputs and outputs pass through pipes alone. Runs are traced into a database of their own, without any text, for the
time each took; it is removed afterwards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import GateError, StoreError, UnknownNameError, shorten
from ..store import TraceStore

PROTOCOL = 1
_PROBE_SECONDS = 120.0
_PATIENCE_SECONDS = 5.0
_TOLD_LINES = 8
"""Of what a process said last on standard error."""
_OTHERS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables that would make another Python import this one's packages."""
_CODE = re.compile(r"error\[([a-z-]+)\]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stack made of one input: an output or an error, and the seconds its run took where that is known."""

    output: Mapping[str, Any] | None
    code: str | None = None
    what: str | None = None
    seconds: float | None = None


@dataclass
class Answers:
    """The answers of one side, in the rows' order; ``died`` says why there are fewer than rows."""

    rows: list[Answer] = field(default_factory=list)
    died: str | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One environment.

    Attributes:
        name: ``baseline`` or ``current``.
        environment: the variables its processes get.
        version: of its fslm, as it says it.
        steps: of the stack, as its check shows them.
    """

    name: str
    python: str
    environment: Mapping[str, str]
    version: str
    steps: tuple[Mapping[str, Any], ...]

    @property
    def plugins(self) -> tuple[str, ...]:
        """The plugins whose stages the stack has, with their versions."""
        return tuple(dict.fromkeys(str(step["plugin"]) for step in self.steps if step.get("plugin")))

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"python": self.python, "version": self.version, "plugins": self.plugins, "steps": self.steps}


def variables(trace: Path, *, other: bool, locked: bool = False, settings: Path | None = None) -> dict[str, str]:
    """The environment of a side's processes.

    Args:
        trace: the database that its runs are timed in.
        other: it is not this Python, whose packages it must not find.
        locked: the settings refuse what differs from the lock, which one of two versions must.
        settings: the settings file it reads in place of the usual ones.
    """
    made = {name: value for name, value in os.environ.items() if not (other and name in _OTHERS)}
    made |= {"FSLM_TRACE__PATH": str(trace), "FSLM_TRACE__CONTENT": "none", "PYTHONSAFEPATH": "1"}
    if locked:
        made["FSLM_LOCKED"] = "false"
    if settings is not None:
        made["FSLM_CONFIG"] = str(settings)
    return made


def look(name: str, python: str, stack: str, environment: Mapping[str, str]) -> Side:
    """Ask an environment for its version and for the stack, loading no weight.

    Raises:
        GateError: there is no such Python, it has no fslm-core, or its check refuses the stack.
        UnknownNameError: it has no such stack.
    """
    found = shutil.which(python) or python
    version = _asked(name, [found, "-m", "fslm_core", "--version"], environment)
    said = version.stdout.strip()
    if version.returncode or not said.startswith("fslm "):
        lacks = "No module named" in version.stderr and "fslm_core" in version.stderr
        raise GateError(
            f"the {name} Python has no fslm-core" if lacks else f"the {name} Python does not run fslm",
            where=python,
            found=shorten(version.stderr.strip() or said) or None,
            expected="a Python whose environment has fslm-core and the plugin",
            hint=f"install them there: {python} -m pip install fslm-core …",
        )
    return Side(name, found, dict(environment), said, _steps(name, found, stack, environment))


def _steps(name: str, python: str, stack: str, environment: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    checked = _asked(name, [python, "-m", "fslm_core", "check", stack, "--json"], environment)
    code = _CODE.search(checked.stderr)
    if checked.returncode == 2 and code is not None and code[1] == "unknown-name":
        raise UnknownNameError(
            f"the {name} has no stack named {shorten(stack, 80)!r}",
            where=python,
            found=_last_lines(checked.stderr.splitlines()),
            hint=f"see what it has: {python} -m fslm_core list",
        )
    try:
        data = json.loads(checked.stdout)
        steps, errors = data["steps"], data["errors"]
    except (ValueError, KeyError, TypeError):
        steps, errors = None, [_last_lines(checked.stderr.splitlines())]
    if steps is None or errors:
        raise GateError(
            f"the {name} cannot run the stack {shorten(stack, 80)!r}",
            where=python,
            found="; ".join(map(str, errors)),
            expected="a stack that passes its check there",
            hint=f"{python} -m fslm_core check {stack}",
        )
    return tuple({key: step.get(key) for key in ("name", "plugin", "model")} for step in steps)


def _asked(name: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except (OSError, ValueError) as error:
        raise GateError(
            f"there is no {name} Python to run",
            where=command[0],
            found=error.strerror if isinstance(error, OSError) else str(error),
            expected="the python of another environment, such as old/bin/python",
            hint="make one: python -m venv old, and install the other version of the plugin there",
        ) from None
    except subprocess.TimeoutExpired:
        raise GateError(
            f"the {name} Python did not answer within {_PROBE_SECONDS:g} s",
            where=" ".join(command),
            hint="run that by hand, and see what holds it up",
        ) from None


def ask(
    side: Side,
    stack: str,
    inputs: Sequence[Mapping[str, Any]],
    *,
    concurrency: int,
    seed: int,
    timeout: float | None = None,
    on_row: Callable[[bool], None] = lambda failed: None,
) -> Answers:
    """Run every input through a side's stack.

    Args:
        timeout: seconds for each run.
        on_row: told after each row whether it failed.

    Returns:
        An answer a row; fewer, and why, where the process ended before the last.
    """
    command = [side.python, "-m", "fslm_core", "batch", stack, "-", "--out", "/dev/stdout", "--force", "--sensitive"]
    command += ["--concurrency", str(concurrency), "--seed", str(seed)]
    command += [] if timeout is None else ["--timeout", str(timeout)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=dict(side.environment), stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    told: deque[str] = deque(maxlen=_TOLD_LINES)
    helpers = [
        threading.Thread(target=_feed, args=(process.stdin, inputs), daemon=True),
        threading.Thread(target=_listen, args=(process.stderr, told), daemon=True),
    ]
    answers, runs = Answers(), []
    try:
        for helper in helpers:
            helper.start()
        for answer, run in _rows(process.stdout):
            answers.rows.append(answer)
            runs.append(run)
            on_row(answer.output is None)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for helper in helpers:
            helper.join(_PATIENCE_SECONDS)  # a process of its own that it left behind may keep a pipe open
        process.stdout.close()
    if len(answers.rows) < len(inputs):
        answers.died = f"{_ending(process.returncode)}; {_last_lines(told)}".removesuffix("; ")
    answers.rows = _timed(answers.rows, runs, Path(side.environment["FSLM_TRACE__PATH"]))
    return answers


def _feed(pipe: IO[bytes], inputs: Sequence[Mapping[str, Any]]) -> None:
    with suppress(BrokenPipeError), pipe:  # whoever should read it has died, which is told by the answers that lack
        for value in inputs:
            pipe.write(json.dumps(value).encode() + b"\n")


def _listen(pipe: IO[bytes], told: deque[str]) -> None:
    with pipe:
        for line in pipe:
            told.append(line.decode("utf-8", "replace").rstrip())


def _rows(pipe: IO[bytes]) -> Iterator[tuple[Answer, str | None]]:
    """The answers with the ids of their runs, in order; whatever else is printed there is passed over."""
    expected = 0
    for line in pipe:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("row") != expected or not ("output" in row or "error" in row):
            continue
        expected += 1
        run = row.get("run")
        yield _answer(row), run if isinstance(run, str) else None


def _answer(row: Mapping[str, Any]) -> Answer:
    if "output" in row:
        return Answer(row["output"])
    error = row["error"] or {}
    told = (error.get("what"), error.get("found"))
    return Answer(None, str(error.get("code")), ": ".join(str(part) for part in told if part) or None)


def _timed(answers: Sequence[Answer], runs: Sequence[str | None], trace: Path) -> list[Answer]:
    """The answers with the seconds of their runs, where this version can read the trace of that one."""
    try:
        with TraceStore.open(trace, readonly=True) as store:
            seconds = {row.id: row.seconds for row in store.runs(len(runs) + 1)}
    except StoreError:
        seconds = {}
    return [
        Answer(answer.output, answer.code, answer.what, seconds.get(run) if run else None)
        for answer, run in zip(answers, runs, strict=True)
    ]


def _ending(code: int) -> str:
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def _last_lines(lines: Sequence[str] | deque[str]) -> str:
    return shorten(" / ".join(line.strip() for line in lines if line.strip()))


def died(side: Side, row: str, number: int, total: int, why: str) -> GateError:
    """The error for a side that ended before its last row.

    Args:
        row: the first that has no answer.
        number: how many have one.
    """
    return GateError(
        f"the {side.name} ended before the last row",
        where=f"{side.python}, {row}",
        found=f"{number:,} of {total:,} rows answered; {why}",
        expected="an answer, or an error, for each row",
        hint="what both answered is compared above; run that row there by hand with `fslm run`",
    )


__all__ = ["PROTOCOL", "Answer", "Answers", "Side", "ask", "died", "look", "variables"]
