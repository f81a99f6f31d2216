"""Score the arms of PLAN.md, by log-likelihood of the choices and by generation, with intervals and paired tests.

    python evaluate.py --rows rows/questions.select.jsonl --out FILE --arms base direct stack gold
    python evaluate.py --data DIR --out FILE                      # the reporting rows, which are opened here alone

The first scores questions that were held back from training, the second the rows that the plan reports on; it refuses
to unless every trained arm has its adapters. FILE gets every answer and all figures as JSON; tables are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from prepare import Row
from sources import read, tidy

from fslm_core import Engine, Stack
from fslm_core.explain.paired import holm, mcnemar
from fslm_core.message import Message
from fslm_reason import answer, pick, reason, reasoning
from fslm_reason.messages import MOST_OF_A_CHOICE, MOST_OF_A_QUESTION, Answer, Deciding, Reckoning

sys.path.insert(0, str(Path(__file__).parent / "control"))
import controls

AT_ONCE = 16
RESAMPLES = 10_000

from_facts = Stack(
    "control.from_facts",
    input=Reckoning,
    output=Answer,
    steps=[reasoning, answer, pick],
    bind={"answer": "pick.answer"},
)
from_messages = Stack(
    "control.from_messages", input=Deciding, output=Answer, steps=[answer, pick], bind={"answer": "pick.answer"}
)


def alone(row: Row, _: Sequence[Row], place: int) -> Row | None:
    given: Row = row["input"]
    return given


def with_gold_facts(row: Row, rows: Sequence[Row], place: int) -> Row | None:
    return row["input"] | {"facts": row["facts"]} if row.get("facts") else None


def with_other_facts(row: Row, rows: Sequence[Row], place: int) -> Row | None:
    """The gold facts of the next question that has some."""
    others = (rows[(place + step) % len(rows)].get("facts") for step in range(1, len(rows)))
    facts = next((facts for facts in others if facts), None)
    return row["input"] | {"facts": facts} if row.get("facts") and facts else None


def with_nothing(row: Row, rows: Sequence[Row], place: int) -> Row | None:
    return row["input"] | {"facts": "", "reasoning": ""}


def with_gold_messages(row: Row, rows: Sequence[Row], place: int) -> Row | None:
    return row["input"] | {name: row[name] for name in ("facts", "reasoning")} if row.get("facts") else None


@dataclass(frozen=True)
class Arm:
    """A stack, what it is given of a row (None where the row does not have it), and how its likelihoods are taken.

    Attributes:
        plain: score each choice as it is, after no more than the question; a base that was never taught to write
            JSON would else be asked for the braces, too.
    """

    stack: Stack[Any, Any]
    given: Callable[[Row, Sequence[Row], int], Row | None] = alone
    plain: bool = False


ARMS = {
    "base": Arm(controls.by_base, plain=True),
    "direct": Arm(controls.by_direct),
    "whole": Arm(controls.by_whole),
    "stack": Arm(reason),
    "gold": Arm(from_facts, with_gold_facts),
    "other": Arm(from_facts, with_other_facts),
    "nothing": Arm(from_messages, with_nothing),
    "told": Arm(from_messages, with_gold_messages),
}
MAIN = ("base", "direct", "whole", "stack")
FAMILIES = (tuple(combinations(MAIN, 2)), (("other", "gold"), ("stack", "gold")))
"""Which pairs the plan tests, by the families that Holm's correction is for."""


@dataclass(frozen=True)
class Said:
    """What an arm made of one row.

    Attributes:
        written: the index that was generated; None where the run failed, as is what follows where it came to no answer.
        likeliest: the index whose text had the greatest log-likelihood after the last model's prompt.
        per_letter: the same, of log-likelihood over the number of the text's characters.
        gold: the right index.
    """

    row: int
    written: int | None
    likeliest: int | None
    per_letter: int | None
    gold: int

    def right(self, measure: str) -> bool:
        return bool(getattr(self, measure) == self.gold)


