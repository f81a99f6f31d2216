"""How fast one stage trains: TRL's SFTTrainer at each of its settings that may pay, beside `fslm_core.train`.

    python -m tests.bench.train_speed --data DIR [--workload short|long] [--rows 192] [--epochs 2] [--rounds 3]
                                      [--only WAY ...] [--json OUT]

DIR holds bitext_support/ (short: a customer's message, its category and intent as JSON; 43 tokens, 16 of them target)
and gsm8k/ (long: a word problem and its solution in steps; 205 tokens, 127 of them target). Every way sees the same
token ids, the targets' loss alone, the same LoRA (rank 8 on all linear layers; a name ending in -10: of the topmost
ten layers alone), batches of 16 rows, AdamW, learning rate and schedule. Each runs in a process of its own, round after
round, the ways in turn, with as many threads as OMP_NUM_THREADS says (all cores). Told are medians over the rounds:

- tokens a second: all tokens of the rows, prompt and target, of every epoch, over the time from the first batch to
  the last weight, what is computed once before included; and those of the first to it (`x`);
- processor seconds, peak memory of the process;
- the loss of held-out rows before and after, by a plain forward in float32, the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 16
RATE = 1e-3
WARMUP = 0.1
HELD_OUT = 64
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = "smollm2-135m"


@dataclass(frozen=True)
class Work:
    """What every way is given: rows as token ids, those that are held out, and how often to pass over the first."""

    train: list[Any]
    held_out: list[Any]
    epochs: int

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.epochs * -(-len(self.train) // BATCH)

    @property
    def tokens(self) -> int:
        """Tokens that are passed over in all epochs."""
        return self.epochs * sum(map(len, self.train))


@dataclass
class Trained:
    """A PEFT model, and what its training took of the clock and of the processor."""

    model: Any
    seconds: float
    processor: float


def base() -> Path:
    """The built-in base model's folder."""
    from fslm_core import settings
    from fslm_core.checkpoints import resolve

    return resolve(BASE, settings.load()).path


