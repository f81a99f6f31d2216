"""The upgrade gate: what it finds between two versions' answers, and how it asks for them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.errors import DataError, GateError, UnknownNameError
from fslm_core.explain.paired import holm, mcnemar, wilson
from fslm_core.govern.gate import ABSENT, EXAMPLES, WITHHELD, Example, GateReport, compare
from fslm_core.govern.questions import Question, of_file
from fslm_core.govern.sides import Answer, Side, ask, died, look, variables

OLD = Side("baseline", "old/bin/python", {}, "fslm 1", ({"name": "s", "plugin": "p 1", "model": None},))
NEW = Side("current", "bin/python", {}, "fslm 1", ({"name": "s", "plugin": "p 2", "model": None},))
FAILED = Answer(None, "tool", "too loud")


def said(**output: Any) -> Answer:
    return Answer(output, seconds=0.5)


def compared(
    before: Sequence[Answer], after: Sequence[Answer], gold: Sequence[dict[str, Any] | None] = (), **options: Any
) -> GateReport:
    golds = list(gold) or [None] * len(before)
    questions = [Question(f"line {place}", {"n": place}, golds[place - 1]) for place in range(1, len(before) + 1)]
    return compare("s", OLD, NEW, questions, before, after, **options)


# -- statistics ------------------------------------------------------------------------------------------------------


def test_the_exact_test_counts_every_way_in_which_pairs_can_fall() -> None:
    for lost, gained in product(range(7), repeat=2):
        pairs = lost + gained
        ways = [sum(coins) for coins in product((0, 1), repeat=pairs)]
        uneven = abs(lost - gained)
        expected = sum(abs(2 * heads - pairs) >= uneven for heads in ways) / len(ways)
        assert mcnemar(lost, gained) == pytest.approx(expected)
    assert mcnemar(10_000, 10_000) == pytest.approx(1.0) and 0 < mcnemar(400, 300) < 0.001


def test_holm_multiplies_the_least_by_the_number_of_tests_and_never_turns_the_order() -> None:
    assert holm({}) == {} and holm({"a": 0.5}) == {"a": 0.5}
    assert holm({"a": 0.01, "b": 0.5, "c": 0.02, "d": 0.9}) == pytest.approx({"a": 0.04, "b": 1, "c": 0.06, "d": 1})


@given(rows=st.integers(1, 500), data=st.data())
def test_a_share_lies_in_its_interval(rows: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, rows))
    low, high = wilson(hits, rows)
    assert 0 <= low <= hits / rows + 1e-12 and hits / rows - 1e-12 <= high <= 1
    again_low, again_high = wilson(rows - hits, rows)
    assert (low, high) == pytest.approx((1 - again_high, 1 - again_low))
    assert math.isnan(wilson(0, 0)[0])


# -- comparing -------------------------------------------------------------------------------------------------------


def test_what_changed_is_counted_field_by_field_with_examples() -> None:
    before = [said(a=1, b="x"), said(a=2, b="y"), said(a=3, b="z"), FAILED]
    after = [said(a=1, b="x"), said(a=9, b="y"), FAILED, said(a=4, b="w")]
    report = compared(before, after)
    assert (report.rows, report.changed) == (4, 3)
    a, b = report.fields
    assert (a.name, a.rows, a.changed, a.examples) == ("a", 2, 1, (Example("line 2", 2, 9),))
    assert (b.name, b.rows, b.changed, b.examples) == ("b", 2, 0, ())
    assert (report.valid.before, report.valid.after, report.valid.lost, report.valid.gained) == (3, 3, 1, 1)
    assert report.newly_invalid == (Example("line 3", {"a": 3, "b": "z"}, "error tool: too loud"),)
    assert report.errors == {"baseline": {"tool": 1}, "current": {"tool": 1}}
    assert report.exact is None and report.seconds == {"baseline": 0.5, "current": 0.5}


def test_true_is_not_one_and_a_field_that_is_gone_is_a_change() -> None:
    report = compared([said(a=1, b=None)] * 2, [said(a=True, b=None), said(a=1, c=0)])
    changes = {change.name: [(e.before, e.after) for e in change.examples] for change in report.fields}
    assert changes == {"a": [(1, True)], "b": [(None, ABSENT)], "c": [(ABSENT, 0)]}


def test_examples_are_few_and_tell_no_value_where_none_may_be_told() -> None:
    before, after = [said(a="secret")] * 50, [said(a="other")] * 49 + [Answer(None, "tool", "no secret")]
    report = compared(before, after, quotes=False)
    (change,) = report.fields
    assert change.changed == 49 and len(change.examples) == EXAMPLES
    assert change.examples[0] == Example("line 1", WITHHELD, WITHHELD)
    assert report.newly_invalid == (Example("line 50", WITHHELD, "error tool"),)
    assert "secret" not in json.dumps(report.to_dict())


def test_a_label_is_scored_in_the_fields_it_has() -> None:
    gold: list[dict[str, Any] | None] = [{"a": 1}, {"a": 1, "b": 2}, None]
    report = compared([said(a=1, b=0), said(a=1, b=2), said(a=7)], [said(a=1, b=5), FAILED, said(a=1)], gold)
    assert report.exact is not None and (report.exact.rows, report.exact.before, report.exact.after) == (2, 2, 1)
    scores = {change.name: change.score for change in report.fields}
    a, b = scores["a"], scores["b"]
    assert a is not None and (a.rows, a.before, a.after, a.lost) == (2, 2, 1, 1)
    assert b is not None and (b.rows, b.before, b.after) == (1, 1, 0)
    assert [figure.name for figure in report.figures] == ["valid", "exact", "a", "b"]


def test_a_fall_shuts_the_gate_when_chance_does_not_explain_it() -> None:
    def lost(rows: int) -> GateReport:
        return compared([said(a=1)] * 40, [FAILED] * rows + [said(a=1)] * (40 - rows))

    assert lost(5).faults(alpha=0.05) == ()  # 2 / 2^5 = 0.0625
    assert lost(6).faults(alpha=0.05) == ("valid fell from 40 to 34 of 40 (p = 0.0312)",)
    assert lost(1).faults(alpha=1.0) == ("valid fell from 40 to 39 of 40 (p = 1)",)
    assert lost(0).faults(alpha=1.0) == ()
    assert lost(5).faults(alpha=0.05, max_changed=0.1) == ("5 of 40 rows changed, more than the share 0.1",)
    assert lost(4).faults(alpha=0.05, max_changed=0.1) == ()


def test_a_rise_never_shuts_the_gate() -> None:
    report = compared([FAILED] * 20, [said(a=1)] * 20, [{"a": 1}] * 20)
    assert report.valid.gained == 20 and report.faults(alpha=1.0) == ()


def test_many_fields_are_judged_together_lest_one_falls_by_chance() -> None:
    names = "abcdefgh"
    gold: list[dict[str, Any] | None] = [dict.fromkeys(names, 0) for _ in range(40)]
    good = dict.fromkeys(names, 0)
    before = [said(**good)] * 40
    alone = [said(**{**good, "a": 1})] * 7 + before[7:]
    report = compared(before, alone, gold)
    scores = {change.name: change.score for change in report.fields}
    assert scores["a"] is not None and scores["a"].p == pytest.approx(mcnemar(7, 0) * len(names))
    assert [fault.split()[0] for fault in report.faults(alpha=0.05)] == ["exact"]


answers = st.one_of(st.just(FAILED), st.builds(lambda a, b: said(a=a, b=b), st.integers(0, 2), st.sampled_from("xy")))


@given(st.lists(st.tuples(answers, answers), max_size=30), st.booleans())
def test_counts_agree_with_each_other(pairs: list[tuple[Answer, Answer]], labelled: bool) -> None:
    gold: list[dict[str, Any] | None] = [{"a": 1} if labelled else None for _ in pairs]
    report = compared([a for a, _ in pairs], [b for _, b in pairs], gold)
    for figure in report.figures:
        assert figure.after == figure.before - figure.lost + figure.gained
        assert 0 <= figure.lost <= figure.before <= figure.rows == len(pairs)
        assert 0 <= figure.p <= 1
    assert report.changed == sum(a.output != b.output for a, b in pairs)
    same = compared([a for a, _ in pairs], [a for a, _ in pairs], gold)
    assert same.changed == 0 and same.faults(alpha=1.0, max_changed=0.0) == ()
    json.dumps(report.to_dict(), allow_nan=False)


# -- asking ----------------------------------------------------------------------------------------------------------

STAND_IN = """#!{python}
import json, os, signal, sys