MEASURES = ("likeliest", "per_letter", "written")


def asked(engine: Engine, arm: Arm, rows: Sequence[Row]) -> Iterator[Said]:
    """What the arm makes of each row that it can be given."""
    given = [(place, arm.given(row, rows, place)) for place, row in enumerate(rows)]
    given = [(place, input) for place, input in given if input is not None]
    outcomes = engine.map(arm.stack, [input for _, input in given], concurrency=AT_ONCE)
    for (place, _), outcome in zip(given, outcomes, strict=True):
        row = rows[place]
        message = outcome.run.messages.get("answer") if outcome.run is not None else None
        if not isinstance(message, Message) or not message.attempts:
            print(f"row {place} came to no answer: {outcome.error}", file=sys.stderr)
            yield Said(place, None, None, None, row["output"]["answer"])
            continue
        choices = row["input"]["choices"]
        before = message.content.model_dump(mode="json") if message.content is not None else {}
        written_out = [json.dumps(before | {"choice": c}, ensure_ascii=False, separators=(",", ":")) for c in choices]
        texts = choices if arm.plain else written_out
        told = engine.score(arm.stack, "answer", message.attempts[-1].prompt, texts)
        sums = [likelihood.logprob for likelihood in told]
        shares = [total / len(choice) for total, choice in zip(sums, choices, strict=True)]
        written = None if outcome.output is None else outcome.output.answer
        yield Said(place, written, sums.index(max(sums)), shares.index(max(shares)), row["output"]["answer"])


def interval(hits: Sequence[bool], seed: int = 0) -> tuple[float, float]:
    """95 % by the percentile bootstrap over rows; Efron and Tibshirani, An Introduction to the Bootstrap (1993).

    How often a row drawn anew is a hit is binomial, so the count of each resample is drawn at once.
    """
    import numpy as np

    drawn = np.random.default_rng(seed).binomial(len(hits), sum(hits) / len(hits), RESAMPLES) / len(hits)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def tests(said: dict[str, list[Said]], measure: str) -> dict[str, dict[str, float]]:
    """McNemar's exact tests on the rows that two arms share, with Holm's correction within each family of the plan."""
    told: dict[str, dict[str, float]] = {}
    for family in FAMILIES:
        raw: dict[str, float] = {}
        for one, other in family:
            if one in said and other in said:
                name = f"{one} → {other}"
                gained, lost = changed(said[one], said[other], measure)
                raw[name] = mcnemar(lost, gained)
                told[name] = {"gained": gained, "lost": lost, "p": raw[name]}
        for name, corrected in holm(raw).items():
            told[name]["holm"] = corrected
    return told


def changed(one: list[Said], other: list[Said], measure: str) -> tuple[int, int]:
    """How many rows of both are right in the second arm alone, and how many in the first alone."""
    first, second = ({answer.row: answer.right(measure) for answer in arm} for arm in (one, other))
    both = first.keys() & second.keys()
    return sum(second[row] > first[row] for row in both), sum(first[row] > second[row] for row in both)


def pooled(sets: list[dict[str, list[Said]]], sizes: list[int]) -> dict[str, list[Said]]:
    """All sets as one, their rows numbered on."""
    told: dict[str, list[Said]] = {}
    for place, said in enumerate(sets):
        for name, answers in said.items():
            moved = [replace(answer, row=answer.row + sum(sizes[:place])) for answer in answers]
            told.setdefault(name, []).extend(moved)
    return told


def tables(said: dict[str, list[Said]]) -> Iterator[str]:
    yield "| arm | rows | " + " | ".join(MEASURES) + " |"
    yield "| --- | ---: |" + " --- |" * len(MEASURES)
    for name, answers in said.items():
        cells = []
        for measure in MEASURES:
            hits = [answer.right(measure) for answer in answers]
            low, high = interval(hits)
            cells.append(f"{sum(hits) / len(hits):.3f} ({low:.3f} to {high:.3f})")
        yield f"| {name} | {len(answers)} | " + " | ".join(cells) + " |"
    for measure in MEASURES:
        for pair, test in tests(said, measure).items():
            yield f"{measure}, {pair}: +{test['gained']} -{test['lost']}, p {test['p']:.3g}, Holm {test['holm']:.3g}"