def short(data: Path) -> list[tuple[str, str, str]]:
    """System turn, user turn and target."""
    rows = []
    with (data / "bitext_support/train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            target = {name: row[name] for name in ("category", "intent")}
            rows.append(("what is asked", row["text"], json.dumps(target, separators=(",", ":"))))
    return rows


def long(data: Path) -> list[tuple[str, str, str]]:
    """System turn, user turn and target."""
    with (data / "gsm8k/train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [("solve it", row["question"], row["answer"]) for row in rows]


WORKLOADS: Mapping[str, Callable[[Path], list[tuple[str, str, str]]]] = {"short": short, "long": long}


def work(data: Path, workload: str, rows: int, epochs: int) -> Work:
    """The rows as token ids, by the functions that serve; which they are is the same on every machine."""
    import random

    from transformers import AutoTokenizer

    from fslm_core.backends.torch.encoding import encode, encode_text, end_ids
    from fslm_core.prompt import Prompt, Span
    from fslm_core.train.objective import Example

    tokenizer = AutoTokenizer.from_pretrained(base())
    texts = WORKLOADS[workload](data)
    if len(texts) < rows + HELD_OUT:
        raise SystemExit(f"{rows} rows and {HELD_OUT} held out are wanted, and {len(texts)} are there: fewer --rows")
    made = []
    for system, user, target in random.Random(0).sample(texts, rows + HELD_OUT):
        prompt = Prompt((Span(system, "system"), Span(user, "user", static=False)))
        ids = encode(prompt, tokenizer, context=2048, max_tokens=128).ids
        made.append(Example(ids, (*encode_text(target, tokenizer), end_ids(tokenizer)[0])))
    return Work(made[:rows], made[rows:], epochs)


def trl(given: Work, folder: Path, *, layers: int | None = None, dtype: str = "float32", **options: Any) -> Trained:
    """`trl.SFTTrainer` on token ids, the loss on targets alone, no checkpointing of activations unless asked for."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    rows = [
        {"input_ids": [*row.prompt, *row.target], "completion_mask": [0] * len(row.prompt) + [1] * len(row.target)}
        for row in given.train
    ]
    arguments: dict[str, Any] = {
        "num_train_epochs": given.epochs, "per_device_train_batch_size": BATCH, "learning_rate": RATE,
        "warmup_steps": max(1, round(WARMUP * given.steps)), "lr_scheduler_type": "linear", "optim": "adamw_torch",
        "weight_decay": 0.0, "max_length": None, "completion_only_loss": True, "gradient_checkpointing": False,
        "bf16": False, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no",
        "logging_strategy": "no", "dataloader_pin_memory": False, "seed": 1,
    }  # fmt: skip
    begun: list[float] = []

    class Begin(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begun.extend((time.perf_counter(), time.process_time()))

    depth = 30
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base(), dtype=getattr(torch, dtype)),
        args=SFTConfig(str(folder), **{**arguments, **options}),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM",
            layers_to_transform=None if layers is None else list(range(depth - layers, depth)),
        ),
        callbacks=[Begin()],
    )  # fmt: skip
    trainer.train()
    return Trained(trainer.model, time.perf_counter() - begun[0], time.process_time() - begun[1])


def fslm(given: Work, folder: Path, *, layers: int | None = None) -> Trained:
    """`fslm_core.train`: its loss, its order of batches."""
    from fslm_core.settings import TorchSettings
    from fslm_core.train.loop import Run, State
    from fslm_core.train.model import add_lora, load_base
    from fslm_core.train.objective import Objective
    from fslm_core.train.plan import make_plan, sorted_batches
    from fslm_core.train.recipe import Data, Lora, Optim, Recipe

    lengths = [len(row) for row in given.train]
    recipe = Recipe(
        stage="bench.stage", output=folder, data=Data(train=folder), epochs=given.epochs, seed=1,
        lora=Lora(rank=8, alpha=16, dropout=0.0, layers=layers),
        optim=Optim(lr=RATE, batch_rows=BATCH, warmup=WARMUP, schedule="linear", weight_decay=0.0),
    )  # fmt: skip
    model, frozen = add_lora(load_base(base(), TorchSettings()), recipe.lora, seed=1)
    objective = Objective(model, given.train, frozen=frozen)
    plan = make_plan(lengths, epochs=given.epochs, seed=1, rows=BATCH, tokens=1 << 20)
    begun = time.perf_counter(), time.process_time()
    for _ in objective.prepare(sorted_batches(lengths, rows=64, tokens=4096)):
        pass
    Run(
        objective, plan, recipe, state=State("bench"), folder=folder, judge=lambda: {"exact": 0.0}, lengths=lengths,
        progress=lambda event: None,
    ).train(None)  # fmt: skip
    return Trained(model, time.perf_counter() - begun[0], time.process_time() - begun[1])


Way = Callable[[Work, Path], Trained]
WAYS: dict[str, Way] = {
    "trl": lambda given, folder: trl(given, folder, gradient_checkpointing=True, bf16=True),
    "trl-float32": lambda given, folder: trl(given, folder),
    "trl-autocast": lambda given, folder: trl(given, folder, bf16=True),
    "trl-bfloat16": lambda given, folder: trl(given, folder, dtype="bfloat16"),
    "trl-grouped": lambda given, folder: trl(given, folder, train_sampling_strategy="group_by_length"),
    "trl-bfloat16-grouped": lambda given, folder: trl(
        given, folder, dtype="bfloat16", train_sampling_strategy="group_by_length"
    ),
    "trl-padding-free": lambda given, folder: trl(given, folder, padding_free=True),
    "trl-10": lambda given, folder: trl(given, folder, layers=10, train_sampling_strategy="group_by_length"),
    "trl-bfloat16-10": lambda given, folder: trl(
        given, folder, layers=10, dtype="bfloat16", train_sampling_strategy="group_by_length"
    ),
    "fslm": lambda given, folder: fslm(given, folder),
    "fslm-10": lambda given, folder: fslm(given, folder, layers=10),
}
"""`trl` is TRL as it comes: mixed bfloat16, activations computed again."""


def held_out_loss(model: Any, rows: list[Any]) -> float:
    """Nats a target token, by a plain forward in float32."""
    import torch
    from torch.nn import functional

    model = model.float().eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.prompt + row.target])
            logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
            total += float(functional.cross_entropy(logits, torch.tensor(row.target), reduction="sum"))
            count += len(row.target)
    return total / count


def measure(way: str, given: Work) -> dict[str, Any]:
    """Run one way in this process."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        trained = WAYS[way](given, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    after = held_out_loss(trained.model, given.held_out)
    with trained.model.disable_adapter():
        before = held_out_loss(trained.model, given.held_out)
    return {
        "way": way,
        "seconds": trained.seconds,
        "processor_seconds": trained.processor,
        "tokens_per_second": given.tokens / trained.seconds,
        "peak_mib": peak,
        "loss_before": before,
        "loss_after": after,
    }


def apart(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.train_speed", "--here", "--only", way, "--data", str(options.data)]
    command += ["--workload", options.workload, "--rows", str(options.rows), "--epochs", str(options.epochs)]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def table(rounds: list[dict[str, dict[str, Any]]]) -> str:
    """The medians, way by way; `x` is the median of each round's ratio to the first way."""
    columns = ["tokens/s", "x", "spread of x", "processor s", "peak MiB", "held-out loss"]
    lines = ["| way | " + " | ".join(columns) + " |", "| --- " + "| ---: " * len(columns) + "|"]
    first = next(iter(rounds[0]))
    for way in rounds[0]:
        speed, processor, peak, after = (
            statistics.median(told[way][key] for told in rounds)
            for key in ("tokens_per_second", "processor_seconds", "peak_mib", "loss_after")
        )
        times = [told[way]["tokens_per_second"] / told[first]["tokens_per_second"] for told in rounds]
        cells = [f"{speed:.0f}", f"{statistics.median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"]
        cells += [f"{processor:.0f}", f"{peak:.0f}", f"{after:.3f}"]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    before = statistics.median(told[first]["loss_before"] for told in rounds)
    return "\n".join([*lines, f"\nheld-out loss before training: {before:.3f}"])


def main() -> None:
    """Measure every way, round after round, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder of the public sets")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="short")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(WAYS), action="append", metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every round here")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.only[0], work(options.data, options.workload, options.rows, options.epochs))))
        return
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        told: dict[str, dict[str, Any]] = {}
        for way in options.only or WAYS:
            told[way] = apart(way, options)
            print(
                f"round {number + 1}, {way}: {told[way]['tokens_per_second']:.0f} tokens/s", file=sys.stderr, flush=True
            )
        rounds.append(told)
        if options.json:
            facts = {key: getattr(options, key) for key in ("workload", "rows", "epochs")}
            options.json.write_text(json.dumps({**facts, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")
    print(table(rounds))


if __name__ == "__main__":
    main()
