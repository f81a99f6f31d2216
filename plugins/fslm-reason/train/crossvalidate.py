"""Compare ways to make the last model by cross-validation inside the training questions; no reporting row is read.

    python crossvalidate.py --data DIR --out DIR [--ways NAME ...] [--folds N] [--rows N]

Questions are parted by family; each part in turn is what is scored, and the others are what is trained on, by
``control/direct.toml`` (a question, the right choice) with what the way changes. A fold that is scored
already is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluate import MEASURES, Arm, asked, by_source, controls, interval
from prepare import Fold, prepare, write

from fslm_core import SLM, Engine, Stage, hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.train import run_recipe

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Way:
    """One way: what the model is shown, and what else the recipe says."""

    user: str = controls.QUESTION
    recipe: tuple[str, ...] = ()


WAYS = {
    "unlisted": Way(),
    "listed": Way(user=controls.LISTED),
    "every-layer": Way(recipe=("lora.layers=30",)),
    "slower": Way(recipe=("optim.lr=3e-4",)),
}


def run_fold(way: Way, fold: Fold, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train on all parts but one and score that one."""
    folder.mkdir(parents=True, exist_ok=True)
    files, _ = prepare(given.data, fold)
    for part in ("train", "select"):
        write(folder / f"direct.{part}.jsonl", files[f"direct.{part}.jsonl"])
    stage = Stage(
        "cv.direct",
        input=controls.direct.input,
        output=controls.direct.output,
        prompt=controls.prompt("answer", way.user),
        model=SLM(controls.BASE, adapter=folder / "adapter"),
        narrow=controls.direct.narrow,
    )
    shutil.copyfile(HERE / "control/direct.toml", folder / "recipe.toml")
    paths = {"output": "adapter", "data.train": "direct.train.jsonl", "data.select": "direct.select.jsonl"}
    overrides = [f"{key}={(folder / name).resolve()}" for key, name in paths.items()]
    overrides += [f"stage={stage.name}", "data.select_rows=10", f"data.max_rows={given.rows}", *way.recipe]
    settings = Settings()
    host = PluginHost(settings, plugins={"cv": SimpleNamespace(fslm_stages=hookimpl(lambda: [stage]))})
    made = run_recipe(folder / "recipe.toml", overrides=overrides, resume=True, settings=settings, host=host)
    stack = controls.answered(stage)
    told: dict[str, Any] = {"seconds": round(made.seconds), "tokens": round(made.seconds * made.tokens_per_second)}
    with Engine([stack], trace=False) as engine:
        for source, rows in by_source(files["questions.select.jsonl"], given.select).items():
            answers = list(asked(engine, Arm(stack), rows))
            told[source] = {measure: [answer.right(measure) for answer in answers] for measure in MEASURES}
    return told


def table(out: Path) -> str:
    """What has been scored so far: shares over all folds, by source."""
    lines = ["| way | folds | tokens | seconds | source | rows | " + " | ".join(MEASURES) + " |", "| --- " * 9 + "|"]
    for way in WAYS:
        told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"{way}.*.json"))]
        costs = " | ".join(str(sum(fold[key] for fold in told)) for key in ("tokens", "seconds"))
        for source in told[0] if told else ():
            if source in ("tokens", "seconds"):
                continue
            cells = []
            for measure in MEASURES:
                hits = [hit for fold in told for hit in fold[source][measure]]
                low, high = interval(hits)
                cells.append(f"{sum(hits) / len(hits):.3f} ({low:.3f} to {high:.3f})")
            lines.append(f"| {way} | {len(told)} | {costs} | {source} | {len(hits)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds arc, rationales, strategyqa …")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where rows, adapters and scores go")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), help="which to run (all)")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="in how many parts (5)")
    parser.add_argument("--parts", type=int, default=5, metavar="N", help="score this many of them (5)")
    parser.add_argument("--rows", type=int, default=500, metavar="N", help="how many rows to train on (500)")
    parser.add_argument("--select", type=int, default=80, metavar="N", help="of each source, rows of a part to score")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for part in range(given.parts):
        for name in given.ways:
            told = given.out / f"{name}.{part}.json"
            if told.exists():
                continue
            begun = time.monotonic()
            scores = run_fold(WAYS[name], Fold(given.folds, part), given.out / f"{name}.{part}", given)
            told.write_text(json.dumps(scores), encoding="utf-8")
            print(name, part, f"{time.monotonic() - begun:.0f} s in all", file=sys.stderr, flush=True)
    print(table(given.out))


if __name__ == "__main__":
    main()
