"""What a part of the rows is worth, taken by S2L or by chance: development loss and score against share of the data.

    python -m tests.bench.selection --data DIR --json OUT --plot PNG      # DIR holds bitext's train.jsonl and dev.jsonl

The rows are those of the stage `support.details` of the plugin fslm-support, and all runs train its LoRA afresh on the
topmost ten layers, each for the same number of epochs over its part. The loss is the mean over development rows of
their mean loss a target token; the score is the share of the first of them that are right in all fields, decoded
greedily under the grammar. Runs that stand in OUT already are not made again, so it may be stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
STAGE = "support.details"
METHODS = ("random", "s2l")


def main() -> None:
    """Make every run that is not in the record yet, then print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rows", type=int, default=1500, help="of the training file, drawn by their hash")
    parser.add_argument("--dev", type=int, default=400, help="development rows for the loss")
    parser.add_argument("--scored", type=int, default=100, help="of these decoded for the score")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 1.0])
    parser.add_argument("--seeds", type=int, default=2, help="how many runs for every part")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--clusters", type=int, default=100)
    options = parser.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "json", "plot", "shares", "seeds")}
    record: Json = {"settings": settings, "reference_seconds": {}, "trajectories": {}, "runs": []}
    if options.json.exists():
        record = json.loads(options.json.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            parser.error(f"{options.json} was made with other settings: {record['settings']}")
    bench = _Bench(options, record)
    for seed in range(options.seeds):
        for share in options.shares:
            for method in METHODS if share < 1 else ("all",):
                bench.run(method, share, seed)
    print(table(record["runs"]))
    if options.plot is not None:
        draw(record["runs"], options.plot)


class _Bench:
    """One base, one pass through its frozen layers, many runs."""

    def __init__(self, options: argparse.Namespace, record: Json) -> None:
        from fslm_core import settings
        from fslm_core.backends.torch.vocabulary import Vocabulary
        from fslm_core.checkpoints import resolve
        from fslm_core.plugins import PluginHost
        from fslm_core.settings import TorchSettings
        from fslm_core.train.encoding import encode_rows
        from fslm_core.train.model import add_lora, load_base, lora_tensors
        from fslm_core.train.objective import Example, Objective
        from fslm_core.train.plan import sorted_batches
        from fslm_core.train.progress import silent
        from fslm_core.train.recipe import Lora, Optim
        from fslm_core.train.rows import Problems, read_rows, subset

        self.options, self.record = options, record
        self.stage = PluginHost(settings.load()).stage(STAGE)
        self.checkpoint = resolve("smollm2-135m", settings.load())
        self.vocabulary = Vocabulary(self.checkpoint.path)
        self.lora, self.optim = Lora(rank=8, layers=options.layers), Optim(lr=1e-3, batch_rows=16)
        problems = Problems()
        with tempfile.TemporaryDirectory() as folder:
            files = [_rows_file(options.data / name, Path(folder) / name) for name in ("train.jsonl", "dev.jsonl")]
            train, dev = (list(read_rows(file, self.stage, problems).rows) for file in files)
        self.train, self.dev = subset(train, options.rows, 0), subset(dev, options.dev, 0)
        encoded = encode_rows([*self.train, *self.dev], self.stage, self.vocabulary, files[0], problems, silent)
        problems.refuse()
        self.examples = [Example(prompt, target) for prompt, target in encoded]
        base = load_base(self.checkpoint.path, TorchSettings())
        self.model, frozen = add_lora(base, self.lora, seed=0)
        self.fresh = lora_tensors(self.model)
        self.objective = Objective(self.model, self.examples, frozen=frozen)
        self.lengths = [len(example) for example in self.examples]
        self.base = base
        for done in self.objective.prepare(sorted_batches(self.lengths, rows=64, tokens=4096)):
            print(f"\r{done} rows read", end="", flush=True)
        print()

    def run(self, method: str, share: float, seed: int) -> None:
        """Make a run unless it is in the record."""
        key = {"method": method, "share": share, "seed": seed}
        if any(key.items() <= run.items() for run in self.record["runs"]):
            return
        places = self._places(method, share, seed)
        begun = time.perf_counter()
        steps = self._trained(places, seed)
        seconds = time.perf_counter() - begun
        run = {**key, "rows": len(places), "steps": steps, "seconds": round(seconds, 1), **self._judged()}
        self.record["runs"].append(run)
        self._save()
        print(run, flush=True)

    def _places(self, method: str, share: float, seed: int) -> Sequence[int]:
        from fslm_core.train.select import drawn, evenly, learnt_alike

        size = round(share * len(self.train))
        if method == "all":
            return range(len(self.train))
        if method == "random":
            return drawn(len(self.train), size, seed)
        clusters = learnt_alike(self._trajectories(seed), self.options.clusters, seed)
        return evenly(clusters, size, seed)

    def _trajectories(self, seed: int) -> list[list[float]]:
        from fslm_core.settings import TorchSettings
        from fslm_core.train.progress import silent
        from fslm_core.train.recipe import Data, Recipe, Select
        from fslm_core.train.select.trajectories import trajectories

        held: Json = self.record["trajectories"]
        if str(seed) not in held:
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                recipe = Recipe(
                    stage=STAGE, output=Path(folder), data=Data(train=Path(folder)), lora=self.lora, optim=self.optim
                )
                held[str(seed)] = trajectories(
                    self.examples[: len(self.train)],
                    recipe,
                    Select(share=1.0, seed=seed),
                    self.checkpoint.path,
                    Path(folder) / "reference",
                    key="bench",
                    resume=False,
                    settings=TorchSettings(),
                    progress=silent,
                )
            self.record["reference_seconds"][str(seed)] = round(time.perf_counter() - begun, 1)
            self._save()
        found: list[list[float]] = held[str(seed)]
        return found

    def _trained(self, places: Sequence[int], seed: int) -> int:
        """Train a fresh adapter on the rows at these places; returns the number of steps."""
        from fslm_core.train.loop import Run, State
        from fslm_core.train.model import put_tensors
        from fslm_core.train.plan import Plan, make_plan
        from fslm_core.train.progress import silent
        from fslm_core.train.recipe import Data, Recipe

        put_tensors(self.model, self.fresh)
        made = make_plan(
            [self.lengths[place] for place in places], epochs=self.options.epochs, seed=seed, rows=16, tokens=4096
        )
        plan = Plan(tuple(tuple(places[row] for row in batch) for batch in made.batches), (len(made.batches),))
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(
                stage=STAGE, output=Path(folder), data=Data(train=Path(folder)), lora=self.lora, optim=self.optim,
                seed=seed,
            )  # fmt: skip
            Run(
                self.objective, plan, recipe, state=State("bench"), folder=Path(folder),
                judge=lambda: {"exact": 0.0}, lengths=self.lengths, progress=silent,
            ).train(None)  # fmt: skip
        return len(plan.batches)

    def _judged(self) -> Json:
        from fslm_core.train.judge import judge
        from fslm_core.train.model import as_shipped
        from fslm_core.train.plan import sorted_batches
        from fslm_core.train.recipe import TaskScore

        begun = len(self.train)
        with as_shipped(self.model):
            losses = [
                loss
                for batch in sorted_batches(self.lengths[begun:], rows=64, tokens=4096)
                for loss in self.objective.row_losses([begun + row for row in batch])
            ]
            some = self.dev[: self.options.scored]
            prompts = [example.prompt for example in self.examples[begun : begun + len(some)]]
            scores = judge(self.base, self.vocabulary, self.stage, some, prompts, TaskScore())
        return {"loss": round(math.fsum(losses) / len(losses), 4), "exact": round(scores["exact"], 4)}

    def _save(self) -> None:
        part = self.options.json.with_suffix(".part")
        part.write_text(json.dumps(self.record) + "\n", encoding="utf-8")
        part.replace(self.options.json)


def _rows_file(source: Path, made: Path) -> Path:
    """The rows of a bitext file as rows of the stage."""
    rows = (json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line)
    made.write_text(
        "".join(
            json.dumps(
                {
                    "input": {"text": row["text"], "category": row["category"]},
                    "output": {"entity_type": row["entity_type"], "entity_value": row["entity_value"]},
                }
            )
            + "\n"
            for row in rows
        ),
        encoding="utf-8",
    )
    return made


def _mean(runs: Sequence[Json], name: str) -> float:
    return math.fsum(run[name] for run in runs) / len(runs)


def _parts(runs: Sequence[Json]) -> list[tuple[str, float, list[Json]]]:
    made: dict[tuple[float, str], list[Json]] = {}
    for run in runs:
        made.setdefault((run["share"], run["method"]), []).append(run)
    return [(method, share, made[share, method]) for share, method in sorted(made)]


def table(runs: Sequence[Json]) -> str:
    """The runs as Markdown, a line for each method and share, means over seeds with every seed's own value."""
    lines = ["| share | rows | selected by | development loss | exact |", "| --- " * 5 + "|"]
    for method, share, made in _parts(runs):
        each = [
            f"{_mean(made, name):.3f} ({', '.join(f'{run[name]:.3f}' for run in made)})" for name in ("loss", "exact")
        ]
        lines.append(f"| {share:.0%} | {made[0]['rows']} | {method} | {each[0]} | {each[1]} |")
    return "\n".join(lines)


def draw(runs: Sequence[Json], file: Path) -> None:
    """Write a PNG: loss and score against share, a line through the means of each method, a mark for every run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"loss": "development loss a target token", "exact": "share of rows right in all fields"}
    shares = sorted({run["share"] for run in runs})
    for axes, name in zip(figure.subplots(1, 2), titles, strict=True):
        for method, colour in zip(METHODS, ("tab:gray", "tab:blue"), strict=True):
            line = [(share, made) for own, share, made in _parts(runs) if own in (method, "all")]
            axes.plot([share for share, _ in line], [_mean(made, name) for _, made in line], color=colour)
            marks = [(share, run[name]) for share, made in line for run in made]
            axes.plot(*zip(*marks, strict=True), ".", color=colour, label=method)
        axes.set(xlabel="share of the rows", ylabel=titles[name], xscale="log")
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, metadata={"Software": None})


if __name__ == "__main__":
    main()
