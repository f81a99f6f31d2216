"""Runs targets, each in a process of its own, and records what came of it."""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import targets

_SLACK = 120
"""Seconds a process may take beyond its share: to import, to instrument, to try its seeds."""


def main() -> int:
    """Return 0 if no target found a defect."""
    asked = _arguments()
    known = targets()
    names = sorted(known) if asked.target == ["all"] else asked.target
    if unknown := set(names) - set(known):
        print(f"no target {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    engine = asked.engine or ("atheris" if importlib.util.find_spec("atheris") else "mutation")
    found: dict[str, Any] = {}
    for name in names:
        found[name] = _one(name, engine, asked)
        line = found[name]
        print(f"{name:20} {line['inputs']:>10,} inputs  {line['peak_mib']:>6,} MiB  {line['result']}", flush=True)
    record = {
        "python": platform.python_version(),
        "engine": engine,
        "seconds": asked.seconds,
        "limits": {"one_input_seconds": asked.limit, "rss_mib": asked.rss},
        "inputs": sum(line["inputs"] for line in found.values()),
        "targets": found,
    }
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{record['inputs']:,} inputs in all")
    return 0 if all(line["result"] == "clean" for line in found.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", default=["all"], help="names of targets, or all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target, besides its start")
    parser.add_argument("--json", type=Path, help="write a record here")
    parser.add_argument("--engine", choices=("atheris", "mutation"), help="atheris where it is installed")
    parser.add_argument("--limit", type=int, default=20, help="seconds one input may take")
    parser.add_argument("--rss", type=int, default=2048, help="MiB a process may hold")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    return parser.parse_args()


def _one(name: str, engine: str, asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fslm-fuzz-") as place:
        folder = Path(place)
        command = [sys.executable, "-m", f"{__package__}.worker", name, "--engine", engine, "--folder", place]
        for option in ("seconds", "limit", "rss", "seed"):
            command += [f"--{option}", str(getattr(asked, option))]
        log = folder / "log"
        with log.open("wb") as file:
            try:
                code = subprocess.run(command, stdout=file, stderr=file, timeout=asked.seconds + _SLACK).returncode
            except subprocess.TimeoutExpired:
                code = None
        inputs, peak = _counts(folder)
        line: dict[str, Any] = {"inputs": inputs, "peak_mib": peak, "result": "clean"}
        if code != 0:
            kept = sorted(file for kind in ("crash", "timeout", "oom", "slow") for file in folder.glob(f"{kind}-*"))
            line["result"] = "a hang" if code is None else f"a defect ({kept[0].name.split('-')[0] if kept else code})"
            line["tail"] = log.read_text("utf-8", "replace")[-3000:]
            line["input"] = base64.b64encode(kept[0].read_bytes()[:100_000]).decode() if kept else None
        return line


def _counts(folder: Path) -> tuple[int, int]:
    """Inputs tried and the most memory held (MiB), as the process noted them while it ran."""
    try:
        raw = (folder / "counts").read_bytes()
    except OSError:
        return 0, 0
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little")


if __name__ == "__main__":
    sys.exit(main())
