"""Make the rows that the adapters are trained on, and those that the stack is scored by.

    python prepare.py --problems DIR --gsm8k DIR --out DIR

reads ``train.jsonl`` of the word problems and of gsm8k, and writes ``KIND.train.jsonl`` and ``KIND.select.jsonl`` for
``equation`` (the stack's stage) and the two controls ``number`` and ``both``, all of the same questions in the same
order, and ``math.train.jsonl`` (whole questions, for the linear control of ``fslm eval``). No development row is read
here. Rows are ``{"input": {...}, "output": {...}}``. The same input gives the same files, byte for byte.

Questions of three kinds, shuffled: word problems of the data set, each wording once, half of them with other numbers
and some with a sentence beside the point; made-up ones (``scenes.py``); and short ones of gsm8k, if asked for.
Selection rows are word problems alone, and no training question has 60 % of the words of one of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from equations import annotated, comes_to, prefix, steps_of, values_of
from lexicon import PEOPLE, THINGS
from scenes import scenes
from wording import natural, proper_names

from fslm_math.finding import find, implied, rewritten, sentences
from fslm_math.steps import CalculationError, calculate, choices, shown

SEED = 7
ALIKE = 0.6
Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A question and the steps that answer it."""

    question: str
    steps: list[str]

    @property
    def unused(self) -> bool:
        """Whether it has a number that no step uses."""
        used = {operand for step in self.steps for operand in re.split(r"[-+*/]", step)}
        return not {shown(number.value) for number in find(self.question)} <= used

    @property
    def writable(self) -> bool:
        """Whether the stage could write these steps."""
        values = values_of(self.question)
        return all(step in choices(values, place) for place, step in enumerate(self.steps))


