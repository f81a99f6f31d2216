"""``fslm trace label``, ``fix``, ``labels``, ``unlabel`` and ``export-training``: from a wrong message to a row."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import HERE, Result, install

Fslm = Callable[..., Result]
LONG = "a good text that is long enough"


@pytest.fixture
def zoo(environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose stacks have shapes."""
    install(installed, "zoo", (HERE / "zoo_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,zoo")


def run(fslm: Fslm, text: str, stack: str = "demo.label") -> str:
    """The id of a new run."""
    fslm("run", stack, text)
    return str(fslm("trace", "list", "--json").data[0]["id"])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_message_is_labelled_shown_listed_and_the_label_taken_back(fslm: Fslm) -> None:
    first, second = run(fslm, "good"), run(fslm, "fine")
    assert fslm("trace", "labels").err == "no such label is in the trace\n"
    said = fslm("trace", "label", first, "label", "--right", "--note", "clear")
    assert said.code == 0 and said.err == f"label of run {first} is right; clear\n" and said.out == ""
    made = fslm("trace", "fix", "last", "label", "--set", "label=good", "--json").data
    assert (made["run"], made["right"], made["correction"]) == (second, False, {"label": "good"})
    listed = fslm("trace", "labels", "--json").data
    assert [one["run"] for one in listed] == [second, first] and listed[0]["stage"] == "demo.label"
    assert [one["run"] for one in fslm("trace", "labels", first[:20], "--json").data] in ([first], [second, first])
    assert "it should have been" in fslm("trace", "labels", "--stage", "demo.label").out
    assert fslm("trace", "labels", "--stage", "demo.bare", "--json").data == []
    third = run(fslm, "other")
    assert [row["id"] for row in fslm("trace", "list", "--labelled", "--json").data] == [second, first]
    assert 'wrong, it should have been {"label": "good"}' in fslm("trace", "show", second).out
    (step,) = fslm("trace", "show", second, "--json").data["steps"]
    assert step["label"] == made and fslm("trace", "show", third, "--json").data["steps"][0]["label"] is None
    again = fslm("trace", "label", second, "label", "--wrong")
    assert again.err == f'label of run {second} is wrong; it was wrong, it should have been {{"label": "good"}}\n'
    gone = fslm("trace", "unlabel", second, "label")
    assert gone.code == 0 and gone.err.endswith("has no label any more; it was wrong\n")
    assert len(fslm("trace", "labels", "--json").data) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("label", "last", "label"), "--right, or --wrong"),
        (("label", "last", "label", "--right", "--wrong"), "--right, or --wrong"),
        (("label", "zzz", "label", "--right"), "no run named 'zzz'"),
        (("label", "last", "lable", "--right"), "did you mean 'label'"),
        (("fix", "last", "label"), "--set FIELD=VALUE, or --value JSON"),
        (("fix", "last", "label", "--set", "label=good", "--value", "{}"), "--set FIELD=VALUE, or --value JSON"),
        (("fix", "last", "label", "--set", "label"), "names a field and a value"),
        (("fix", "last", "label", "--value", "{"), "not JSON"),
        (("fix", "last", "label", "--value", '["good"]'), "an object with fields"),
        (("fix", "last", "label", "--set", "label=ugly"), "label: Input should be 'good' or 'bad'"),
        (("fix", "last", "label", "--set", "lable=good"), "found: lable"),
        (("fix", "last", "lable", "--set", "label=good"), "did you mean 'label'"),
        (("unlabel", "last", "label"), "no label is on step 'label'"),
        (("export-training", "demo.label", "--out", "rows.jsonl"), "no message of the stage is labelled"),
        (("export-training", "demo.labl", "--out", "rows.jsonl"), "did you mean 'demo.label'"),
        (("export-training", "demo.shout", "--out", "rows.jsonl"), "no model to train"),
        (("export-training", "demo.label", "--out", "rows.json"), "ends in .jsonl"),
        (("export-training", "demo.label", "--out", "r.jsonl", "--preferences", "./r.jsonl"), "ends in .jsonl"),
        (
            ("export-training", "demo.label", "--out", "r.jsonl", "--join", "p.jsonl", "--preferences", "p.jsonl"),
            "ends",
        ),
    ],
)
def test_what_cannot_be_said_is_refused(fslm: Fslm, arguments: tuple[str, ...], why: str) -> None:
    run(fslm, "fine")
    said = fslm("trace", *arguments)
    assert said.code == 2 and why in " ".join(said.err.split()), said.err
    assert fslm("trace", "labels", "--json").data == [] and not list(Path.cwd().glob("*.jsonl"))


