"""Train a control, whose stage no installed plugin has: ``python control/train.py control/number.toml``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import controls

from fslm_core.plugins import PluginHost
from fslm_core.settings import default
from fslm_core.train import Event, Judged, Stepped, run_recipe


def told(event: Event) -> None:
    if isinstance(event, Judged) or (isinstance(event, Stepped) and event.step % 20 == 0):
        print(event, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    given = parser.parse_args()
    host = PluginHost(default(), plugins={"control": controls})
    made = run_recipe(given.recipe, overrides=given.overrides, resume=given.resume, host=host, progress=told)
    speed = f"{made.seconds:.0f} s at {made.tokens_per_second:.0f} tokens/s"
    print(f"{made.adapter}: epoch {made.epoch}, {made.scores}, {speed}")


if __name__ == "__main__":
    main()
