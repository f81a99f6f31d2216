"""The figures of a view, against tables worked by hand and against scikit-learn."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sklearn import metrics

from fslm_core.evaluate.bootstrap import Bootstrap
from fslm_core.evaluate.fields import Mark, fields_of
from fslm_core.evaluate.scores import Told, ViewScores, score, wrong_fields

pytestmark = pytest.mark.torch


class Answer(BaseModel):
    label: Literal["a", "b", "c"] | None
    text: str | None
    number: float
    items: list[str]


def message(label: str | None = "a", text: str | None = "x", number: float = 1, items: Any = ()) -> dict[str, Any]:
    return {"label": label, "text": text, "number": number, "items": list(items)}


def scored(
    pairs: list[tuple[Any, Any]], texts: list[str] | None = None, sure: list[dict[str, float]] | None = None
) -> ViewScores:
    told = Told(
        [gold for gold, _ in pairs], [said for _, said in pairs], texts or [""] * len(pairs), sure or [{}] * len(pairs)
    )
    return score(told, fields_of(Answer), Bootstrap(range(len(pairs)), resamples=50))


def labels(pairs: list[tuple[str | None, Any]]) -> list[tuple[Any, Any]]:
    return [(message(g), s if isinstance(s, Mark) else message(s)) for g, s in pairs]


def test_labels_by_hand() -> None:
    """gold a a a b b c, said a a b b c c: tp 2 1 1, said 2 2 2, gold 3 2 1."""
    view = scored(labels(list(zip("aaabbc", "aabbcc", strict=True))))
    field = view.fields["label"]
    found = {name: [field.labels[label].stats[name].value for label in "abc"] for name in ("precision", "recall", "f1")}
    assert found["precision"] == pytest.approx([1, 1 / 2, 1 / 2])
    assert found["recall"] == pytest.approx([2 / 3, 1 / 2, 1])
    assert found["f1"] == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert [(field.labels[label].support, field.labels[label].predicted) for label in "abc"] == [(3, 2), (2, 2), (1, 2)]
    assert field.labels["c"].stats["false_alarms"].value == pytest.approx(1 / 5)
    assert field.stats["f1"].value == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert field.stats["micro_f1"].value == field.stats["accuracy"].value == pytest.approx(4 / 6)
    assert field.confusion is not None
    assert field.confusion.gold == field.confusion.predicted == ("a", "b", "c")
    assert field.confusion.counts == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_null_is_a_label_and_a_failure_only_misses() -> None:
    view = scored(labels([(None, None), (None, "a"), ("a", Mark.FAILED), ("b", Mark.SKIPPED)]))
    field = view.fields["label"]
    assert field.labels["null"].stats["recall"].value == 0.5
    assert field.labels["a"].stats["precision"].value == 0.0
    assert math.isnan(field.labels["b"].stats["precision"].value)
    assert set(field.labels) == {"a", "b", "null"}
    assert field.stats["f1"].value == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert field.confusion is not None
    assert field.confusion.gold == ("a", "b", "null")
    assert field.confusion.predicted == ("a", "b", "null", "(skipped)", "(failed)")
    assert view.stats["valid"].value == 0.75 and view.stats["exact"].value == 0.25


def test_what_is_skipped_by_both_does_not_count_and_what_is_not_known_neither() -> None:
    view = scored(
        [
            (Mark.SKIPPED, Mark.SKIPPED),
            (Mark.UNKNOWN, message()),
            (Mark.SKIPPED, message("b")),
            (message("a"), Mark.SKIPPED),
            (message("a"), message("a")),
        ]
    )
    assert view.rows == 3 and view.stats["exact"].value == pytest.approx(1 / 3)
    assert list(view.right) == [False, False, False, False, True]
    field = view.fields["label"]
    assert field.labels["b"].support == 0 and field.labels["b"].stats["precision"].value == 0
    assert field.confusion is not None and field.confusion.gold == ("a", "b", "(skipped)")
    assert field.stats["accuracy"].n == 3


def test_texts_by_hand() -> None:
    pairs = [("Red car", "the red car"), ("blue", "blue"), ("x", None), (None, "y z"), (None, None)]
    texts = ["a Red car", "blue", "x", "not there", ""]
    stats = scored([(message(text=g), message(text=s)) for g, s in pairs], texts).fields["text"].stats
    assert stats["accuracy"].value == pytest.approx(2 / 5)
    assert stats["normalised"].value == pytest.approx(3 / 5)
    assert stats["f1"].value == pytest.approx((1 + 1 + 0 + 0 + 1) / 5)
    assert stats["filled"].value == pytest.approx(1 / 3) and stats["filled"].n == 3
    assert stats["missed"].value == pytest.approx(1 / 3)
    assert stats["invented"].value == pytest.approx(1 / 2) and stats["invented"].n == 2
    assert stats["verbatim"].value == pytest.approx(1 / 3)


def test_numbers_and_lists_by_hand() -> None:
    view = scored(
        [(message(number=1, items=["p", "q"]), message(number=1.0, items=["q"])), (message(), message(number=2))]
    )
    assert view.fields["number"].stats["accuracy"].value == 0.5
    assert view.fields["items"].stats["f1"].value == pytest.approx((2 / 3 + 1) / 2)
    assert view.fields["items"].stats["accuracy"].value == 0.5
    assert view.stats["exact"].value == 0


def test_gold_of_a_part_of_the_fields_is_compared_in_that_part() -> None:
    part = {"label": "a"}
    view = scored([(part, message("a", "anything")), (part, message("b"))])
    assert view.stats["exact"].value == 0.5 and view.fields["text"].stats["accuracy"].n == 0
    assert wrong_fields(part, message("b"), fields_of(Answer)) == ("label",)


def test_confidence_is_averaged_and_binned() -> None:
    sure = [{"label": 0.95}, {"label": 1.0}, {"label": 0.55}, {}]
    field = scored(labels([("a", "a"), ("a", "b"), ("a", "b"), ("a", "a")]), sure=sure).fields["label"]
    assert field.stats["confidence"].value == pytest.approx(2.5 / 3) and field.stats["confidence"].n == 3
    assert [(b.low, b.n, b.accuracy) for b in field.bins] == [(0.5, 1, 0.0), (0.9, 2, 0.5)]


_LABEL = st.sampled_from(["a", "b", "c", None])
_ANSWER = _LABEL | st.just(Mark.FAILED)


@settings(max_examples=25)
@given(st.lists(st.tuples(_LABEL, _ANSWER), min_size=1, max_size=25))
def test_labels_agree_with_scikit_learn(pairs: list[tuple[str | None, Any]]) -> None:
    field = scored(labels(pairs)).fields["label"]
    gold = ["null" if g is None else g for g, _ in pairs]
    said = ["null" if s is None else s.value if isinstance(s, Mark) else s for _, s in pairs]
    names = list(field.labels)
    if not names:
        return
    options: dict[str, Any] = {"labels": names, "zero_division": math.nan}
    precision, recall, _, support = metrics.precision_recall_fscore_support(gold, said, **options)
    for number, name in enumerate(names):
        stats = field.labels[name].stats
        assert stats["precision"].value == pytest.approx(precision[number], nan_ok=True)
        assert stats["recall"].value == pytest.approx(recall[number], nan_ok=True)
        assert field.labels[name].support == support[number]
    macro, micro = (
        metrics.f1_score(gold, said, labels=names, average=kind, zero_division=0) for kind in ("macro", "micro")
    )
    assert field.stats["f1"].value == pytest.approx(macro)
    assert field.stats["micro_f1"].value == pytest.approx(micro)
    assert field.stats["accuracy"].value == pytest.approx(metrics.accuracy_score(gold, said))


@settings(max_examples=25)
@given(st.lists(st.tuples(_LABEL, _ANSWER), min_size=1, max_size=25))
def test_a_confusion_holds_every_row_once(pairs: list[tuple[str | None, Any]]) -> None:
    field = scored(labels(pairs)).fields["label"]
    table = field.confusion
    assert table is not None
    assert sum(map(sum, table.counts)) == len(pairs)
    for label, found in field.labels.items():
        line = table.gold.index(label)
        column = table.predicted.index(label)
        assert sum(table.counts[line]) == found.support
        assert sum(row[column] for row in table.counts) == found.predicted
        right = table.counts[line][column]
        assert found.stats["f1"].value == pytest.approx(2 * right / (found.support + found.predicted))
    right = sum(table.counts[table.gold.index(n)][table.predicted.index(n)] for n in field.labels)
    assert field.stats["accuracy"].value == pytest.approx(right / len(pairs))


def test_every_interval_holds_its_value() -> None:
    view = scored(labels([("a", "a"), ("a", "b"), ("b", "b"), ("c", "a")] * 20))
    for stat in (*view.stats.values(), *view.fields["label"].stats.values()):
        low, high = stat.interval()
        assert low <= stat.value <= high
