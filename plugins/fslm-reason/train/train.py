"""Train by recipes beside this: ``python train.py answer facts control/direct``; what was stopped is gone on with.

The controls' stages belong to no installed plugin; for those of the plugin, ``fslm train answer.toml`` does the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import fslm_reason
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.train import Estimated, Event, Judged, Stepped, run_recipe

sys.path.insert(0, str(Path(__file__).parent / "control"))
import controls

HERE = Path(__file__).parent


def told(event: Event) -> None:
    if isinstance(event, Estimated | Judged) or (isinstance(event, Stepped) and event.step % 20 == 0):
        print(event, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", metavar="NAME", help="a recipe's path from here, without .toml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    given = parser.parse_args()
    settings = Settings()
    host = PluginHost(settings, plugins={"reason": fslm_reason, "control": controls})
    for name in given.recipes:
        recipe = (HERE / name).with_suffix(".toml")
        made = run_recipe(recipe, overrides=given.overrides, resume=True, settings=settings, host=host, progress=told)
        speed = f"{made.seconds:.0f} s at {made.tokens_per_second:.0f} tokens/s"
        print(f"{name}: {made.scores}, {speed}", flush=True)


if __name__ == "__main__":
    main()
