"""transformers' ``generate`` with llguidance: PEFT adapters one request at a time, in mixed batches, or merged in.

Arms: ``naive-PRECISION`` (``set_adapter``, one request at a time), ``mixed-PRECISION`` (what waits makes one batch
with ``adapter_names``), ``merged-PRECISION`` (a model for each stage, what waits for one makes a batch), with fp32
or bf16. ``generate`` works through a batch until its last row ends, and keeps no prompt for the next one.
"""

from __future__ import annotations

from collections import deque
from importlib.metadata import version
from typing import Any

from tests.bench.peers import weights
from tests.bench.peers.grammars import Grammars
from tests.bench.peers.protocol import Answer, Engine, Job, Request, Tell, main

ROWS = 32


class Generate(Engine):
    """One batch after another; a batch is what waits when it starts."""

    def __init__(self, job: Job, tell: Tell) -> None:
        import torch

        super().__init__(job, tell)
        torch.set_num_threads(job.threads)
        self.label = f"transformers {version('transformers')} + PEFT {version('peft')}"
        self.grammars = Grammars(job.base)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job.precision]
        self.adapters = {s.name: s.name.replace(".", "_") if s.adapter else "__base__" for s in job.stages}
        self.models = self._models()
        self.waiting: deque[Request] = deque()

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Merge, where the arm asks for it."""
        if job.way == "merged":
            for stage in job.stages:
                weights.merged_folder(job.base, stage.adapter, job.work_dir)

    def _models(self) -> dict[str, Any]:
        stages = self.job.stages
        if self.job.way == "merged":
            return {
                s.name: self._load(weights.merged_folder(self.job.base, s.adapter, self.job.work_dir)) for s in stages
            }
        from peft import PeftModel

        model: Any = self._load(self.job.base)
        for stage in stages:
            name = self.adapters[stage.name]
            if not stage.adapter:
                continue
            if isinstance(model, PeftModel):
                model.load_adapter(str(stage.adapter), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(
                    model, str(stage.adapter), adapter_name=name, autocast_adapter_dtype=False
                )
        return {stage.name: model.to(self.dtype).eval() for stage in stages}

    def _load(self, folder: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype, local_files_only=True).eval()

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    def step(self) -> bool:
        if not self.waiting:
            return False
        group = self._group()
        self.waiting = deque(r for r in self.waiting if r not in group)
        self._write(group)
        return bool(self.waiting)

    def _group(self) -> list[Request]:
        first = self.waiting[0]
        if self.job.way == "naive":
            return [first]
        if self.job.way == "mixed":
            return list(self.waiting)[:ROWS]
        return [r for r in self.waiting if r.stage == first.stage][:ROWS]

    def _write(self, group: list[Request]) -> None:
        import torch
        from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

        longest = max(len(r.ids) for r in group)
        end = self.grammars.end
        ids = torch.tensor([[end] * (longest - len(r.ids)) + r.ids for r in group])
        mask = torch.tensor([[0] * (longest - len(r.ids)) + [1] * len(r.ids) for r in group])
        rows = self.grammars.rows([r.schema for r in group], longest)
        limits = torch.tensor([r.max_tokens for r in group])

        class Mask(LogitsProcessor):
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                return rows.mask(input_ids, scores)

        class Stop(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return rows.stopped(input_ids, scores) | (input_ids.shape[1] - longest >= limits)

        extra: dict[str, Any] = {}
        model = self.models[group[0].stage]
        if self.job.way == "mixed":
            extra["adapter_names"] = [self.adapters[r.stage] for r in group]
        elif self.job.way == "naive" and self.adapters[group[0].stage] != "__base__":
            model.set_adapter(self.adapters[group[0].stage])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=int(limits.max()), pad_token_id=end,
                logits_processor=LogitsProcessorList([Mask()]),
                stopping_criteria=StoppingCriteriaList([Stop()]), **extra,
            )  # fmt: skip
        for request, row in zip(group, out[:, longest:].tolist(), strict=True):
            tokens = row[: row.index(end)] if end in row else row
            text = self.grammars.tokenizer.decode(tokens, skip_special_tokens=True)
            self.tell(request, Answer(text, len(tokens), computed=len(request.ids), cached=0))

    def settings(self) -> dict[str, Any]:
        return {"rows": 1 if self.job.way == "naive" else ROWS, "prefix cache": False}


if __name__ == "__main__":
    main(lambda job: Generate, "tests.bench.peers.transformers_peft")
