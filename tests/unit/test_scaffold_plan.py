"""What goes into a new plugin: stages, conditions and prompts that fit the drafted fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import UsageError
from fslm_core.prompt import Expression, Template, variables_of
from fslm_core.scaffold.draft import Draft, draft
from fslm_core.scaffold.kinds import Labels, Many, Record, Slot, Text, Whole
from fslm_core.scaffold.plan import WHATS, What, example_of, plan_of, prompt_of, step_name
from fslm_core.scaffold.source import Model
from fslm_core.schema import normalise


def drafted(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Draft:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return draft(path, **options)


def rows(labels: str = "ABC", silent: str = "C") -> list[dict[str, Any]]:
    """Texts with a label each, and a wish unless the label is silent."""
    found = []
    for n in range(24):
        label = labels[n % len(labels)]
        found.append(
            {
                "text": f"letter {n}: please do {n} for me",
                "topic": label,
                "wish": None if label in silent else f"do {n}",
            }
        )
    return found


@pytest.mark.parametrize("what", WHATS)
def test_the_example_needs_no_data(what: What) -> None:
    plan = plan_of(what, "demo")
    assert [stage.name for stage in plan.stages] == ["topic", "request"][: 1 + (what == "stack")]
    for model in plan.models:
        assert model.made.model_validate(example_of(model))
    for stage in plan.stages:
        normalise(stage.output.made)


def test_the_second_stage_is_passed_over_after_labels_that_say_nothing_more(tmp_path: Path) -> None:
    plan = plan_of("stack", "demo", drafted(tmp_path, rows()))
    first, second = plan.stages
    assert (first.name, first.when, second.name) == ("topic", None, "wish")
    assert second.when == "topic.topic != 'C'" and plan.skipped == ("C",)
    assert [slot.nullable for slot in second.output.slots] == [False]
    assert [slot.nullable for slot in plan.output.fields] == [False, True]


def test_several_such_labels_are_listed_and_quoted(tmp_path: Path) -> None:
    made = rows()
    for row in made:
        row["topic"] = {"A": "a", "B": 'it\'s \\ "b"', "C": "c"}[row["topic"]]
        row["wish"] = row["wish"] if row["topic"] == "a" else None
    plan = plan_of("stack", "demo", drafted(tmp_path, made))
    when = Expression(plan.stages[1].when or "")
    assert [when.holds({"topic": {"topic": label}}) for label in ("a", 'it\'s \\ "b"', "c")] == [True, False, False]


def test_without_such_a_label_the_second_stage_always_runs(tmp_path: Path) -> None:
    plan = plan_of("stack", "demo", drafted(tmp_path, rows(silent="")))
    assert plan.stages[1].when is None and plan.skipped == ()
    assert [slot.name for slot in plan.output.fields] == ["topic", "wish"]


def test_a_value_that_is_missing_here_and_there_makes_no_condition(tmp_path: Path) -> None:
    made = rows(silent="")
    made[4]["wish"] = None
    plan = plan_of("stack", "demo", drafted(tmp_path, made))
    assert plan.stages[1].when is None and plan.output.fields[1].nullable


def test_a_stack_wants_two_outputs_and_a_tool_a_label(tmp_path: Path) -> None:
    single = drafted(tmp_path, rows(), output=["topic"])
    with pytest.raises(UsageError, match="two columns of output"):
        plan_of("stack", "demo", single)
    with pytest.raises(UsageError, match="a label to choose"):
        plan_of("tool", "demo", drafted(tmp_path, rows(), output=["wish"]))


def test_a_tool_decides_one_label_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    plan = plan_of("tool", "demo", drafted(tmp_path, rows()))
    assert plan.draft is not None and plan.label is not None
    assert plan.label.name == "topic" and [one.column for one in plan.draft.output] == ["topic"]
    assert plan.draft.left_out == {"wish": "a classifier decides one label"}
    assert [slot.name for slot in plan.output.fields] == ["topic"]


def test_a_label_called_guess_does_not_meet_the_classifier_s(tmp_path: Path) -> None:
    made = [{"text": row["text"], "guess": row["topic"]} for row in rows()]
    plan = plan_of("tool", "demo", drafted(tmp_path, made))
    assert [slot.name for slot in plan.models[1].fields] == ["guess_2", "sure"]
    assert plan.stages[0].name == "guess_step"


def test_one_name_on_both_sides_is_bound_in_a_stage_and_refused_in_a_stack(tmp_path: Path) -> None:
    both = [{"input": {"text": f"say {n}"}, "output": {"text": f"said {n}", "mood": "ab"[n % 2]}} for n in range(8)]
    made = drafted(tmp_path, both)
    assert plan_of("stage", "demo", made).bind == {"text": "details.text"}
    with pytest.raises(UsageError, match="called as one of the input"):
        plan_of("stack", "demo", made)


def test_a_long_output_gets_a_bound_on_its_tokens(tmp_path: Path) -> None:
    made = [{"text": f"{n}" * 900, "reply": f"{n}" * 500} for n in range(8)]
    (stage,) = plan_of("stage", "demo", drafted(tmp_path, made)).stages
    assert stage.max_tokens == 768
    (short,) = plan_of("stage", "demo", drafted(tmp_path, rows(), output=["topic"])).stages
    assert short.max_tokens is None


@pytest.mark.parametrize(("name", "step"), [("mood", "mood"), ("input", "input_step"), ("messages", "messages_step")])
def test_no_step_is_called_as_something_else(name: str, step: str) -> None:
    assert step_name([Slot(name, Text())]) == step


def test_a_prompt_shows_every_field_and_the_text_last() -> None:
    place = Record("Place", (Slot("city", Text(1, 9)), Slot("zip", Whole(0, 9))))
    slots = (
        Slot("text", Text()),
        Slot("note", Text(), nullable=True),
        Slot("tags", Many(Labels(("a", "b"), "Tag"), 3)),
        Slot("place", place),
        Slot("places", Many(place, 3)),
    )
    template = Template(prompt_of("mood", slots))

    given = Model("Given", "", slots).made
    values: dict[str, Any] = example_of(Model("Given", "", slots)) | {"note": None, "tags": ["a", "b"]}
    prompt = template.render(variables_of(given.model_validate(values)))
    assert "".join(span.text for span in prompt.spans) == (
        "moodtags: a, b\nplace: Some word, 0\nplaces: Some word, 0; \nSome words."
    )
    assert template.variables == {slot.name for slot in slots}
