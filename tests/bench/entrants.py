"""Who takes part in a run of the benchmark, what is asked of each, and how what was found of it is written down."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import ROOT
from .engines import EngineSpec
from .limit import Rates, Work
from .measure import Timing, figures
from .pilot import Pilot
from .problems import BenchError

POINT = 0.01
"""How far valid outputs and the task's score may fall behind the reference's."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is asked of a run.

    Attributes:
        rows: stacks timed in a round of a closed loop; at least four for each client.
        batch: stacks of an offline batch, all asked at once; 0 times none.
        quality: rows that are scored.
        isolation: rows on whose prompts the adapters are tried; 0 tries none.
        patience: seconds after which a round ends unfinished; a slow engine is scored on what it answers meanwhile.
        torch: settings of the torch backend for our engines, before their own.
        spare: MiB of memory that stay free; where there would be less, an engine is closed between its turns.
    """

    data: Path
    engines: Sequence[EngineSpec]
    workloads: Sequence[str]
    concurrency: Sequence[int] = (1, 32)
    rows: int = 40
    batch: int = 256
    rounds: int = 3
    quality: int = 200
    isolation: int = 4
    patience: float = 240.0
    cores: tuple[int, ...] = (0, 1)
    torch: Mapping[str, Any] = field(default_factory=dict)
    peers_dir: Path | None = None
    gguf: Path | None = None
    spare: int = 4096

    def measurements(self) -> list[tuple[int, int]]:
        """Pairs of concurrency and number of stacks; in a batch they are equal."""
        loops = [(clients, max(self.rows, 4 * clients) if clients > 1 else self.rows) for clients in self.concurrency]
        return loops + ([(self.batch, self.batch)] if self.batch else [])


@dataclass(frozen=True)
class Quality:
    """How good an engine's outputs are, and the reference's on the same rows. Shares, 0 to 1.

    Attributes:
        agreement: the share of the reference's messages that are the same, letter by letter.
    """

    rows: int
    valid: float
    score: float
    reference_valid: float
    reference_score: float
    agreement: float

    @property
    def passed(self) -> bool:
        """Whether neither is more than a point behind."""
        return self.valid >= self.reference_valid - POINT and self.score >= self.reference_score - POINT

    def __str__(self) -> str:
        of = f"(the reference {self.reference_valid:.3f}, {self.reference_score:.3f})"
        return f"valid {self.valid:.3f}, score {self.score:.3f} {of}, {self.agreement:.3f} of the messages the same"


@dataclass
class Entrant:
    """One engine in one workload, and what is known of it so far. ``pilot`` is None while it is closed."""

    spec: EngineSpec
    pilot: Pilot | None
    loaded: Json
    warm_s: float = 0.0
    quality: Quality | None = None
    isolation: Json = field(default_factory=dict)
    timings: dict[int, list[tuple[Timing, Json]]] = field(default_factory=dict)
    peak_rss_mb: float = 0.0


@dataclass
class Found:
    """What a run gives: records for the tables, and what else is worth keeping."""

    records: list[Json] = field(default_factory=list)
    failures: list[Json] = field(default_factory=list)
    overheads: list[Json] = field(default_factory=list)
    work: dict[str, Json] = field(default_factory=dict)
    rates: Rates | None = None
    stopped: bool = False


def record(
    workload: str,
    plan: Plan,
    entrant: Entrant,
    clients: int,
    timings: Sequence[tuple[Timing, Json]],
    work: Work,
    rates: Rates,
) -> Json:
    """One engine at one concurrency, as it is written to the JSON file. Seconds, MiB, shares from 0 to 1.

    ``prompt_tokens_computed``, ``prompt_tokens_cached`` and ``forced`` are of a whole stack; ``limit_s`` is the least
    time of a stack in the engine's own precision class, ``share_of_limit`` how much of that speed was reached,
    ``share_of_best_limit`` the same beside the best class, and ``share_of_limit_drafted`` beside perfect drafts.
    """
    figure = figures([timing for timing, _ in timings])
    stacks = sum(len(timing.latencies) for timing, _ in timings)
    usage = {key: sum(told["usage"][key] for _, told in timings) for key in timings[0][1]["usage"]}
    messages = sum(told["messages"] for _, told in timings)
    precision = entrant.spec.precision
    least, best = work.seconds(rates, precision, clients), work.seconds(rates, "auto", clients)
    drafted = work.seconds(rates, precision, clients, drafted=True)
    taken = figure.p50_s if clients == 1 else 1 / figure.stacks_per_s
    quality = entrant.quality
    assert quality is not None
    verdict = entrant.isolation.get("verdict", "untried")
    return {
        "engine": entrant.spec.name,
        "ours": entrant.spec.ours,
        "precision": entrant.spec.precision,
        "runs": entrant.loaded["runs"],
        "workload": workload,
        "mode": "batch" if clients == plan.batch else "loop",
        "concurrency": clients,
        **{key: value for key, value in asdict(figure).items()},
        "valid": quality.valid,
        "score": quality.score,
        "reference_score": quality.reference_score,
        "scored_rows": quality.rows,
        "gate": quality.passed,
        "agreement": quality.agreement,
        "isolation": verdict,
        "isolation_counts": entrant.isolation,
        "counts_as_peer": quality.passed and verdict != "fails" and entrant.spec.kind == "peer",
        "peak_rss_mb": entrant.peak_rss_mb,
        "load_s": entrant.loaded["load_s"],
        "prepare_s": entrant.loaded["prepare_s"],
        "warm_s": entrant.warm_s,
        "forwards_per_message": usage["forwards"] / max(1, messages),
        "prompt_tokens": usage["prompt"] / stacks,
        "prompt_tokens_computed": (usage["prompt"] - usage["cached"]) / stacks,
        "prompt_tokens_cached": usage["cached"] / stacks,
        "output_tokens": usage["output"] / stacks,
        "forced": usage["forced"] / stacks,
        "limit_s": least,
        "share_of_limit": least / taken,
        "share_of_best_limit": best / taken,
        "limit_drafted_s": drafted,
        "share_of_limit_drafted": drafted / taken,
        "settings": entrant.loaded["settings"],
    }


def agreement(reference: Sequence[Mapping[str, str]], found: Sequence[Mapping[str, str]]) -> float:
    """The share of the reference's messages that are the same, letter by letter.

    >>> agreement([{"a": "1", "b": "2"}], [{"a": "1", "b": "3"}])
    0.5
    """
    pairs = [
        (text, other.get(step)) for ours, other in zip(reference, found, strict=True) for step, text in ours.items()
    ]
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


def peer_job(spec: EngineSpec, plan: Plan, folder: Path, answers: Path | None) -> Json | None:
    """How the engine's own process is started, for those that have one.

    Raises:
        BenchError: the peer's environment is not there.
    """
    if spec.kind == "replay-peer":
        command = [sys.executable, str(ROOT / "tests/bench/replay.py")]
        echo = {"arm": "replay", "work_dir": str(folder), "answers": str(answers)}
        return {"command": command, "environment": {}, "job": echo}
    if spec.peer is None:
        return None
    from .peers import PEERS, environments

    peer, arm = PEERS[spec.peer[0]], spec.peer[1]
    home = plan.peers_dir or environments()
    if not peer.installed(home):
        raise BenchError(f"{peer.name} is not installed: python -m tests.bench.peers install --dir {home} {peer.name}")
    work_dir = home / "work" / peer.name
    work_dir.mkdir(parents=True, exist_ok=True)
    job = {
        "gguf": str(plan.gguf) if plan.gguf else None,
        "arm": arm,
        "threads": len(plan.cores),
        "work_dir": str(work_dir),
    }
    return {"command": peer.command(home), "environment": peer.environment(), "job": job}


__all__ = ["POINT", "Entrant", "Found", "Plan", "Quality", "agreement", "peer_job", "record"]