def test_a_run_s_name_that_is_ambiguous_and_a_trace_that_is_not_there(fslm: Fslm) -> None:
    assert fslm("trace", "label", "last", "label", "--right").code == 4
    first, second = run(fslm, "one"), run(fslm, "two")
    common = first[: next(place for place in range(26) if first[place] != second[place])]
    said = fslm("trace", "label", common, "label", "--right")
    assert said.code == 2 and f"several runs begin with '{common}'" in said.err


def test_a_step_that_was_passed_over_and_one_of_a_shape(fslm: Fslm, zoo: None) -> None:
    name = run(fslm, LONG, "zoo")
    assert fslm("trace", "label", name, "each.length[2]", "--wrong").code == 0
    assert fslm("trace", "fix", name, "route.naming.label", "--set", "label=bad").code == 0
    assert fslm("trace", "label", name, "vote", "--right").code == 0
    run(fslm, "a text that is poor and rather long", "zoo")
    for verb in (("label", "last", "careful", "--right"), ("fix", "last", "careful", "--set", "label=good")):
        said = fslm("trace", *verb)
        assert said.code == 2 and "the step was passed over" in said.err


def test_a_correction_is_checked_by_what_was_recorded_where_the_plugin_is_gone(
    fslm: Fslm, zoo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = run(fslm, LONG, "zoo")
    monkeypatch.setenv("FSLM_PLUGINS", "demo")
    said = fslm("trace", "fix", name, "vote", "--set", "label=ugly")
    assert said.code == 0 and "checked against what was recorded alone" in said.err
    assert fslm("trace", "fix", name, "vote", "--value", '{"lable": "bad"}').code == 2
    said = fslm("trace", "export-training", "zoo.label", "--out", "rows.jsonl")
    assert said.code == 2 and "zoo" in said.err


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_of_a_run_that_was_not_kept_in_full_no_words_are_kept(
    fslm: Fslm, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", mode)
    name = run(fslm, json.dumps({"text": "hello", "phone": "555 0100"}), "demo.call")
    said = fslm("trace", "fix", name, "call", "--set", "phone=555 0199")
    assert said.code == 2 and "not kept in full" in said.err
    assert fslm("trace", "label", name, "call", "--wrong").code == 0
    files = b"".join(file.read_bytes() for file in (Path.cwd() / "data").iterdir() if file.is_file())
    assert b"555 0199" not in files


def test_labels_become_rows_that_training_reads_and_pairs(fslm: Fslm) -> None:
    for text, label in (("good", "--right"), ("fine", "good"), ("poor", "--wrong"), ("great", "good"), ("bad", "bad")):
        name = run(fslm, text)
        verb = (
            ("label", name, "label", label)
            if label.startswith("--")
            else ("fix", name, "label", "--set", f"label={label}")
        )
        assert fslm("trace", *verb).code == 0
    made = fslm(
        "trace", "export-training", "demo.label", "--out", "rows.jsonl", "--preferences", "pairs.jsonl", "--json"
    )
    assert made.code == 0
    report = made.data
    assert (report["rows"], report["old"], report["right"], report["corrected"], report["pairs"]) == (4, 0, 1, 3, 2)
    assert report["skipped"] == {"wrong, and nobody wrote what would have been right": 1}
    assert rows(Path("rows.jsonl")) == [
        {"input": {"text": text}, "output": {"label": label}}
        for text, label in (("good", "good"), ("fine", "good"), ("great", "good"), ("bad", "bad"))
    ]
    assert rows(Path("pairs.jsonl")) == [
        {
            "stage": "demo.label",
            "input": {"text": text},
            "prompt": f"Text: {text}",
            "chosen": '{"label":"good"}',
            "rejected": '{"label":"bad"}',
        }
        for text in ("fine", "great")  # the last correction is what was said
    ]
    lineage = json.loads(Path("rows.lineage.json").read_text())
    raw = Path("rows.jsonl").read_bytes()
    assert lineage["file"] == {"name": "rows.jsonl", "sha256": hashlib.sha256(raw).hexdigest(), "rows": 4}
    labels = {one["run"]: one for one in fslm("trace", "labels", "--json").data}
    assert [(row["line"], row["label"]) for row in lineage["rows"]] == [
        (1, "right"), (2, "corrected"), (3, "corrected"), (4, "corrected"),
    ]  # fmt: skip
    assert all(labels[row["run"]]["when"] == row["labelled"] for row in lineage["rows"])
    assert [row["line"] for row in lineage["pairs"]] == [1, 2] and lineage["old"] is None
    (skipped,) = lineage["skipped"]
    assert labels[skipped["run"]]["correction"] is None and skipped["label"] == "wrong"
    if sys.platform != "win32":
        assert {stat.S_IMODE(file.stat().st_mode) for file in Path.cwd().glob("*.json*")} == {0o600}
    from demo_plugin import label as stage

    from fslm_core.train.rows import Problems, read_rows

    read = read_rows(Path("rows.jsonl"), stage, problems := Problems())
    assert problems.count == 0 and [row.target for row in read.rows] == ['{"label":"good"}'] * 3 + ['{"label":"bad"}']


def test_rows_are_joined_to_old_ones_and_what_contradicts_a_label_is_left_out(fslm: Fslm) -> None:
    old = [
        {"output": {"label": "good"}, "input": {"text": "kept"}, "extra": 1},
        {"input": {"text": "fine"}, "output": {"label": "bad"}},
        {"input": {"text": "good"}, "output": {"label": "good"}},
        {"input": {"text": "kept"}, "output": {"label": "good"}},
    ]
    lines = [json.dumps(row) for row in old]
    Path("old.jsonl").write_text("\n\n".join(lines))
    fslm("trace", "fix", run(fslm, "fine"), "label", "--set", "label=good")
    fslm("trace", "label", run(fslm, "good"), "label", "--right")
    fslm("trace", "label", run(fslm, "new"), "label", "--right")
    said = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl", "--join", "old.jsonl")
    assert said.code == 0
    assert "5 rows in rows.jsonl (3 old, 2 new: 1 right, 1 corrected)" in said.err
    assert "1 old row left out, for a label says otherwise: line 3" in said.err
    assert "1 label gave no row: an old row says the same" in said.err
    written = Path("rows.jsonl").read_text().splitlines()
    assert written[:3] == [lines[0], lines[2], lines[3]]  # as they were
    assert [json.loads(line)["input"]["text"] for line in written[3:]] == ["fine", "new"]
    lineage = json.loads(Path("rows.lineage.json").read_text())
    sha256 = hashlib.sha256(Path("old.jsonl").read_bytes()).hexdigest()
    assert lineage["old"] == {
        "name": "old.jsonl", "sha256": sha256, "rows": 3, "replaced": [{"line": 3, "by": 4}],
    }  # fmt: skip
    again = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl", "--join", "rows.jsonl", "--json").data
    assert (again["rows"], again["old"], again["replaced"], again["right"], again["corrected"]) == (5, 5, [], 0, 0)
    assert Path("rows.jsonl").read_text().splitlines() == written


def test_old_rows_that_do_not_fit_or_are_not_there(fslm: Fslm) -> None:
    fslm("trace", "label", run(fslm, "good"), "label", "--right")
    Path("old.jsonl").write_text('{"input": {"text": "x"}, "output": {"label": "ugly"}}\n')
    before = {path.name for path in Path.cwd().iterdir()}
    for name, why in (("old.jsonl", "old.jsonl, line 1"), ("nothing.jsonl", "no old rows to join")):
        said = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl", "--join", name)
        assert said.code != 0 and why in said.err
    assert {path.name for path in Path.cwd().iterdir()} == before


def test_of_two_labels_of_one_input_the_newer_stands(fslm: Fslm) -> None:
    first, second, third = run(fslm, "fine"), run(fslm, "fine"), run(fslm, "fine")
    fslm("trace", "label", second, "label", "--right")
    fslm("trace", "fix", third, "label", "--set", "label=good")
    fslm("trace", "fix", first, "label", "--set", "label=good")
    made = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl", "--json").data
    assert made["rows"] == 1 and rows(Path("rows.jsonl"))[0]["output"] == {"label": "good"}
    assert made["skipped"] == {
        "another label of the same input says the same": 1, "another label of the same input is newer": 1,
    }  # fmt: skip
    assert json.loads(Path("rows.lineage.json").read_text())["rows"][0]["run"] == first


def test_steps_in_shapes_and_a_step_that_failed_give_rows(
    fslm: Fslm, zoo: None, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        installed,
        "strict",
        "from pydantic import BaseModel, field_validator\n"
        "from fslm_core import SLM, Stack, Stage, hookimpl\n"
        "from demo_plugin import Label, Said\n"
        "class Good(Label):\n"
        "    @field_validator('label')\n"
        "    @classmethod\n"
        "    def _good(cls, label):\n"
        "        if label != 'good':\n"
        "            raise ValueError('not good')\n"
        "        return label\n"
        "stage = Stage('strict.label', input=Said, output=Good, prompt='{{ text }}', model=SLM('smollm2-135m'))\n"
        "@hookimpl\n"
        "def fslm_stages(): return [stage]\n"
        "@hookimpl\n"
        "def fslm_stacks(): return [Stack('strict', input=Said, output=Label, steps=[stage])]\n",
    )
    monkeypatch.setenv("FSLM_PLUGINS", "demo,zoo,strict")
    name = run(fslm, LONG, "zoo")
    for step, label in (("route.naming.label", "bad"), ("vote.label", "bad")):
        assert fslm("trace", "fix", name, step, "--set", f"label={label}").code == 0
    made = fslm("trace", "export-training", "zoo.label", "--out", "zoo.jsonl", "--stack", "zoo", "--json").data
    assert rows(Path("zoo.jsonl")) == [{"input": {"text": LONG}, "output": {"label": "bad"}}]
    assert made["skipped"] == {"another label of the same input says the same": 1}
    failed = run(fslm, "poor", "strict")
    assert "has nothing" not in fslm("trace", "label", failed, "label", "--wrong").err
    assert fslm("trace", "fix", failed, "label", "--set", "label=bad").code == 2
    assert fslm("trace", "fix", failed, "label", "--set", "label=good").code == 0
    assert "it should have been" in fslm("trace", "show", failed).out
    made = fslm("trace", "export-training", "strict.label", "--out", "s.jsonl", "--preferences", "p.jsonl", "--json")
    assert rows(Path("s.jsonl")) == [{"input": {"text": "poor"}, "output": {"label": "good"}}]
    assert made.data["pairs"] == 0 and Path("p.jsonl").read_text() == ""


def test_a_run_that_was_not_kept_in_full_gives_no_row_and_is_counted(
    fslm: Fslm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("FSLM_TRACE__CONTENT", "redacted")
        kept = run(fslm, "good")
    fslm("trace", "label", kept, "label", "--right")
    said = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl")
    assert said.code == 2 and "the run was not kept in full (1)" in said.err and not Path("rows.jsonl").exists()
    fslm("trace", "label", run(fslm, "good too"), "label", "--right")
    said = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl")
    assert said.code == 0 and "1 label gave no row: the run was not kept in full" in said.err


def test_a_stage_that_changed_and_a_stack_that_is_gone_say_so(
    fslm: Fslm, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from typing import Literal\n"
        "from pydantic import BaseModel\n"
        "from fslm_core import SLM, Stack, Stage, hookimpl\n"
        "class Said(BaseModel):\n    text: str\n    other: str = 'poor'\n"
        "class Label(BaseModel):\n    label: Literal['good', 'bad']\n"
        "stage = Stage('late.label', input=Said, output=Label, prompt='{{ text }}', model=SLM('smollm2-135m'))\n"
        "@hookimpl\n"
        "def fslm_stages(): return [stage]\n"
        "@hookimpl\n"
        "def fslm_stacks(): return [Stack('late', input=Said, output=Label, steps=[stage])]\n"
    )
    install(installed, "late", code)
    monkeypatch.setenv("FSLM_PLUGINS", "demo,late")
    fslm("trace", "label", run(fslm, "good", "late"), "label", "--right")

    def changed(old: str, new: str) -> str:
        (installed / "late_plugin.py").write_text(code.replace(old, new), "utf-8")
        sys.modules.pop("late_plugin", None)
        __import__("importlib").invalidate_caches()
        for cached in (installed / "__pycache__").glob("late_plugin*"):
            cached.unlink()
        said = fslm("trace", "export-training", "late.label", "--out", "rows.jsonl")
        assert said.code == 2 and not Path("rows.jsonl").exists()
        return said.err

    assert "it does not fit the stage as it is now (1)" in changed("'good', 'bad'", "'fine', 'bad'")
    assert "what the step was given cannot be told (1)" in changed("text: str", "text: str\n    more: str")
    elsewhere = "steps=[__import__('fslm_core').Step(stage, bind={'text': 'input.other'})]"
    assert "the stack gives the step something else now (1)" in changed("steps=[stage]", elsewhere)
    assert "the run's stack is not installed (1)" in changed("Stack('late',", "Stack('late.other',")
    assert "no such step of the stage any more (1)" in changed(
        "steps=[stage]", "steps=[__import__('fslm_core').Step(stage, name='x')]"
    )


def test_a_full_disk_leaves_what_was_there(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    fslm("trace", "label", run(fslm, "good"), "label", "--right")
    for file in ("rows.jsonl", "rows.lineage.json"):
        Path(file).write_text("as it was")
    before = {path.name for path in Path.cwd().iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fslm_core.folders.os.fsync", full)
        said = fslm("trace", "export-training", "demo.label", "--out", "rows.jsonl", "--preferences", "pairs.jsonl")
    assert said.code != 0 and "No space left" in said.err
    assert {path.name for path in Path.cwd().iterdir()} == before
    assert Path("rows.jsonl").read_text() == Path("rows.lineage.json").read_text() == "as it was"


def test_labels_go_with_an_export(fslm: Fslm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = run(fslm, "fine")
    fslm("trace", "export", "--out", "before.jsonl")
    fslm("trace", "fix", name, "label", "--set", "label=good")
    fslm("trace", "export", "--out", "after.jsonl")
    monkeypatch.setenv("FSLM_DATA_DIR", str(tmp_path / "other"))
    assert fslm("trace", "import", "before.jsonl").err == "1 run imported, 0 runs here already\n"
    said = fslm("trace", "import", "after.jsonl")
    assert said.code == 0 and said.err == "0 runs imported, 1 run here already, 1 label taken in\n"
    assert fslm("trace", "labels", "--json").data[0]["correction"] == {"label": "good"}


def test_hostile_text_in_a_label_is_text(fslm: Fslm) -> None:
    name = run(fslm, "good")
    fslm("trace", "label", name, "label", "--wrong", "--note", "\x1b[31m[bold]<script>")
    for said in (fslm("trace", "labels"), fslm("trace", "show", name)):
        assert "\x1b[31m" not in said.out and "[bold]<script>" in said.out