def read(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def problems(folder: Path) -> list[Problem]:
    """The word problems whose equation the stage can write, each wording once."""
    rows = list(read(folder / "train.jsonl"))
    names = proper_names(row["question"] for row in rows)
    found: dict[str, Problem] = {}
    for row in rows:
        question = natural(row["question"], names)
        values = values_of(question)
        if any("/" in value for value in values):
            continue
        steps = steps_of(prefix(row["equation_prefix"]), values)
        if steps and comes_to(steps, row["answer"]):
            found.setdefault(re.sub(r"[\d.,]+", "#", question.lower()), Problem(question, steps))
    return list(found.values())


def school(folder: Path, most_words: int = 45) -> list[Problem]:
    """Short problems of gsm8k whose solution is one to three steps with the question's own numbers."""
    found = []
    for row in read(folder / "train.jsonl"):
        question = " ".join(row["question"].split())
        values = values_of(question)
        if len(question.split()) <= most_words and not any("/" in value for value in values):
            steps = annotated(row["answer"], values)
            if steps:
                found.append(Problem(question, steps))
    return found


def redrawn(problem: Problem, random: Random) -> Problem:
    """The same problem with other numbers; as it is where none are found that come out as whole as before."""
    numbers = list(find(problem.question))
    old = [shown(number.value) for number in numbers]
    if len(set(old) | set(implied(problem.question))) < len(old) + len(implied(problem.question)):
        return problem
    if any(number.value.denominator != 1 for number in numbers):
        return problem
    whole = calculate(problem.steps)[0].denominator == 1
    for _ in range(200):
        new = [str(random.randint(2, max(10, int(number.value) * 3 // 2))) for number in numbers]
        swap = dict(zip(old, new, strict=True))
        steps = [_swapped(step, swap) for step in problem.steps]
        try:
            lines = calculate(steps)[1]
        except CalculationError:
            continue
        if len(set(new)) == len(new) and not (whole and any(re.search(r"= .*[./]", line) for line in lines)):
            drawn = [replace(number, value=Fraction(value)) for number, value in zip(numbers, new, strict=True)]
            other = Problem(rewritten(problem.question, drawn), steps)
            if other.writable:
                return other
    return problem


def _swapped(step: str, swap: dict[str, str]) -> str:
    return re.sub(r"\d+(?:\.\d+)?", lambda match: swap.get(match[0], match[0]), step)


def beside_the_point(problem: Problem, random: Random) -> Problem:
    """The problem with one more sentence, of a number that nobody asks for, somewhere before the question.

    Where the question asks for one person's things, half of these sentences give somebody else the same things.
    """
    parts = sentences(problem.question)
    number = random.randint(2, 60)
    if len(parts) < 2 or str(number) in values_of(problem.question):
        return problem
    name, thing = random.choice(PEOPLE), random.choice(THINGS)
    asked = re.match(r"How many (?:more |new )?([a-z]+s) (?:did|does|do|were|was)\b", parts[-1])
    if asked and not re.search(r"\b(they|all|total|altogether|together)\b", parts[-1]) and random.random() < 0.5:
        thing = asked[1]
    parts.insert(random.randint(1, len(parts) - 1), random.choice(_BESIDE).format(name, number, thing))
    return Problem(" ".join(parts), problem.steps)


_BESIDE = ("{0} has {1} {2}.", "{0} also has {1} {2}.", "{0} bought {1} {2}.", "{0} has {1} {2} at home.")


@dataclass(frozen=True)
class Fold:
    """Which word problems may be selected by: part ``part`` of ``parts``, drawn by the wording."""

    parts: int = 10
    part: int = 0

    def has(self, problem: Problem) -> bool:
        return int(hashlib.sha256(problem.question.encode()).hexdigest(), 16) % self.parts == self.part


def words(problem: Problem) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]{3,}", problem.question.lower()))


def alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= ALIKE * len(one | other)


def input_of(question: str) -> Row:
    """What the tool ``math.numbers`` makes of a question."""
    from fslm_math import numbers
    from fslm_math.messages import Question

    assert numbers.tool is not None
    numbered = numbers.tool.function(Question(question=question))
    made: Row = numbered.model_dump(mode="json")
    return made


def rows_of(problem: Problem) -> dict[str, Row]:
    """The row of each kind."""
    answer = shown(calculate(problem.steps)[0])
    given = input_of(problem.question)
    return {
        "equation": {"input": given, "output": {"steps": problem.steps}},
        "number": {"input": given, "output": {"answer": answer}},
        "both": {"input": given, "output": {"steps": problem.steps, "answer": answer}},
    }


TENTH = Fold()


def selected(found: list[Problem], most: int, fold: Fold) -> list[Problem]:
    """Selection problems: of those held back, as many as there are with an unused number, up to a third."""
    back = sorted((p for p in found if fold.has(p)), key=lambda p: hashlib.sha256(p.question[::-1].encode()).digest())
    hard = [p for p in back if p.unused][: most // 3]
    return [*hard, *[p for p in back if not p.unused][: most - len(hard)]]


def prepare(
    word_problems: Path,
    gsm8k: Path,
    *,
    made_up: int,
    from_school: int,
    select: int,
    fold: Fold = TENTH,
    vary: bool = True,
) -> Iterator[tuple[str, list[Row]]]:
    """Each file's name and its rows; with ``vary`` false the data set's own problems are left as they are."""
    random = Random(SEED)
    found = problems(word_problems)
    chosen = selected(found, select, fold)
    apart = [words(problem) for problem in chosen]
    own = [p for p in found if not fold.has(p) and not any(alike(words(p), other) for other in apart)]
    varied = own
    if vary:
        varied = [redrawn(problem, random) if random.random() < 0.5 else problem for problem in own]
        varied = [beside_the_point(problem, random) if random.random() < 0.25 else problem for problem in varied]
    extra = [Problem(question, steps) for question, steps in islice(scenes(random), made_up)]
    short = school(gsm8k) if from_school else []
    random.shuffle(short)
    train = [p for p in [*varied, *extra, *short[:from_school]] if "/" not in shown(calculate(p.steps)[0])]
    random.shuffle(train)
    for name, part in (("train", train), ("select", [p for p in chosen if "/" not in shown(calculate(p.steps)[0])])):
        rows = [rows_of(problem) for problem in part]
        for kind in ("equation", "number", "both"):
            yield f"{kind}.{name}.jsonl", [row[kind] for row in rows]
    yield "math.train.jsonl", [_whole(problem) for problem in own]


def _whole(problem: Problem) -> Row:
    result, lines = calculate(problem.steps)
    return {"input": {"question": problem.question}, "output": {"answer": float(result), "steps": lines}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, required=True, metavar="DIR", help="holds word_problems' train.jsonl")
    parser.add_argument("--gsm8k", type=Path, required=True, metavar="DIR", help="holds gsm8k's train.jsonl")
    default = Path(__file__).with_name("rows")
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="where to write (rows/ beside this)")
    parser.add_argument("--made-up", type=int, default=2400, metavar="N", help="how many questions to make up (2400)")
    parser.add_argument("--from-gsm8k", type=int, default=0, metavar="N", help="how many of gsm8k to take (0)")
    parser.add_argument("--select", type=int, default=150, metavar="N", help="how many rows to select by (150)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    files = prepare(
        given.problems, given.gsm8k, made_up=given.made_up, from_school=given.from_gsm8k, select=given.select
    )
    for name, rows in files:
        write(given.out / name, rows)
        print(f"{name}: {len(rows)} rows")


def write(path: Path, rows: list[Row]) -> None:
    """A row a line."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