assert sys.argv[1:3] == ["-m", "fslm_core"], sys.argv
verb = sys.argv[3]
if verb == "--version":
    {version}
elif verb == "check":
    {check}
else:
    assert sys.argv[4:9] == ["s", "-", "--out", "/dev/stdout", "--force"] and "--sensitive" in sys.argv
    {batch}
"""
WELL = 'print(json.dumps({"steps": [{"name": "s", "plugin": "p 1", "model": None, "more": 1}], "errors": []}))'
ECHO = """
    for n, line in enumerate(sys.stdin):
        print(json.dumps({"row": n, "run": None, "output": json.loads(line)}), flush=True)
"""


def python(folder: Path, batch: str = ECHO, version: str = 'print("fslm 9.9")', check: str = WELL) -> str:
    """A file that answers as another environment's Python would."""
    path = folder / "python"
    path.write_text(STAND_IN.format(python=sys.executable, version=version, check=check, batch=batch.strip()), "utf-8")
    path.chmod(0o755)
    return str(path)


def side(folder: Path, **parts: str) -> Side:
    return look("baseline", python(folder, **parts), "s", variables(folder / "trace.db", other=True))


def asked(of: Side, rows: int) -> Any:
    return ask(of, "s", [{"n": n} for n in range(rows)], concurrency=2, seed=0)


def test_a_side_says_what_it_is(tmp_path: Path) -> None:
    found = side(tmp_path)
    assert (found.version, found.plugins) == ("fslm 9.9", ("p 1",))
    assert found.steps == ({"name": "s", "plugin": "p 1", "model": None},)


