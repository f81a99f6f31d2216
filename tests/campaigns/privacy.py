"""Many canaries through the stack that leaks wherever it can, and many kills of ``fslm trace forget``.

::

    python -m tests.campaigns.privacy --canaries 500 --kills 100 --json privacy.json

Each canary is a set of sensitive values drawn by chance (letters of all scripts, numbers, nested, in lists) that goes
through ``tests/integration/cli/canary_plugin.py`` under ``redacted`` and ``none``, ending in every way that stack can.
Every byte of every file, every log line and the text of every error is searched. Each kill hits a process that forgets
half of a database, at a moment drawn over its work: its runs must be all there or all gone, and forgetting again must
leave no byte of them, with the other runs whole.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fslm_core import settings as fslm_settings
from fslm_core.engine import Engine
from fslm_core.errors import FslmError
from tests.integration.cli.conftest import HERE, install
from tests.integration.cli.test_cli_privacy import CLEAN, case, kept_in, seen_in, told_by
from tests.unit.test_store_forget import fill, forgotten_after_a_kill, killed, snapshot

SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyz",
    "äöüßéèñçøåłžš",
    "αβγδεζηθλμξπσφω",
    "абвгдежзиклмнопрст",
    "漢字仮名東京大阪",
    "אבגדהוזחטי",
)
ENDS = ("pass", "pass", "raise", "fslm", "exit", "number", "backend", "invalid")


def canary(chance: random.Random) -> dict[str, Any]:
    """Sensitive values that no other part of a run can hold by chance."""

    def word() -> str:
        letters = chance.choice(SCRIPTS)
        made = "".join(chance.choice(letters) for _ in range(chance.randint(7, 12)))
        return chance.choice((made, made.title(), made.upper()))

    mark = chance.choice(("", " ODD", " REFUSE", "!"))
    name = " ".join(word() for _ in range(chance.randint(1, 3)))
    phone = "+" + "".join(chance.choice("0123456789") + chance.choice(("", "", " ", "-")) for _ in range(14))
    number = chance.randint(10**12, 2**53 - 1)
    return case(name=name + mark, contact={"phone": phone}, tags=[word()], number=number, do=chance.choice(ENDS))


def needles(given: dict[str, Any]) -> tuple[str, ...]:
    """What must not be found."""
    name = given["name"].removesuffix(" ODD").removesuffix(" REFUSE").removesuffix("!")
    return (name, *name.split(), given["contact"]["phone"], *given["tags"], str(given["number"]))


def canaries(count: int, chance: random.Random, folder: Path) -> dict[str, int]:
    """Run ``count`` of them under each mode, a fresh engine for every fifty; returns what was searched."""
    site = folder / "site"
    site.mkdir()
    install(site, "canary", (HERE / "canary_plugin.py").read_text("utf-8"))
    sys.path.insert(0, str(site))
    os.environ |= {"FSLM_PLUGINS": "canary", "FSLM_BACKEND": "canary.scripted", "FSLM_CONFIG": os.devnull}
    said = io.StringIO()
    logging.basicConfig(stream=said, level=logging.DEBUG, force=True)
    counts = {"canaries": 0, "values": 0, "errors": 0, "bytes": 0}
    for mode in CLEAN:
        for start in range(0, count, 50):
            data = folder / f"{mode}-{start}"
            tried: list[str] = []
            errors = []
            with Engine(settings=fslm_settings.load(data_dir=data), content=mode) as engine:
                for _ in range(min(50, count - start)):
                    given = canary(chance)
                    tried += needles(given)
                    counts["canaries"] += 1
                    try:
                        engine.run("canary", given)
                    except FslmError as error:
                        logging.getLogger("host").exception("a run failed")
                        errors.append(told_by(error))
            text = "\n".join([kept_in(data), *errors, said.getvalue()])
            said.seek(0)
            said.truncate()
            if found := seen_in(text, tuple(dict.fromkeys(tried))):
                raise AssertionError(f"{mode}: found {found}")
            counts["values"] += len(tried)
            counts["errors"] += len(errors)
            counts["bytes"] += len(text.encode("utf-8", "replace"))
    return counts


def kills(count: int, chance: random.Random, folder: Path) -> dict[str, int]:
    """Kill ``count`` processes that forget; returns how many had come past their transaction."""
    path = folder / "killed" / "trace.db"
    runs = sorted(fill(path, 60))
    gone, rest = runs[::2], runs[1::2]
    restore = snapshot(path)
    rounds = killed(path, -1, gone)
    assert rounds is not None
    past = 0
    for _ in range(count):
        restore()
        past += forgotten_after_a_kill(path, chance.randint(1, rounds - 1), gone, rest)
    return {"kills": count, "killed_past_the_transaction": past, "rounds": rounds}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canaries", type=int, default=100, help="sets of values under each mode")
    parser.add_argument("--kills", type=int, default=20, help="processes to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts here")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = canaries(options.canaries, chance, Path(folder)) | kills(options.kills, chance, Path(folder))
    record = {"seed": options.seed, **counts, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
