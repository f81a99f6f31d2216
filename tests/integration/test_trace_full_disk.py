"""A disk that is full under a running engine: what `trace.on_failure` promises, with files that really cannot grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")

PROGRAM = """
import json, logging, resource, sys
from pathlib import Path
from fslm_core import Engine, settings
from fslm_core.errors import StoreError
from fslm_echo import Said, echo

said = []

class Lines(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger("fslm").addHandler(Lines())
on_failure, data = sys.argv[1], Path(sys.argv[2])
chosen = settings.load(files=[], data_dir=data, trace={"on_failure": on_failure})
failed = ran = 0
lost = []
observed = []

def run(engine, count):
    global failed, ran
    for n in range(count):
        try:
            ran += engine.run(echo, Said(text="x" * 9000)).status == "succeeded"
        except StoreError:
            failed += 1
    lost.append(engine.records_lost)

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
watch = lambda event: observed.append(getattr(event, "count", 0)) if type(event).__name__ == "RecordsLost" else None
with Engine(stacks=[echo], settings=chosen, content="full", observers=[watch]) as engine:
    run(engine, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    run(engine, 5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run(engine, 2)
print(json.dumps({"failed": failed, "ran": ran, "lost": [*lost, engine.records_lost], "said": said,
                  "observed": sum(observed)}))
"""


def ran(on_failure: str, data: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", PROGRAM, on_failure, str(data)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def statuses(data: Path) -> list[str]:
    from fslm_core.store import TraceStore

    with TraceStore.open(data / "trace.db") as store:
        return [run.status for run in store.runs(limit=99)][::-1]


def test_continue_loses_records_counts_them_and_says_when_it_begins_and_ends(tmp_path: Path) -> None:
    told = ran("continue", tmp_path)
    assert (told["ran"], told["failed"]) == (10, 0)
    before, during, after, closed = told["lost"]
    assert before == 0 and during == after == closed == told["observed"] > 5
    begins, ends, closes = told["said"]
    assert "incomplete from here on, and runs go on without it" in begins
    assert ends == f"the trace is written again; lost in between: {during} records"
    assert closes == f"the trace is closed; it lacks {closed} records"
    assert statuses(tmp_path) == ["succeeded"] * 5


def test_fail_fails_each_run_that_cannot_be_recorded_and_no_other(tmp_path: Path) -> None:
    told = ran("fail", tmp_path)
    assert (told["ran"], told["failed"]) == (5, 5)
    assert statuses(tmp_path) == ["succeeded"] * 5