def reporting(data: Path) -> dict[str, list[Row]]:
    """The rows that are reported on and nothing else: opened once, after every arm is trained."""
    sets = {
        "tinyArc": [_tiny_arc(row) for row in read(data / "tinybenchmarks/tinyArc.jsonl")],
        "tinyMMLU": [_row(row, row["answer"]) for row in read(data / "tinybenchmarks/tinyMMLU.jsonl")],
    }
    for part in ("easy", "challenge"):
        sets[f"arc {part} dev"] = [_row(row, row["answer"]) for row in read(data / f"arc/{part}_dev.jsonl")]
    return sets


def _row(row: Row, gold: int) -> Row:
    choices = [tidy(choice)[:MOST_OF_A_CHOICE] for choice in row["choices"]]
    question = tidy(row["question"])[-MOST_OF_A_QUESTION:]
    return {"input": {"question": question, "choices": choices}, "output": {"answer": gold}}


def _tiny_arc(row: Row) -> Row:
    choices = row["choices"]
    return _row(row | {"choices": choices["text"]}, choices["label"].index(row["answerKey"]))


def untrained() -> list[str]:
    """Stages of any arm whose adapter is not there."""
    stages = {step.stage.name: step.stage for arm in ARMS.values() for step in arm.stack.steps}
    adapters = {name: stage.model.adapter for name, stage in stages.items() if stage.tool is None}
    return sorted(
        name
        for name, folder in adapters.items()
        if folder is not None and not (Path(folder) / "adapter_model.safetensors").exists()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--rows", type=Path, metavar="FILE", help="score held-back rows, such as questions.select.jsonl"
    )
    source.add_argument("--data", type=Path, metavar="DIR", help="score the reporting rows")
    parser.add_argument("--most", type=int, metavar="N", help="of --rows, the first N of each source")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where answers and figures go, as JSON")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    if given.data and (missing := untrained()):
        parser.error(f"the reporting rows stay closed until all arms are trained; untrained: {', '.join(missing)}")
    sets = reporting(given.data) if given.data else by_source(list(read(given.rows)), given.most)
    stacks = list({ARMS[name].stack.name: ARMS[name].stack for name in given.arms}.values())
    told: dict[str, Any] = {}
    all_said: list[dict[str, list[Said]]] = []
    with Engine(stacks, trace=False) as engine:
        for title, rows in sets.items():
            said = {name: list(asked(engine, ARMS[name], rows)) for name in given.arms}
            all_said.append({name: answers for name, answers in said.items() if answers})
            told[title] = report(title, len(rows), all_said[-1])
            given.out.write_text(json.dumps(told), encoding="utf-8")
    sizes = [len(rows) for rows in sets.values()]
    told["all"] = report("all", sum(sizes), pooled(all_said, sizes))
    given.out.write_text(json.dumps(told), encoding="utf-8")


def report(title: str, rows: int, said: dict[str, list[Said]]) -> dict[str, Any]:
    """Print a set's tables; return all that they are made of."""
    print(f"\n## {title}: {rows} rows\n", *tables(said), sep="\n", flush=True)
    answers = {name: [asdict(answer) for answer in its] for name, its in said.items()}
    return {"answers": answers, "tests": {measure: tests(said, measure) for measure in MEASURES}}


def by_source(rows: list[Row], most: int | None) -> dict[str, list[Row]]:
    names = list(dict.fromkeys(row["source"] for row in rows))
    return {name: [row for row in rows if row["source"] == name][:most] for name in names}


if __name__ == "__main__":
    main()
