"""Make the rows each stage is trained on.

    python prepare.py --bitext DIR --clinc DIR --out DIR

writes ``STAGE.train.jsonl`` and ``STAGE.select.jsonl`` for category, intent, details and the one-stage control
(ticket). Rows are ``{"input": {...}, "output": {...}}``. The same input gives the same files, byte for byte.

A tenth of the training rows is held back to select by, their details drawn anew. Near-identical messages stay on one
side: rows of one intent whose character trigrams have a cosine above 0.8 form a group, and its hash decides its side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from rows import SWEARWORDS, TAKES_ORDER_ID, Row, disguised, redrawn, roughened, split, with_order
from values import DRAW

NEAR_SUPPORT = {
    "account_blocked": "a customer's account may be blocked, too",
    "bill_balance": "a bill is what an invoice is",
    "bill_due": "a bill is what an invoice is",
    "cancel": "a bare 'cancel' may mean an order",
    "card_declined": "a payment that failed",
    "change_user_name": "a name in an account",
    "freeze_account": "an account to be closed",
    "min_payment": "a bill is what an invoice is",
    "order": "placing an order",
    "order_checks": "placing an order",
    "order_status": "tracking an order",
    "pay_bill": "a bill is what an invoice is",
    "pin_change": "a PIN, as in recover_password",
    "replacement_card_duration": "when something ordered will arrive",
    "report_fraud": "a charge nobody made",
    "transactions": "charges and purchases",
    "user_name": "a name in an account",
}
"""clinc150 topics a shop's support may have to deal with: neither trained on nor scored as OTHER, and why."""

OTHER = "OTHER"
ONE_INTENT = {"CANCELLATION_FEE", "NEWSLETTER"}
SIMILAR = 0.8


def read(path: Path) -> list[dict[str, str | None]]:
    """Read a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def support(path: Path) -> list[Row]:
    """Support requests of a ``bitext_support`` file."""
    return [
        split(str(r["text"]), r["entity_value"], r["entity_type"], str(r["category"]), r["intent"]) for r in read(path)
    ]


def other(path: Path) -> list[tuple[str, Row]]:
    """The messages of a ``clinc150`` file that are outside support, each with its topic."""
    kept = [r for r in read(path) if r["intent"] not in NEAR_SUPPORT]
    return [(str(r["intent"]), split(str(r["text"]), None, None, OTHER, None)) for r in kept]


def groups(texts: Sequence[str]) -> list[int]:
    """Number the groups of near-identical texts."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3)).fit_transform(texts)
    near = csr_matrix((vectors @ vectors.T).toarray() > SIMILAR)
    return [int(n) for n in connected_components(near, directed=False)[1]]


def divided(rows: Sequence[tuple[str, Row]]) -> tuple[list[Row], list[Row]]:
    """Divide rows (topic, row) into those to train on and the tenth to select by."""
    by_topic: dict[str, list[int]] = defaultdict(list)
    for place, (topic, _) in enumerate(rows):
        by_topic[topic].append(place)
    chosen = [False] * len(rows)
    for places in by_topic.values():
        bare = [_bare(rows[place][1]) for place in places]
        first: dict[int, str] = {}
        for number, text in zip(numbers := groups(bare), bare, strict=True):
            first[number] = min(text, first.get(number, text))
        for place, number in zip(places, numbers, strict=True):
            chosen[place] = int(hashlib.sha256(first[number].encode()).hexdigest(), 16) % 10 == 0
    return (
        [row for (_, row), held in zip(rows, chosen, strict=True) if not held],
        [row for (_, row), held in zip(rows, chosen, strict=True) if held],
    )


def _bare(row: Row) -> str:
    text = re.sub(r"[^\w ]", "", f"{row.before} xx {row.after}".lower())
    return " ".join(word for word in text.split() if word not in SWEARWORDS) or "none"


def own(path: Path, copies: int, rng: Random) -> list[Row]:
    """The project's own rows, each ``copies`` times with values drawn anew."""
    categories = _categories()
    made = []
    for line in path.read_text(encoding="utf-8").splitlines():
        intent, _, text = line.partition("\t")
        for _ in range(copies):
            before, kind, after = _placeholder(text)
            value = DRAW[kind](rng) if kind else ""
            if intent == OTHER:
                made.append(Row(before + value + after, "", "", OTHER, None, None))
            else:
                made.append(Row(before, value, after, categories[intent], intent, kind))
    return [disguised(row, rng) for row in made]


