"""A peer that knows every answer beforehand: ``python tests/bench/replay.py --job JOB.json``.

It measures what the bridge costs, and it is what the bridge's tests talk to. The job's ``answers`` names a JSON file of
``[stage, ids, text]``; an unknown prompt is answered with an error. Nothing outside Python's library is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def say(event: dict[str, Any]) -> None:
    """One line to whoever asked."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--job", type=Path, required=True)
    job = json.loads(parser.parse_args().job.read_text(encoding="utf-8"))
    answers = {(stage, tuple(ids)): text for stage, ids, text in json.loads(Path(job["answers"]).read_text("utf-8"))}
    say({"event": "ready", "load_s": 0.0, "engine": "replay", "arm": job["arm"], "peak_rss_mb": 0.0})
    served = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["op"] == "close":
            break
        if asked["op"] != "submit":
            say({"event": asked["op"], "served": served})
            continue
        served += 1
        text = answers.get((asked["stage"], tuple(asked["ids"])))
        if text is None:
            say({"event": "failed", "id": asked["id"], "message": "not in the script"})
            continue
        counts = {"tokens": len(text), "latency_s": 0.0, "prompt_tokens_computed": len(asked["ids"])}
        say({"event": "done", "id": asked["id"], "text": text, **counts, "prompt_tokens_cached": 0})


if __name__ == "__main__":
    main()
