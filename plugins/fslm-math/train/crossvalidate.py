"""Compare ways to train ``math.equation`` by cross-validation inside the training rows; no development row is read.

    python crossvalidate.py --problems DIR --gsm8k DIR --out DIR [--ways NAME ...] [--folds N] [--rows N]

The word problems are parted by their wording; each part in turn is what is scored, and the others are what is trained
on, by ``equation.toml`` with what the way changes. A fold that is scored already is not run again, so two of these may
work in one folder on different ways. The table says what share of all held-back rows has its steps exactly right.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluate import interval
from prepare import Fold, prepare, write

from fslm_core import Stage, hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import default
from fslm_core.train import run_recipe
from fslm_math import equation

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Way:
    """One way to train: what the model is shown, which rows there are, and what else the recipe says."""

    prompt: str | None = None
    rows: dict[str, Any] = field(default_factory=dict)
    recipe: tuple[str, ...] = ()


TOLD_FIRST = "{% block system %}equation{% endblock %}{% block user %}{{ told }}\n{{ asked }}{% endblock %}"
WAYS = {
    "plain": Way(),
    "every-layer": Way(recipe=("lora.layers=30",)),
    "as-they-are": Way(rows={"made_up": 0, "vary": False}),
    "gsm8k": Way(rows={"from_school": 1000}),
    "told-first": Way(prompt=TOLD_FIRST),
}


def host_of(prompt: str | None) -> tuple[PluginHost, str]:
    """Where the stage is found, and its name; with a prompt of its own it is another stage."""
    if prompt is None:
        return PluginHost(default()), equation.name
    other = Stage(
        "cv.equation",
        input=equation.input,
        output=equation.output,
        prompt=prompt,
        model=equation.model,
        decoding=equation.decoding,
        narrow=equation.narrow,
    )
    return PluginHost(default(), plugins={"cv": SimpleNamespace(fslm_stages=hookimpl(lambda: [other]))}), other.name


def run_fold(way: Way, fold: Fold, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train on all parts but one and score that one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"made_up": 2400, "from_school": 0, **way.rows}
    for name, rows in prepare(given.problems, given.gsm8k, select=given.select, fold=fold, **options):
        if name.startswith("equation."):
            write(folder / name, rows[: given.rows] if "train" in name else rows)
    recipe = folder / "recipe.toml"
    shutil.copyfile(HERE / "equation.toml", recipe)
    host, stage = host_of(way.prompt)
    paths = {"output": "adapter", "data.train": "equation.train.jsonl", "data.select": "equation.select.jsonl"}
    overrides = [f"{key}={(folder / name).resolve()}" for key, name in paths.items()]
    overrides += [f"stage={stage}", "epochs=1", f"data.max_rows={given.rows}", *way.recipe]
    made = run_recipe(recipe, overrides=overrides, host=host, progress=lambda event: None)
    scored = sum(1 for _ in (folder / "equation.select.jsonl").open(encoding="utf-8"))
    return {
        "right": round(made.scores["exact"] * scored),
        "scored": scored,
        "seconds": round(made.seconds),
        "tokens": round(made.seconds * made.tokens_per_second),
    }


def table(out: Path) -> str:
    """What has been scored so far, by way."""
    lines = [
        "| way | right | of rows | folds | tokens a fold | seconds a fold |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for way in WAYS:
        told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"{way}.*.json"))]
        if not told:
            continue
        right, scored = (sum(each[key] for each in told) for key in ("right", "scored"))
        each_fold = " ".join(f"{each['right'] / each['scored']:.2f}" for each in told)
        tokens, seconds = (sum(each[key] for each in told) // len(told) for key in ("tokens", "seconds"))
        share = f"{right / scored:.3f} ({interval(right, scored)})"
        lines.append(f"| {way} | {share} | {scored} | {each_fold} | {tokens:,} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, required=True, metavar="DIR", help="holds word_problems' train.jsonl")
    parser.add_argument("--gsm8k", type=Path, required=True, metavar="DIR", help="holds gsm8k's train.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where rows, adapters and scores go")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), help="which to run (all)")
    parser.add_argument("--folds", type=int, default=3, metavar="N", help="in how many parts (3)")
    parser.add_argument("--rows", type=int, default=1600, metavar="N", help="how many rows to train on (1600)")
    parser.add_argument("--select", type=int, default=150, metavar="N", help="how many rows of a part to score (150)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for part in range(given.folds):
        for name in given.ways:
            told = given.out / f"{name}.{part}.json"
            if told.exists():
                continue
            begun = time.monotonic()
            scores = run_fold(WAYS[name], Fold(given.folds, part), given.out / f"{name}.{part}", given)
            told.write_text(json.dumps(scores), encoding="utf-8")
            print(name, part, scores, f"{time.monotonic() - begun:.0f} s in all", file=sys.stderr, flush=True)
    print(table(given.out))


if __name__ == "__main__":
    main()
