"""Make the rows each stage is trained on.

    python prepare.py --data DIR --out DIR

reads ``train.jsonl`` and ``schema_train.json`` of the schema-guided dialogues and writes ``STAGE.train.jsonl`` and
``STAGE.select.jsonl`` for intent, slots, act, reply and the control that does the whole turn at once (turn). Rows are
``{"input": {...}, "output": {...}}``. The same input gives the same files, byte for byte. A tenth of the dialogues, by
the hash of the id, is held back to select by. The development dialogues are not opened here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from turns import GoldTurn, dialogues, services

from fslm_assistant.schema import Service
from fslm_assistant.values import NONE

SEED = 7
MOST = {"intent": 6000, "slots": 8000, "act": 4000, "reply": 4000, "turn": 6000}
"""Most rows of each file; a recipe draws as many of them as it trains on."""
OTHERS = 0.35
"""Share of intent rows with the intents of another service or two on offer."""
SAME = 0.5
"""Share that is kept of intent rows in which the intent stays what it was."""
EMPTY = 0.5
"""Share that is kept of slots rows in which nothing is told or asked."""
WRONG = 0.3
"""Share of intent rows that tell something whose present intent is drawn, for in the stack it was predicted."""
Row = dict[str, Any]
Form = Callable[[GoldTurn, Random, list[Service]], Row | None]


def held_back(turn: GoldTurn) -> bool:
    """Whether a dialogue is one to select by."""
    return int(hashlib.sha256(turn.dialogue.encode()).hexdigest(), 16) % 10 == 0


def intent(turn: GoldTurn, rng: Random, others: list[Service]) -> Row | None:
    if turn.intent == turn.before.intent and rng.random() > SAME:
        return None
    offered = list(turn.service.intents)
    now = turn.before.intent
    tells = turn.intent != turn.before.intent or turn.told or turn.asked
    if turn.before.turns and tells and rng.random() < WRONG:
        now = rng.choice([NONE, *(each.name for each in offered)])
    if rng.random() < OTHERS:
        for other in rng.sample(others, min(rng.randint(1, 2), len(others))):
            taken = {intent.name for intent in offered}
            offered += [intent for intent in other.intents if intent.name not in taken]
        rng.shuffle(offered)
    return {
        "input": {
            "text": turn.text,
            "said": turn.before.said,
            "now": now,
            "choices": [{"name": each.name, "description": each.description} for each in offered],
        },
        "output": {"intent": turn.intent, "move": turn.move},
    }


def slots(turn: GoldTurn, rng: Random, others: list[Service]) -> Row | None:
    task = turn.task
    names, gives = {slot.name for slot in task.slots}, set(task.gives)
    told = [filled for filled in turn.told if filled["slot"] in names]
    asked = [name for name in turn.asked if name in gives]
    if turn.intent == NONE or (not told and not asked and rng.random() > EMPTY):
        return None
    return {
        "input": {"text": turn.text, "said": turn.before.said, "task": task.model_dump()},
        "output": {"told": told, "asked": asked},
    }


def act(turn: GoldTurn, rng: Random, others: list[Service]) -> Row | None:
    made = turn.call
    given = {
        "text": turn.text,
        "task": turn.task.model_dump(),
        "move": turn.move,
        "missing": turn.missing,
        "asked": turn.asked,
        "call": None if made is None else made.model_dump(),
        "rows": turn.rows,
    }
    return {"input": given, "output": {"act": turn.act, "about": turn.about}}


def reply(turn: GoldTurn, rng: Random, others: list[Service]) -> Row:
    return {
        "input": {"act": turn.act, "subject": turn.subject, "facts": turn.facts},
        "output": {"reply": turn.reply},
    }


def whole(turn: GoldTurn, rng: Random, others: list[Service]) -> Row | None:
    names = {slot.name for slot in turn.task.slots}
    said = blanked(turn)
    if len(said) > 300:
        return None
    return {
        "input": {
            "text": turn.text,
            "said": turn.before.said,
            "now": turn.before.intent,
            "services": [turn.service.model_dump()],
        },
        "output": {
            "intent": turn.intent,
            "move": turn.move,
            "told": [filled for filled in turn.told if filled["slot"] in names],
            "asked": [name for name in turn.asked if name in turn.task.gives],
            "act": turn.act,
            "about": turn.about,
            "reply": said,
        },
    }


def blanked(turn: GoldTurn) -> str:
    """The reply with slots in the place of their values, for who writes it does not know yet what a call will give.

    >>> from types import SimpleNamespace as Turn
    >>> blanked(Turn(reply="At 7 pm?", act="CONFIRM", facts=[{"slot": "time", "value": "7 pm"}]))
    'At [time]?'
    """
    text = turn.reply
    for fact in sorted(turn.facts, key=lambda fact: -len(fact["value"])):
        if turn.act != "REQUEST" and len(fact["value"]) > 1:
            text = text.replace(fact["value"], f"[{fact['slot']}]")
    return text


STAGES: dict[str, Form] = {"intent": intent, "slots": slots, "act": act, "reply": reply, "turn": whole}


def prepare(data: Path) -> Iterator[tuple[str, list[Row]]]:
    """Each file's name and its rows."""
    schemas = services(data / "schema_train.json")
    turns = [turn for dialogue in dialogues(data / "train.jsonl", schemas) for turn in dialogue]
    Random(SEED).shuffle(turns)
    for stage, form in STAGES.items():
        rng, others = Random(SEED), list(schemas.values())
        parts: dict[str, list[Row]] = {"train": [], "select": []}
        for turn in turns:
            part = "select" if held_back(turn) else "train"
            if len(parts[part]) < (MOST[stage] if part == "train" else 400) and fits(turn):
                row = form(turn, rng, others)
                if row is not None:
                    parts[part].append(row)
        for part, rows in parts.items():
            yield f"{stage}.{part}.jsonl", rows


def fits(turn: GoldTurn) -> bool:
    """Whether the turn is as the stack would have it: acts that there are, values within bounds."""
    from fslm_assistant.messages import Situation

    made = {"text": turn.text, "task": turn.task, "move": turn.move, "missing": turn.missing}
    there = Situation.model_validate({**made, "asked": turn.asked, "call": turn.call, "rows": turn.rows})
    return (
        turn.act in there.options
        and len(turn.told) <= 5
        and len(turn.reply) <= 300
        and all(len(filled["value"]) <= 60 for filled in turn.told)
        and (turn.act not in ("REQUEST", "OFFER") or (set(turn.about) <= set(there.names) and len(turn.about) <= 4))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train.jsonl, schema_train.json")
    default = Path(__file__).with_name("rows")
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="where to write (rows/ beside this)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in prepare(arguments.data):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        (arguments.out / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