def _placeholder(text: str) -> tuple[str, str | None, str]:
    found = re.search(r"\{(\w+)\}", text)
    return (text[: found.start()], found[1], text[found.end() :]) if found else (text, None, "")


def _categories() -> dict[str, str]:
    from fslm_support.messages import INTENTS

    return {intent: category for category, intents in INTENTS.items() for intent in intents}


def augmented(row: Row, rng: Random) -> Row:
    """One training form of a support request."""
    if rng.random() < 0.6:
        row = redrawn(row, rng)
    if row.kind is None and row.intent in TAKES_ORDER_ID and rng.random() < 0.15:
        row = with_order(row, rng)
    return disguised(row, rng)


def write(path: Path, rows: Iterable[tuple[dict[str, object], dict[str, object]]]) -> int:
    """Write rows as JSON Lines; return how many."""
    lines = [json.dumps({"input": i, "output": o}, ensure_ascii=False, separators=(",", ":")) for i, o in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def _some(rows: Sequence[Row], n: int, rng: Random) -> list[Row]:
    return rng.sample(list(rows), min(n, len(rows)))


def category(row: Row) -> tuple[dict[str, object], dict[str, object]]:
    return {"text": row.text}, {"category": row.category}


def intent(row: Row) -> tuple[dict[str, object], dict[str, object]]:
    return {"text": row.text, "category": row.category}, {"intent": row.intent}


def details(row: Row) -> tuple[dict[str, object], dict[str, object]]:
    ticket = row.ticket
    return {"text": row.text, "category": row.category}, {k: ticket[k] for k in ("entity_type", "entity_value")}


def ticket(row: Row) -> tuple[dict[str, object], dict[str, object]]:
    return {"text": row.text}, dict(row.ticket)


FORMS: dict[str, Callable[[Row], tuple[dict[str, object], dict[str, object]]]] = {
    "category": category,
    "intent": intent,
    "details": details,
    "ticket": ticket,
}


def prepare(bitext: Path, clinc: Path, seed: int = 7) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return for each stage the rows to train on and the rows to select by."""
    rng = Random(seed)
    kept, select = divided([(str(row.intent), row) for row in support(bitext / "train.jsonl")])
    select = [redrawn(row, rng) for row in select]
    away, away_select = divided(other(clinc / "train.jsonl"))

    ours = own(Path(__file__).with_name("own_rows.tsv"), 3, rng)
    requested = [augmented(row, rng) for row in kept] + [row for row in ours if row.category != OTHER]
    outside = [disguised(roughened(row, rng), rng) for row in _some(away, 3400, rng)]
    outside += [row for row in ours if row.category == OTHER]
    outside_select = _some(away_select, 400, rng)

    detailed = [row for row in requested if row.kind]
    plain = [row for row in requested if not row.kind]
    chosen = [row for row in requested if row.category not in ONE_INTENT]
    single = [row for row in requested if row.category in ONE_INTENT]
    training = {
        "category": _some(requested, 4200, rng) + outside,
        "intent": chosen + _some(single, 100, rng),
        "details": detailed + [redrawn(row, rng) for row in detailed if rng.random() < 0.4] + _some(plain, 1500, rng),
        "ticket": requested + outside,
    }
    for rows in training.values():
        rng.shuffle(rows)
    rng.shuffle(select)
    return {
        "category": (training["category"], select[:400] + outside_select),
        "intent": (training["intent"], select),
        "details": (training["details"], select[:400]),
        "ticket": (training["ticket"], select[:400] + outside_select[:200]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitext", type=Path, required=True, metavar="DIR", help="holds bitext_support's train.jsonl")
    parser.add_argument("--clinc", type=Path, required=True, metavar="DIR", help="holds clinc150's train.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stage, (train, select) in prepare(arguments.bitext, arguments.clinc).items():
        counts = [
            write(arguments.out / f"{stage}.{part}.jsonl", map(FORMS[stage], rows))
            for part, rows in (("train", train), ("select", select))
        ]
        print(f"{stage}: {counts[0]} rows to train on, {counts[1]} to select by")


if __name__ == "__main__":
    main()
