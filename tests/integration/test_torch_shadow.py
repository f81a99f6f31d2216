"""A candidate's own adapter runs: beside a step it writes what it writes in the step's place, to the last token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from fslm_core.adapter import WEIGHTS
from fslm_core.engine import Engine
from fslm_core.errors import AdapterError, CheckError
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.stack import Stack, Step
from fslm_core.stage import SLM, Stage
from fslm_core.store import StoredNode, TraceStore

from .test_torch_backend_adapters import make_adapter

pytestmark = pytest.mark.torch

TEXTS = [f"order {number} of {name}" for number, name in enumerate(["two tables", "a chair", "the lamp", "yesterday"])]


class Enquiry(BaseModel):
    text: str


class Said(BaseModel):
    said: Annotated[str, Field(max_length=8)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """A base and two adapters of it."""
    base, folder = tiny_model(), tmp_path_factory.mktemp("adapters")
    return base, make_adapter(base, folder / "own", 1), make_adapter(base, folder / "candidate", 2)


def stack_of(base: Path, adapter: Path) -> Stack[Any, Any]:
    stage = Stage("t.say", input=Enquiry, output=Said, prompt="Say: {{ text }}", model=SLM(str(base), adapter=adapter))
    return Stack("t", input=Enquiry, output=Said, steps=[Step(stage, name="say")])


def ran(folder: Path, base: Path, adapter: Path, **tried: Any) -> tuple[list[str], list[StoredNode], list[StoredNode]]:
    """What each text gave: the outputs, the steps and the candidates as the trace has them."""
    stack = stack_of(base, adapter)
    settings = load(files=(), data_dir=folder, torch={"device": "cpu"}, stages={"t.say": tried} if tried else {})
    with Engine([stack], settings=settings, host=PluginHost(settings, installed=False), content="full") as engine:
        runs = [engine.run(stack, {"text": text}) for text in TEXTS]
        assert engine.settle()
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        stored = [store.run(run.id) for run in runs]
    return (
        [run.output.model_dump_json() for run in runs],
        [run.nodes[0] for run in stored],
        [shadow for run in stored for shadow in run.shadows],
    )


def written(nodes: list[StoredNode]) -> list[tuple[Any, ...]]:
    """Each answer token by token."""
    attempts = [node.attempts[-1] for node in nodes]
    return [(a.raw, a.tokens.tokens, a.tokens.forced) if a.tokens else (a.raw,) for a in attempts]


def test_the_candidates_adapter_runs_beside_and_the_stages_own_is_returned(
    tmp_path: Path, place: tuple[Path, Path, Path]
) -> None:
    base, own, candidate = place
    sha = hashlib.sha256((candidate / WEIGHTS).read_bytes()).hexdigest()
    alone, own_nodes, none = ran(tmp_path / "alone", base, own)
    _, promoted, _ = ran(tmp_path / "promoted", base, candidate)
    tried = {"candidate": str(candidate), "candidate_sha256": sha, "shadow": 1.0}
    outputs, nodes, shadows = ran(tmp_path / "beside", base, own, **tried)
    assert none == [] and len(shadows) == len(TEXTS)
    assert outputs == alone and written(nodes) == written(own_nodes)
    assert written(shadows) == written(promoted) != written(nodes)
    for node, shadow, as_stage in zip(nodes, shadows, promoted, strict=True):
        assert shadow.confidence == pytest.approx(as_stage.confidence, rel=1e-3)
        assert sha[:12] in (shadow.model or "") and sha[:12] not in (node.model or "")
        assert shadow.fingerprint == as_stage.fingerprint != node.fingerprint
        assert shadow.usage.output > 0 and shadow.backend == node.backend


def test_other_weights_than_were_promised_are_refused(tmp_path: Path, place: tuple[Path, Path, Path]) -> None:
    base, own, candidate = place
    with pytest.raises(CheckError, match=r"candidate: .*not the ones promised"):
        ran(tmp_path, base, own, candidate=str(candidate), candidate_sha256="0" * 64, shadow=1.0)


def test_a_candidate_of_another_shape_is_refused_when_the_engine_opens(
    tmp_path: Path, place: tuple[Path, Path, Path], tiny_model: Callable[..., Path]
) -> None:
    base, own, _ = place
    other = make_adapter(tiny_model("gpt2"), tmp_path / "gpt2", 3, "gpt2")
    with pytest.raises(AdapterError):
        ran(tmp_path, base, own, candidate=str(other), shadow=1.0)