def test_rows_go_in_and_come_back_in_order(tmp_path: Path) -> None:
    told: list[bool] = []
    inputs = [{"n": n, "text": "ä" * n} for n in range(300)]
    found = ask(side(tmp_path), "s", inputs, concurrency=2, seed=0, on_row=told.append)
    assert [answer.output for answer in found.rows] == inputs and found.died is None
    assert told == [False] * 300 and {answer.seconds for answer in found.rows} == {None}


def test_errors_are_answers_and_what_else_is_printed_is_passed_over(tmp_path: Path) -> None:
    batch = """
    print("welcome to my plugin"); print("[1, 2]"); print('{"row": 7, "output": {}}'); print('{"row": 0}')
    print('{"row": 0, "run": "R", "error": {"code": "tool", "what": "no", "found": "x"}}'); sys.exit(1)
    """
    found = asked(side(tmp_path, batch=batch), 1)
    assert found.rows == [Answer(None, "tool", "no: x")] and found.died is None


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ('sys.exit("the plugin is broken")', "its process ended with exit code 1; the plugin is broken"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was ended by signal 9"),
        ("sys.exit(0)", "its process ended with exit code 0"),
    ],
)
def test_a_side_that_dies_half_way_leaves_what_it_answered(tmp_path: Path, end: str, why: str) -> None:
    batch = f"""
    for n, line in enumerate(sys.stdin):
        if n == 3:
            {end}
        print(json.dumps({{"row": n, "run": None, "output": {{}}}}), flush=True)
    """
    found_side = side(tmp_path, batch=batch)
    found = asked(found_side, 2000)  # more than a pipe holds: whoever feeds it must notice
    assert len(found.rows) == 3 and found.died == why
    error = died(found_side, "line 4", 3, 2000, found.died)
    assert error.exit_code == 4 and "line 4" in str(error.where) and "3 of 2,000 rows answered" in str(error.found)


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program", "utf-8")
    for nowhere in (str(tmp_path / "none"), str(tmp_path / "text"), str(tmp_path), "no-such-python-anywhere", ""):
        with pytest.raises(GateError, match="there is no baseline Python to run"):
            look("baseline", nowhere, "s", {})


@pytest.mark.parametrize(
    ("version", "what"),
    [
        ('sys.exit("/usr/bin/python: No module named fslm_core")', "the baseline Python has no fslm-core"),
        ('print("Python 3.11")', "the baseline Python does not run fslm"),
        ('print("fslm 1"); sys.exit(70)', "the baseline Python does not run fslm"),
    ],
)
def test_a_python_without_fslm_is_told(tmp_path: Path, version: str, what: str) -> None:
    with pytest.raises(GateError) as caught:
        side(tmp_path, version=version)
    assert caught.value.what == what and "pip install fslm-core" in str(caught.value.hint)


def test_a_side_that_lacks_the_stack_is_told(tmp_path: Path) -> None:
    check = (
        """print("error[unknown-name] the plugins loaded: there is no stack named 's'", file=sys.stderr); sys.exit(2)"""
    )
    with pytest.raises(UnknownNameError, match="the baseline has no stack named 's'"):
        side(tmp_path, check=check)


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ('print(json.dumps({"steps": [], "errors": ["no such adapter"]})); sys.exit(3)', "no such adapter"),
        ('sys.exit("error[settings] FSLM_NEW means nothing")', "FSLM_NEW means nothing"),
        ('print("[]")', ""),
    ],
)
def test_a_side_that_refuses_the_stack_is_told(tmp_path: Path, check: str, found: str) -> None:
    with pytest.raises(GateError, match="cannot run the stack") as caught:
        side(tmp_path, check=check)
    assert found in str(caught.value.found)


def test_another_python_does_not_find_the_packages_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/here")
    monkeypatch.setenv("VIRTUAL_ENV", "/here")
    old, new = (variables(tmp_path / "trace.db", other=other) for other in (True, False))
    assert "PYTHONPATH" not in old and "VIRTUAL_ENV" not in old and new["PYTHONPATH"] == "/here"
    assert old["FSLM_TRACE__CONTENT"] == new["FSLM_TRACE__CONTENT"] == "none"
    assert old["PYTHONSAFEPATH"] == "1" and "FSLM_LOCKED" not in old
    assert variables(tmp_path, other=True, locked=True, settings=tmp_path / "f")["FSLM_LOCKED"] == "false"


# -- rows ------------------------------------------------------------------------------------------------------------


def test_labelled_rows_need_fit_no_model(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"input": {"a": n}, "output": {"b": [n, None]}, "source": "x"} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    found = of_file(path)
    assert [(q.row, dict(q.input), q.gold) for q in found] == [
        (f"line {n + 1}", {"a": n}, {"b": [n, None]}) for n in range(3)
    ]
    assert len(of_file(path, 2)) == 2


@pytest.mark.parametrize("text", ["", '{"text": "flat"}\n', '{"input": {"a": 1}, "output": {}}\nno JSON\n'])
def test_a_file_that_holds_other_rows_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError):
        of_file(path)
