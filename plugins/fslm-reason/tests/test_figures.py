"""What the evaluation counts: changes between arms, sets as one, and rows that stay closed to an untrained arm."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytestmark = pytest.mark.torch
NAMES = ("evaluate", "prepare", "sources", "alike", "keywords", "controls")


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program; other plugins have one of the same name."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train/control"))
    yield importlib.import_module("evaluate")
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_only_rows_of_both_arms_are_compared(evaluate: ModuleType) -> None:
    said = evaluate.Said
    one = [said(0, 1, 1, 1, 1), said(1, 0, 0, 0, 1), said(2, 1, 1, 1, 1)]
    other = [said(0, 0, 0, 0, 1), said(1, 1, 1, 1, 1), said(3, 1, 1, 1, 1)]
    assert evaluate.changed(one, other, "written") == (1, 1)


def test_a_run_without_an_answer_is_wrong(evaluate: ModuleType) -> None:
    assert not any(evaluate.Said(0, None, None, None, 0).right(measure) for measure in evaluate.MEASURES)


def test_pooled_rows_are_numbered_on(evaluate: ModuleType) -> None:
    said = evaluate.Said(0, 1, 1, 1, 1)
    pooled = evaluate.pooled([{"base": [said]}, {"base": [said], "gold": [said]}], [5, 7])
    assert pooled == {"base": [said, replace(said, row=5)], "gold": [replace(said, row=5)]}


def test_holm_counts_the_pairs_of_its_family(evaluate: ModuleType) -> None:
    right, wrong = ([evaluate.Said(row, got, got, got, 1) for row in range(10)] for got in (1, 0))
    told = evaluate.tests({"base": wrong, "direct": wrong, "stack": right, "gold": right}, "written")
    assert told["base → stack"]["holm"] == pytest.approx(3 * told["base → stack"]["p"])
    assert told["stack → gold"]["holm"] == told["stack → gold"]["p"] == 1


def test_a_share_of_all_rows_has_no_width(evaluate: ModuleType) -> None:
    assert evaluate.interval([True] * 9) == (1, 1)
    low, high = evaluate.interval([True, False] * 50)
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62


def test_reporting_rows_stay_closed_while_an_arm_is_untrained(
    evaluate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = SimpleNamespace(adapter=tmp_path)
    step = SimpleNamespace(stage=SimpleNamespace(name="half.done", tool=None, model=model))
    monkeypatch.setitem(evaluate.ARMS, "stack", evaluate.Arm(SimpleNamespace(steps=[step])))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tmp_path), "--out", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "half.done" in capsys.readouterr().err and not (tmp_path / "out.json").exists()
