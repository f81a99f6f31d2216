"""OpenVINO GenAI's continuous batching: three pipelines of merged weights, or one pipeline with adapters.

Arms: ``merged-fp16``, ``merged-int8`` (symmetric, a scale a row) and ``merged-int4`` (asymmetric, groups of 32, the
embedding in int8, as the base's own file has it), with a prefix cache each; ``adapter-fp16`` and ``adapter-int8``:
one pipeline, which takes one set of adapters for each ``generate`` call, so that what waits is run a stage at a time;
its prefix cache does not know adapters, so it is off there.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections import deque
from itertools import count
from pathlib import Path
from typing import Any

from tests.bench.peers import weights
from tests.bench.peers.gbnf import for_xgrammar
from tests.bench.peers.protocol import Answer, Engine, Job, Request, Tell, main

CACHE_GB = 1
MAX_SEQS = 64
INT4 = ("--weight-format", "int4", "--group-size", "32", "--ratio", "1.0")
FORMATS = {"fp16": ("--weight-format", "fp16"), "int8": ("--weight-format", "int8"), "int4": INT4}


def model(job: Job, adapter: Path | None) -> Path:
    """Return the exported folder of base and adapter merged, made on first use."""
    place = job.work_dir / f"openvino-{job.precision}-{weights.key(job.base, adapter)}"

    def make(folder: Path) -> None:
        whole = weights.merged_folder(job.base, adapter, job.work_dir)
        export = [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model", str(whole)]
        export += ["--task", "text-generation-with-past", *FORMATS[job.precision], str(folder)]
        subprocess.run(export, check=True, stdout=sys.stderr)

    return weights.once(place, make)


class Merged(Engine):
    """One pipeline for each stage; each step of the loop gives every busy pipeline one forward."""

    def __init__(self, job: Job, tell: Tell) -> None:
        super().__init__(job, tell)
        self.label = f"openvino-genai {importlib.metadata.version('openvino-genai')}"
        self.end = _end(job)
        self._numbers = count()
        self._load()

    def _load(self) -> None:
        self.pipes = {stage.name: _pipeline(self.job, stage.adapter, prefixes=True) for stage in self.job.stages}
        self.flying: dict[str, dict[int, tuple[Request, Any]]] = {stage.name: {} for stage in self.job.stages}

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Export the models."""
        for stage in job.stages:
            model(job, stage.adapter)

    def submit(self, request: Request) -> None:
        number = next(self._numbers)
        handle = self.pipes[request.stage].add_request(number, _tensor(request.ids), _config(request, self.end))
        self.flying[request.stage][number] = (request, handle)

    def step(self) -> bool:
        for name, pipe in self.pipes.items():
            if self.flying[name]:
                pipe.step()
                self._collect(name, pipe)
        return any(self.flying.values())

    def _collect(self, name: str, pipe: Any) -> None:
        import openvino_genai as ov

        for number, (request, handle) in list(self.flying[name].items()):
            status = handle.get_status()
            if status == ov.GenerationStatus.RUNNING:
                continue
            del self.flying[name][number]
            if status == ov.GenerationStatus.FINISHED:
                self.tell(request, _answer(handle.read_all()[0].generated_ids, pipe))
            else:
                self.tell(request, RuntimeError(f"OpenVINO GenAI gave it up: {status}"))

    def reset(self) -> None:
        """The pipelines have no other way to forget than to be made again."""
        del self.pipes
        self._load()

    def settings(self) -> dict[str, Any]:
        return {"prefix cache": True, "cache_gb": CACHE_GB, "pipelines": len(self.pipes)}


class Adapters(Engine):
    """One pipeline; waiting requests of one stage, the oldest first, make one ``generate`` call."""

    def __init__(self, job: Job, tell: Tell) -> None:
        import openvino_genai as ov

        super().__init__(job, tell)
        self.label = f"openvino-genai {importlib.metadata.version('openvino-genai')}"
        self.end = _end(job)
        self.adapters = {
            s.name: ov.Adapter(str(_with_alpha(job, s.adapter))) for s in job.stages if s.adapter is not None
        }
        known = ov.AdapterConfig()
        for adapter in self.adapters.values():
            known.add(adapter)
        self.pipe = _pipeline(job, None, prefixes=False, adapters=known)
        self.waiting: deque[Request] = deque()

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Export the base."""
        model(job, None)
        for stage in job.stages:
            if stage.adapter is not None:
                _with_alpha(job, stage.adapter)

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    def step(self) -> bool:
        import openvino_genai as ov

        if not self.waiting:
            return False
        stage = self.waiting[0].stage
        group = [r for r in self.waiting if r.stage == stage][:MAX_SEQS]
        self.waiting = deque(r for r in self.waiting if r not in group)
        configs = [_config(request, self.end) for request in group]
        chosen = ov.AdapterConfig(self.adapters[stage]) if stage in self.adapters else ov.AdapterConfig()
        for config in configs:
            config.adapters = chosen
        results = self.pipe.generate([_tensor(r.ids) for r in group], configs)
        for request, result in zip(group, results, strict=True):
            self.tell(request, _answer(result.m_generation_ids[0], self.pipe))
        return bool(self.waiting)

    def settings(self) -> dict[str, Any]:
        return {"prefix cache": False, "cache_gb": CACHE_GB, "pipelines": 1}


def _pipeline(job: Job, adapter: Path | None, *, prefixes: bool, adapters: Any = None) -> Any:
    import openvino_genai as ov

    scheduler = ov.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.enable_prefix_caching = prefixes
    scheduler.max_num_seqs = MAX_SEQS
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    if adapters is not None:
        properties["adapters"] = adapters
    return ov.ContinuousBatchingPipeline(str(model(job, adapter)), scheduler, "CPU", properties)


def _with_alpha(job: Job, adapter: Path) -> Path:
    """The adapter's weights in one file with its alpha beside each pair, where OpenVINO looks for it."""
    import numpy as np

    def make(path: Path) -> None:
        pairs, scale = weights.lora(adapter)
        tensors: dict[str, Any] = {}
        for name, (a, b) in pairs.items():
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            tensors[f"{stem}.alpha"] = np.array(scale * a.shape[0], np.float32)
        weights.write(path, tensors, "F32")

    return weights.once(job.work_dir / f"openvino-adapter-{weights.key(adapter)}.safetensors", make)


def _end(job: Job) -> int:
    ends = weights.config(job.base)["eos_token_id"]
    return int(ends if isinstance(ends, int) else ends[0])


def _tensor(ids: list[int]) -> Any:
    import numpy as np
    import openvino

    return openvino.Tensor(np.array([ids], np.int64))


def _config(request: Request, end: int) -> Any:
    import openvino_genai as ov

    config = ov.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.do_sample = False
    config.eos_token_id = end
    config.stop_token_ids = {end}
    if request.schema is not None:
        config.structured_output_config = ov.StructuredOutputConfig(grammar=for_xgrammar(request.schema))
    return config


def _answer(ids: list[int], pipe: Any) -> Answer:
    return Answer(pipe.get_tokenizer().decode(ids), len(ids))


if __name__ == "__main__":
    main(lambda job: Merged if job.way == "merged" else Adapters, "tests.bench.peers.openvino_genai_cb")
