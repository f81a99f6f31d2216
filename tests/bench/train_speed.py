"""How fast one stage trains: TRL and the transformers Trainer as they come, beside `fslm_core.train`.

    python tests/bench/train_speed.py                       # all ways, 8 steps each
    python tests/bench/train_speed.py --only fslm-10 --steps 20

Every way sees the same rows (short messages, one label each), the same LoRA (rank 8 on all linear layers) and
batches of 16 rows. Tokens are those of the rows, prompt and answer, however often or seldom they are computed.
A step's time is the median, the first step left out. Each way runs in a process of its own, on one thread unless
OMP_NUM_THREADS says otherwise, so that processor seconds mean the same on a busy machine. "1 epoch" and "3 epochs"
count the one pass through frozen layers too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROWS = 16
LABELS = ("ACCOUNT", "CONTACT", "DELIVERY", "FEEDBACK", "INVOICE", "ORDER", "PAYMENT", "REFUND")
WORDS = ("order", "refund", "cancel", "invoice", "account", "delivery", "payment", "money", "charged", "address")
FILLERS = ("i", "need", "help", "with", "my", "last", "it", "has", "not", "arrived", "and", "could", "you", "please")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def messages(count: int) -> list[tuple[str, str]]:
    """Made-up messages of 6 to 16 words and a label each; prompts come to about 30 tokens, answers to 6."""
    rng = random.Random(0)
    return [(" ".join(rng.choices(WORDS + FILLERS, k=rng.randint(6, 16))), rng.choice(LABELS)) for _ in range(count)]


def base() -> Path:
    """The built-in base model's folder."""
    from fslm_core import settings
    from fslm_core.checkpoints import resolve

    return resolve("smollm2-135m", settings.load()).path


