"""A worker of the benchmark from its start to its end, with answers known beforehand in place of a model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from fslm_core.backends.protocol import ModelRef, Request

from ..bench import ROOT
from ..bench.engines import EngineSpec
from ..bench.measure import family
from ..bench.pilot import Pilot
from ..bench.problems import BenchError
from ..bench.recording import Encoder
from ..bench.worker import Job
from ..bench.workloads import WORKLOADS

pytestmark = pytest.mark.torch

TEXTS = ("where is my parcel", "i want my money back", "close my account")
TICKET = {"category": "ACCOUNT", "intent": "delete_account", "entity_type": None, "entity_value": None}


def answers(base: Path, folder: Path) -> Path:
    """What the control's one stage says to each text; to the second something that is no ticket."""
    (step,) = WORKLOADS["control"].stack().steps
    stage, encode = step.stage, Encoder(base)
    lines = []
    for number, text in enumerate(TEXTS):
        prompt = stage.render(stage.input(text=text))
        ids = encode(Request("r", prompt, ModelRef("smollm2-135m", base), None, stage.max_tokens))
        lines.append([stage.name, ids, "no ticket" if number == 1 else json.dumps(TICKET, separators=(",", ":"))])
    file = folder / "answers.json"
    file.write_text(json.dumps(lines))
    return file


def test_a_worker_answers_times_and_stands_still_between(base_model: Path, tmp_path: Path) -> None:
    file = answers(base_model, tmp_path)
    peer = {
        "command": [sys.executable, str(ROOT / "tests/bench/replay.py")],
        "environment": {},
        "job": {"arm": "replay", "work_dir": str(tmp_path), "answers": str(file)},
    }
    core = min(os.sched_getaffinity(0))
    job = Job(EngineSpec("echo", "replay-peer", "auto"), "control", (core,), {}, peer, str(file))
    inputs = [{"text": text} for text in TEXTS]
    with Pilot(job, tmp_path) as pilot:
        pilot.call("load")
        processes = family(pilot._process.pid)
        assert [process.status() for process in processes] == [psutil.STATUS_STOPPED] * len(processes)
        assert {process.cpu_affinity()[0] for process in processes} == {core}
        found = pilot.call("ask", inputs=inputs, concurrency=2, record=True)
        assert found["outputs"] == [TICKET, None, TICKET]
        assert found["texts"][1] == {"(failed)": "no ticket"}
        assert sorted(message["row"] for message in found["messages"]) == [0, 1, 2]
        timing, told = pilot.time(inputs * 4, 4, 60.0)
        assert (len(timing.latencies), timing.failed) == (12, 4)
        assert told["usage"]["prompt"] == 4 * sum(len(ids) for _, ids, _ in json.loads(file.read_text()))
        assert pilot.call("memory")["peak_rss_mb"] > 1
        with pytest.raises(BenchError, match="unknown"):
            pilot.call("unknown")
    assert not [process for process in processes if process.is_running()]
