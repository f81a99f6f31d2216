"""Files of cases: each case is a test, and what is wrong is told with file, case and key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fslm_core.testing.broken import ContractBroken
from fslm_core.testing.cases import read_cases

from .testing_demo import install

pytest_plugins = ["pytester"]

GOOD = """\
stage: demo.opinion
cases:
  - name: a text as it is
    input: {text: NO}
    reply: '{"sentiment":"bad","stars":1}'
    expect:
      message: {sentiment: bad, stars: 1}
  - name: several attempts are one reply here
    input: {text: 2020-01-01}
    reply: [{sentiment: good, stars: 5.0}]
    expect:
      message: {stars: 5, sentiment: good}
  - name: a problem by its kind
    input: {text: "off"}
    reply: not JSON
    expect: {problem: json, error: stage-failed}
  - name: a problem by its field
    input: {text: yes}
    reply: {sentiment: fine, stars: 9}
    expect:
      problem: {kind: schema, field: stars, text: beyond its maximum, step: opinion}
  - name: an error
    input: {}
    expect: {error: input}
"""
STACK = """\
stack: demo
cases:
  - name: handled
    input: {text: x}
    reply: {opinion: {sentiment: bad, stars: 1}}
    expect: {message: {sentiment: bad, reply: We are sorry.}, skipped: []}
"""
TOOL = """\
stage: demo.reply
cases:
  - name: thanks
    input: {sentiment: good, stars: 5}
    expect: {message: {reply: Thank you.}}
"""


@pytest.fixture
def demo(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    site = pytester.path / "site"
    install(site, {"tests/test_contracts.py": None})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    yield pytester
    for name in [name for name in sys.modules if name.partition(".")[0] == "fslm_demo"]:
        del sys.modules[name]


def run(demo: pytest.Pytester, files: dict[str, str], *options: str) -> pytest.RunResult:
    for name, text in files.items():
        path = demo.path / "tests/cases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return demo.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_every_case_is_a_test_with_its_name(demo: pytest.Pytester) -> None:
    files = {"opinion.yml": GOOD, "demo.yaml": STACK, "reply.yml": TOOL}
    result = run(demo, files, "-v")
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines_random(
        [
            "tests/cases/opinion.yml::a text as it is PASSED*",
            "tests/cases/demo.yaml::handled PASSED*",
            "tests/cases/reply.yml::thanks PASSED*",
        ]
    )
    run(demo, {}, "tests/cases/opinion.yml::an error").assert_outcomes(passed=1)


def test_other_places_may_be_named(demo: pytest.Pytester) -> None:
    (demo.path / "pytest.ini").write_text("[pytest]\nfslm_cases = cases/*.case\n", encoding="utf-8")
    run(demo, {"opinion.yml": GOOD, "reply.case": TOOL}).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{stars: 5, sentiment: good}", "{stars: 4, sentiment: good}", "message.stars: 5, expected 4"),
        ("{stars: 5, sentiment: good}", "{sentiment: good}", "message.stars: 5, not named"),
        ("{stars: 5, sentiment: good}", "{stars: 5, sentiment: good, why: x}", "message.why: is no field, expected"),
        ("problem: json", "problem: schema", "problem: json in opinion: not JSON: Expecting value"),
        ("field: stars", "field: text", "expected {'kind': 'schema', 'field': 'text'"),
        ("error: stage-failed", "error: tool", "error: stage-failed, expected tool"),
        ("{error: input}", "{message: {}}", "message: expected, but it failed: input"),
        ("reply: not JSON", "reply: {sentiment: bad, stars: 1}", "problem: no problem, expected"),
        ("{error: input}", "{error: input, skipped: [opinion]}", "skipped: no step, expected opinion"),
    ],
)  # fmt: skip
def test_a_case_that_fails_shows_what_came_of_it(demo: pytest.Pytester, old: str, new: str, says: str) -> None:
    assert old in GOOD
    result = run(demo, {"opinion.yml": GOOD.replace(old, new)})
    result.assert_outcomes(passed=4, failed=1)
    text = result.stdout.str()
    assert says in text and "<Outcome of demo.opinion: " in text and "Traceback" not in text
    assert "tests/cases/opinion.yml, case " in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("stage: demo.opinion", "stage: demo.opinoin", "cannot be run: there is no stage named 'demo.opinoin'"),
        ("stage: demo.opinion", "stack: demo", "the reply of a stack's case names its steps"),
        ("reply: not JSON", "reply: 7", "the case cannot be run: a reply is text"),
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_run_says_why(demo: pytest.Pytester, old: str, new: str, says: str) -> None:
    result = run(demo, {"opinion.yml": GOOD.replace(old, new)}, "-k", "kind")
    result.assert_outcomes(failed=1, deselected=4)
    assert says in result.stdout.str()


def test_a_file_that_is_wrong_is_an_error_without_a_traceback(demo: pytest.Pytester) -> None:
    result = run(demo, {"opinion.yml": GOOD.replace("expect: {error", "expects: {error"), "reply.yml": TOOL})
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert "opinion.yml, case 5: the key 'expects' means nothing here" in text
    assert "expected: name, input, reply, expect" in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("stage: demo.opinion\n", "", "a file of cases is about one stage or one stack"),
        ("stage: demo.opinion\n", "stage: a\nstack: b\n", "a file of cases is about one stage or one stack"),
        ("stage: demo.opinion\n", "stage: a\nstage: b\n", "the key 'stage' stands twice"),
        ("cases:\n", "case:\n", "the key 'case' means nothing here"),
        ("    reply: not JSON\n", "    answer: not JSON\n", r"case 3: the key 'answer' means nothing here"),
        ("name: an error", "name: a problem by its kind", "two cases have one name"),
        ("name: an error", "name: ''", r"case 5, name: a case needs a name"),
        ("input: {}", "input: []", r"case 5 \(an error\), input: a case needs input"),
        ("{error: input}", "{}", r"case 5 \(an error\), expect: nothing is expected"),
        ("{error: input}", "{error: [input]}", r"expect\.error: error is of another kind"),
        ("{error: input}", "{errors: input}", r"the key 'errors' means nothing here"),
        ("{problem: json,", "{problem: {kinds: json},", r"expect\.problem: the key 'kinds' means nothing here"),
        ("{problem: json,", "{problem: json, message: {},", "a run gives a message or fails, not both"),
        ("reply: not JSON", "reply: [", "the file is not YAML"),
        ("reply: not JSON", "reply: !!python/name:os.system", "could not determine a constructor"),
        ("cases:\n", "cases: []\nmore:\n", "means nothing here"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "opinion.yml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ContractBroken, match=says) as caught:
        read_cases(path)
    assert str(path) in str(caught.value)


def test_words_and_dates_are_text(tmp_path: Path) -> None:
    path = tmp_path / "opinion.yml"
    path.write_text(GOOD, encoding="utf-8")
    assert [case.input.get("text") for case in read_cases(path)] == ["NO", "2020-01-01", "off", "yes", None]
    path.write_text(GOOD.replace("{text: NO}", "{text: true, n: 1.5, z: null, s: '7'}"), encoding="utf-8")
    assert read_cases(path)[0].input == {"text": True, "n": 1.5, "z": None, "s": "7"}
