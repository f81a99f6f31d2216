"""The spreadsheet that this plugin was made of: clinc150's questions about banking, as text and topic.

    python train/prepare.py --clinc DIR --out banking.csv                   # 1,500 rows to train on
    python train/prepare.py --clinc DIR --out published.csv --part dev      # 300 rows to score by

DIR holds train.jsonl and dev.jsonl with the fields text and intent, made of github.com/clinc/oos-eval (CC BY 3.0).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import get_args

from fslm_banking.messages import TopicLabel


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinc", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--part", choices=["train", "dev"], default="train")
    asked = parser.parse_args()
    lines = (asked.clinc / f"{asked.part}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [(row["text"], row["intent"]) for row in map(json.loads, lines) if row["intent"] in get_args(TopicLabel)]
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "topic"), *rows])


if __name__ == "__main__":
    main()
