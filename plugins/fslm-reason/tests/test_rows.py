"""What the training rows say: of the data sets' wrapping, of near duplicates, of gold messages made by rule."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.torch
NAMES = ("sources", "alike", "keywords", "prepare")
FUR = (
    "Use reasoning to answer the following question. Which animal has fur?\\nOptions:\\n- (A) goats\\n- (B) frogs"
    " Let's solve this problem gradually.\n"
)
PARK = (
    "I'll give you a question, please answer with step-by-step reasoning process. next question: Where would you"
    " walk a dog?\\nOptions:\\n- sink\\n- park\nreasoning:"
)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The programs beside the recipes; other plugins have some of the same name."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train"))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A few rows of each set in the sets' own forms; one question of train is nearly one of arc dev."""

    def lines(name: str, *rows: dict[str, Any]) -> None:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def asked(question: str, answer: int = 0) -> dict[str, Any]:
        return {"question": question, "choices": ["ice", "iron"], "answer": answer}

    lines("arc/easy_train", asked("Which of these melts in the sun?"), asked("What is it that magnets attract?", 1))
    lines("arc/challenge_train", asked("Which of these two conducts a current best?", 1))
    lines("arc/easy_dev", asked("Which of these melts in the sun"))
    lines("arc/challenge_dev", asked("What freezes?"))
    for name in ("tinybenchmarks/tinyArc", "tinybenchmarks/tinyMMLU", "mmlu/dev"):
        lines(name, {"question": "Who was Hume?"})
    qasc = "Only mammals have fur. Goats are mammals. Goats have fur. So the answer is (A)."
    ecqa = "Dogs like to run\u2019s wide. A park is wide. One walks dogs in a park. The answer: park."
    lines("rationales/qasc_train", {"instruction": FUR, "input": "", "output": qasc})
    lines("rationales/ecqa_train", {"instruction": PARK, "input": "", "output": ecqa})
    gold = {
        "facts": ["Whales are mammals.", "Sharks are fish."],
        "decomposition": ["What are whales?", "Is #1 a fish?"],
    }
    lines("strategyqa/train", {"question": "Are whales and sharks both fish?", "answer": False, **gold})
    return tmp_path


def test_the_wrapping_of_a_question_is_taken_off(train: dict[str, ModuleType], data: Path) -> None:
    (item,) = train["sources"].rationales(data, "qasc")
    assert (item.question, item.choices, item.answer) == ("Which animal has fur?", ("goats", "frogs"), 0)
    assert item.told == "Only mammals have fur. Goats are mammals." and item.concluded == "Goats have fur."
    (item,) = train["sources"].rationales(data, "ecqa")
    assert (item.question, item.choices, item.answer) == ("Where would you walk a dog?", ("sink", "park"), 1)
    assert item.told == "Dogs like to run's wide. A park is wide." and item.concluded == "One walks dogs in a park."


def test_facts_are_whole_sentences_that_fit(train: dict[str, ModuleType]) -> None:
    item = train["sources"].Item("qasc", "Q?", ("a", "b"), 0, facts=("x" * 100, "y" * 100, "z" * 100))
    assert item.told == "x" * 100 + " " + "y" * 100
    assert train["sources"].Item("qasc", "Q?", ("a", "b"), 0, facts=("x" * 300,)).told == ""


def test_questions_near_to_a_reported_one_are_left_out(train: dict[str, ModuleType], data: Path) -> None:
    kept, left_out = train["prepare"].questions(data)
    assert left_out == {"arc": 1}
    assert "Which of these melts in the sun?" not in {item.question for item in kept} and len(kept) == 5


def test_questions_that_share_a_fact_are_one_family(train: dict[str, ModuleType]) -> None:
    asked = ["What is ice made of?", "Who was Hume, and where?", "What is ice made of", "Whom did Kant read?"]
    assert train["alike"].families(asked, [[], ["Kant read Hume."], [], ["kant read hume."]]) == [0, 1, 0, 1]


def test_the_topic_is_shared_and_key_words_are_of_the_facts(train: dict[str, ModuleType], data: Path) -> None:
    items = train["sources"].items(data)
    key_words = train["keywords"].KeyWords.of(items)
    (fur,) = (item for item in items if "fur" in item.question)
    assert key_words(fur) == {"topic": "fur", "words": ["goats", "mammals"]}
    assert key_words(next(item for item in items if item.source == "arc")) is None


def test_every_question_gives_the_rows_whose_gold_is_known(train: dict[str, ModuleType], data: Path) -> None:
    prepare = train["prepare"]
    files, _ = prepare.prepare(data, prepare.Fold(10**9, 0))
    answers = {row["input"]["question"]: row for row in files["answer.train.jsonl"]}
    assert len(answers) == len(files["direct.train.jsonl"]) == len(files["whole.train.jsonl"]) == 5
    assert answers["What is it that magnets attract?"]["input"]["facts"] == ""
    assert answers["Are whales and sharks both fish?"]["input"]["facts"] == "Whales are mammals. Sharks are fish."
    assert {row["output"]["reasoning"] for row in files["reasoning.train.jsonl"]} == {
        "Goats have fur.",
        "One walks dogs in a park.",
    }
    assert not files["questions.select.jsonl"]


def test_no_family_is_on_both_sides(train: dict[str, ModuleType], data: Path) -> None:
    prepare = train["prepare"]
    sides = [prepare.prepare(data, prepare.Fold(2, part))[0] for part in (0, 1)]
    held = [{row["input"]["question"] for row in side["questions.select.jsonl"]} for side in sides]
    assert len(held[0] | held[1]) == 5 and not held[0] & held[1]
    for side, questions in zip(sides, held, strict=True):
        assert not questions & {row["input"]["question"] for row in side["direct.train.jsonl"]}
