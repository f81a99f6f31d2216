"""Train the control: ``python train.py [KEY=VALUE …]``, as ``fslm train turn.toml`` would if it were installed."""

from __future__ import annotations

import sys
from pathlib import Path

import whole_turn

from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.train import Estimated, Judged, run_recipe


def main() -> None:
    settings = Settings()
    host = PluginHost(settings, plugins={"control": whole_turn})
    run_recipe(
        Path(__file__).with_name("turn.toml"),
        overrides=sys.argv[1:],
        resume=True,
        settings=settings,
        host=host,
        progress=lambda event: print(event, flush=True) if isinstance(event, Estimated | Judged) else None,
    )


if __name__ == "__main__":
    main()
