"""Time the README's two commands as a stranger would run them: in a fresh clone, in an empty virtual environment.

    python tests/bench/fresh_clone.py [--skip-tox]

The base model is fetched anew as well (an empty cache), so the first command's time is that of a first run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "I was charged twice for order 00123842, please give me my money back"


def timed(command: str, where: Path, environment: dict[str, str]) -> float:
    """Run a shell command, let it print, and return its seconds; stop if it fails."""
    print(f"$ {command}", flush=True)
    began = time.monotonic()
    subprocess.run(["bash", "-c", command], cwd=where, env=environment, check=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-tox", action="store_true", help="time the first command alone")
    skip_tox = parser.parse_args().skip_tox
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(Path(folder) / "venv")], check=True)
        environment = {
            **os.environ,
            "PATH": f"{folder}/venv/bin{os.pathsep}{os.environ['PATH']}",
            "FSLM_CACHE_DIR": f"{folder}/cache",
            "FSLM_DATA_DIR": f"{folder}/data",
        }
        install = timed("python -m pip install --quiet -c constraints.txt . ./plugins/fslm-support", clone, environment)
        first = timed(f'fslm run support "{SENTENCE}"', clone, environment)
        second = timed(f'fslm run support "{SENTENCE}"', clone, environment)
        rows = [("install", install), ("first `fslm run`", first), ("`fslm run` again", second)]
        if not skip_tox:
            rows.append(
                ("`pip install tox && tox`", timed("python -m pip install --quiet tox && tox", clone, environment))
            )
    print("\n| command | seconds |\n| --- | ---: |")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