class Clock:
    """Collects, at the end of each step, the time of day and the processor's time."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        """Note the end of a step."""
        self.ends.append((time.perf_counter(), time.process_time()))

    def callback(self) -> Any:
        """As a Trainer's callback."""
        from transformers import TrainerCallback

        clock = self

        class Ticker(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.tick()

        return Ticker()

    def step(self) -> tuple[float, float]:
        """Median seconds of a step, by the clock and by the processor, the first step left out."""
        pairs = list(pairwise(self.ends))
        return statistics.median(b[0] - a[0] for a, b in pairs), statistics.median(b[1] - a[1] for a, b in pairs)


def examples(steps: int) -> list[Any]:
    """The rows as token ids, by the functions that serve."""
    from transformers import AutoTokenizer

    from fslm_core.backends.torch.encoding import encode, encode_text, end_ids
    from fslm_core.prompt import Prompt, Span
    from fslm_core.train.objective import Example

    tokenizer = AutoTokenizer.from_pretrained(base())
    made = []
    for text, label in messages(ROWS * steps):
        prompt = Prompt((Span("category", "system"), Span(text, "user", static=False)))
        ids = encode(prompt, tokenizer, context=2048, max_tokens=64).ids
        made.append(
            Example(
                ids,
                (
                    *encode_text(json.dumps({"category": label}, separators=(",", ":")), tokenizer),
                    end_ids(tokenizer)[0],
                ),
            )
        )
    return made


def trl(steps: int, folder: str, **options: Any) -> tuple[Clock, float]:
    """`trl.SFTTrainer` on prompt and completion."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    rows = [
        {
            "prompt": [{"role": "system", "content": "category"}, {"role": "user", "content": text}],
            "completion": [{"role": "assistant", "content": json.dumps({"category": label}, separators=(",", ":"))}],
        }
        for text, label in messages(ROWS * steps)
    ]
    clock = Clock()
    trainer = SFTTrainer(
        model=str(base()),
        args=SFTConfig(folder, **_arguments(steps), **options),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"),
        callbacks=[clock.callback()],
    )
    trainer.train()
    return clock, 0.0


def trainer(steps: int, folder: str) -> tuple[Clock, float]:
    """The transformers `Trainer` in float32: padded batches, labels masked, nothing else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    plain = AutoModelForCausalLM.from_pretrained(base(), dtype=torch.float32)
    model = get_peft_model(plain, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        longest = max(map(len, batch))
        ids = [list(e.prompt + e.target) for e in batch]
        labels = [[-100] * len(e.prompt) + list(e.target) for e in batch]
        return {
            "input_ids": torch.tensor([row + [2] * (longest - len(row)) for row in ids]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
            "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
        }

    clock = Clock()
    Trainer(
        model,
        TrainingArguments(folder, **_arguments(steps), remove_unused_columns=False),
        data_collator=collate,
        train_dataset=examples(steps),
        callbacks=[clock.callback()],
    ).train()
    return clock, 0.0


def fslm(steps: int, folder: str, layers: int | None) -> tuple[Clock, float]:
    """`fslm_core.train`, its Trainer and loss; also returns seconds spent reading rows through frozen layers."""
    from fslm_core.settings import TorchSettings
    from fslm_core.train.loop import Run, State
    from fslm_core.train.model import add_lora, load_base
    from fslm_core.train.objective import Objective
    from fslm_core.train.plan import make_plan, sorted_batches
    from fslm_core.train.progress import Stepped
    from fslm_core.train.recipe import Data, Lora, Optim, Recipe

    rows = examples(steps)
    lengths = [len(row) for row in rows]
    recipe = Recipe(
        stage="bench.category", output=Path(folder), data=Data(train=Path(folder)), epochs=1,
        lora=Lora(layers=layers), optim=Optim(batch_rows=ROWS),
    )  # fmt: skip
    model, frozen = add_lora(load_base(base(), TorchSettings()), recipe.lora, seed=0)
    objective = Objective(model, rows, frozen=frozen)
    begun = time.process_time()
    for _ in objective.prepare(sorted_batches(lengths, rows=64, tokens=4096)):
        pass
    reading = time.process_time() - begun
    clock = Clock()
    plan = make_plan(lengths, epochs=1, seed=0, rows=ROWS, tokens=4096)
    run = Run(
        objective, plan, recipe, state=State("bench"), folder=Path(folder), judge=lambda: {"exact": 0.0},
        lengths=lengths, progress=lambda event: clock.tick() if isinstance(event, Stepped) else None,
    )  # fmt: skip
    run.train(None)
    return clock, reading


def _arguments(steps: int) -> dict[str, Any]:
    return {
        "max_steps": steps, "per_device_train_batch_size": ROWS, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip


WAYS: dict[str, Callable[[int, str], tuple[Clock, float]]] = {
    "trl": lambda steps, folder: trl(steps, folder),
    "trl-float32": lambda steps, folder: trl(steps, folder, bf16=False, gradient_checkpointing=False),
    "trainer-float32": trainer,
    "fslm-30": lambda steps, folder: fslm(steps, folder, None),
    "fslm-20": lambda steps, folder: fslm(steps, folder, 20),
    "fslm-10": lambda steps, folder: fslm(steps, folder, 10),
}
"""`fslm-N` adapts the topmost N of the base's 30 layers."""


def measure(way: str, steps: int) -> dict[str, Any]:
    """Run one way in this process."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        clock, reading = WAYS[way](steps, folder)
    tokens = sum(map(len, examples(steps))) / steps
    wall, worked = clock.step()
    return {
        "way": way,
        "step_seconds": round(wall, 2),
        "step_processor_seconds": round(worked, 2),
        "tokens": round(tokens / worked),
        "tokens_1_epoch": round(tokens / (worked + reading / steps)),
        "tokens_3_epochs": round(tokens / (worked + reading / steps / 3)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=list(WAYS), action="append")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.only[0], options.steps)))
        return
    print("| way | s a step | processor s a step | tokens a processor second | 1 epoch | 3 epochs | peak MiB |")
    print("| --- " * 7 + "|")
    for way in options.only or WAYS:
        command = [sys.executable, __file__, "--here", "--only", way, "--steps", str(options.steps)]
        environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
        environment.setdefault("OMP_NUM_THREADS", "1")
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        print("|", *(f"{value} |" for value in json.loads(done.stdout.splitlines()[-1]).values()), flush=True)


if __name__ == "__main__":
    main()
