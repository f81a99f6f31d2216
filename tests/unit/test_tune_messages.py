"""The teacher: which messages are kept, that none is paid for twice, and what stops it. Without a model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fslm_core.backends.protocol import Request
from fslm_core.errors import BackendError, TrainError
from fslm_core.hooks import hookimpl
from fslm_core.message import Problem
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.tune import load_tuning, silent
from fslm_core.tune.cache import Kept
from fslm_core.tune.filters import candidates
from fslm_core.tune.messages import Tally, Writer
from fslm_core.tune.rows import Item, gather

from ..tuning import RECIPE, TEACHER, Deep, Demo, place, rows, topic_of

Script = Callable[[Request], str]


class Asked:
    """A teacher's script that counts how often each stage was asked."""

    def __init__(self, **answers: Script | str) -> None:
        self.counts: Counter[str] = Counter()
        self.scripts = {f"teacher.demo.{name}": self._counted(name, answer) for name, answer in answers.items()}

    def _counted(self, name: str, answer: Script | str) -> Script:
        def script(request: Request) -> str:
            self.counts[name] += 1
            return answer if isinstance(answer, str) else answer(request)

        return script


class Checked(Demo):
    """A plugin that refuses what is said of money."""

    @hookimpl
    def fslm_check_message(self, stage: Any, message: Any, input: Any) -> list[Problem]:
        """Refuse it."""
        return [Problem("money", "no word of money")] if getattr(message, "topic", "") == "MONEY" else []


def asked_of(request: Request) -> str:
    return "".join(span.text for span in request.prompt.spans)


def filled(
    recipe: Path, asked: Asked, *overrides: str, demo: type[Demo] = Demo
) -> tuple[dict[str, Tally], list[Item], Writer]:
    """Fill in the messages of all rows."""
    ways = load_tuning(recipe, overrides)
    made = demo(Path("/nowhere"), asked.scripts)
    settings = load(files=(), backend="demo.teacher")
    host = PluginHost(settings, plugins={"demo": made}, installed=False)
    found = gather(made.stack, ways.data, ways.seed)
    with Writer(ways, made.stack, recipe.parent / "messages", settings, host, silent) as writer:
        return writer.fill(found.items), found.items, writer


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return place(tmp_path, rows(12, topics=False), RECIPE + TEACHER)


def test_missing_messages_are_written_and_kept(recipe: Path) -> None:
    asked = Asked(topic=topic_of)
    tallies, items, _ = filled(recipe, asked)
    assert (tallies["topic"].written, tallies["topic"].lost, tallies["reply"].given) == (12, {}, 12)
    assert all(item.raw["steps"]["topic"]["topic"] in ("GOODS", "MONEY") for item in items)
    assert asked.counts == {"topic": 12}
    again = Asked(topic=topic_of)
    filled(recipe, again)
    assert again.counts == {}


def test_the_teacher_is_told_the_gold_and_the_fields(recipe: Path) -> None:
    prompts: list[str] = []

    def script(request: Request) -> str:
        prompts.append(asked_of(request))
        return topic_of(request)

    prompt = "{{ text }} -> {{ gold.action }} | {{ known }} | {{ fields }}"
    filled(recipe, Asked(topic=script), f"teacher.steps.topic.prompt={json.dumps(prompt)}")
    assert 'chair x0 -> ship | {} | topic: What the note is about; one of "GOODS", "MONEY"' in prompts


def test_another_prompt_of_a_later_step_leaves_the_earlier_ones_alone(recipe: Path) -> None:
    def reason(request: Request) -> str:
        return '{"reason":"stock"}' if "GOODS" in asked_of(request) else '{"reason":"cash"}'

    def calls(*overrides: str) -> dict[str, int]:
        asked = Asked(topic=topic_of, reason=reason)
        filled(recipe, asked, *overrides, demo=Deep)
        return dict(asked.counts)

    assert calls() == {"topic": 12, "reason": 12}
    assert calls('teacher.steps.reason.prompt="why {{ topic }} in {{ text }}"') == {"reason": 12}
    assert calls() == {}, "what belongs to a recipe of before is still there"
    assert calls('teacher.steps.topic.prompt="of {{ text }}"') == {"topic": 12}, "it said the same again"

    def otherwise(request: Request) -> str:
        return '{"topic":"GOODS"}'

    asked = Asked(topic=otherwise, reason=reason)
    filled(recipe, asked, 'teacher.steps.topic.prompt="all {{ text }}"', demo=Deep)
    assert asked.counts == {"topic": 12, "reason": 6}, "what follows is redone where it is given something else"


def test_a_prompt_that_asks_for_what_is_not_there_is_told_by_its_step(recipe: Path) -> None:
    with pytest.raises(TrainError, match="cannot write a step's messages") as caught:
        filled(recipe, Asked(topic=topic_of), 'teacher.steps.topic.prompt="{{ words }}"')
    assert "step topic" in str(caught.value) and "words" in str(caught.value)


def test_samples_that_disagree_are_left_out(recipe: Path) -> None:
    turn = iter(range(10_000))

    def wavering(request: Request) -> str:
        return '{"topic":"GOODS"}' if next(turn) % 2 else '{"topic":"MONEY"}'

    ways = ["teacher.samples=4", "teacher.temperature=0.7", 'teacher.steps.topic.agree_on=["topic"]']
    tallies, _, _ = filled(recipe, Asked(topic=wavering), *ways, "teacher.agree=0.9", "teacher.concurrency=1")
    assert tallies["topic"].written == 0 and tallies["topic"].lost == {"the samples disagree": 12}
    assert tallies["reply"].given == 12


def test_junk_is_counted_and_too_much_of_it_stops(recipe: Path) -> None:
    with pytest.raises(TrainError, match="failed in 12 of 12 calls") as caught:
        filled(recipe, Asked(topic='{"topic":"WEATHER"}'))
    assert "stage-failed: 12" in str(caught.value)
    tallies, _, _ = filled(recipe, Asked(topic="{}"), "teacher.budget.failures=1", "seed=4")
    assert tallies["topic"].lost == {"nothing valid was written": 12}
    quiet = Asked(topic=topic_of)
    filled(recipe, quiet, "teacher.budget.failures=1", "seed=4")
    assert quiet.counts == {}, "junk is an answer, too, and was paid for"


def test_a_call_that_fails_is_made_again_in_the_next_session(recipe: Path) -> None:
    def down(request: Request) -> str:
        raise BackendError("the server is on fire", hint="put it out")

    with pytest.raises(TrainError, match="12 of 12") as caught:
        filled(recipe, Asked(topic=down))
    assert "backend: 12" in str(caught.value)
    tallies, _, _ = filled(recipe, Asked(topic=topic_of))
    assert tallies["topic"].written == 12


def test_a_teacher_that_never_answers_is_given_up(recipe: Path) -> None:
    with pytest.raises(TrainError, match="12 of 12") as caught:
        filled(recipe, Asked(topic=topic_of), "teacher.backend=demo.stuck", "teacher.budget.call_seconds=0.01")
    assert "deadline: 12" in str(caught.value) and "call_seconds" in str(caught.value)


def test_the_budget_stops_it_and_what_was_written_stays(recipe: Path) -> None:
    first = Asked(topic=topic_of)
    with pytest.raises(TrainError, match="budget is spent") as caught:
        filled(recipe, first, "teacher.budget.tokens=20", "teacher.concurrency=1")
    assert "teacher.budget" in str(caught.value) and 0 < first.counts["topic"] < 12
    with pytest.raises(TrainError, match="budget is spent"):
        filled(recipe, Asked(topic=topic_of), "teacher.budget.tokens=20")
    second = Asked(topic=topic_of)
    tallies, _, writer = filled(recipe, second, "teacher.budget.tokens=1000")
    assert tallies["topic"].written == 12 and first.counts["topic"] + second.counts["topic"] == 12
    assert writer.desk is not None and writer.desk.cost().calls == 12


def test_what_a_plugin_refuses_is_not_kept(recipe: Path) -> None:
    tallies, _, _ = filled(recipe, Asked(topic=topic_of), demo=Checked)
    assert tallies["topic"].written == 6 and tallies["topic"].lost == {"a plugin's check refuses it": 6}


def test_a_message_from_which_the_output_does_not_follow_is_not_kept(recipe: Path) -> None:
    """The teacher calls everything goods; from that it answers `ship` where `pay` was right."""
    answers = {"GOODS": "ship", "MONEY": "pay"}

    def answer(request: Request) -> str:
        return json.dumps({"action": next(a for topic, a in answers.items() if topic in asked_of(request))})

    asked = Asked(topic='{"topic":"GOODS"}')
    asked.scripts["teacher.demo"] = answer
    ways = ['teacher.follow="teacher"', 'teacher.answer_prompt="{{ text }}: {{ message.topic }}"']
    tallies, _, _ = filled(recipe, asked, *ways)
    assert tallies["topic"].written == 6
    assert tallies["topic"].lost == {"the row's output does not follow from it": 6}


def test_the_rest_of_the_stack_may_be_asked_what_follows(recipe: Path) -> None:
    def reply(request: Request) -> str:
        return '{"action":"ship"}' if "GOODS" in asked_of(request) else '{"action":"pay"}'

    asked = Asked(topic='{"topic":"GOODS"}')
    asked.scripts |= {"demo.topic": '{"topic":"MONEY"}', "demo.reply": reply}
    tallies, _, _ = filled(recipe, asked, 'teacher.follow="stack"')
    assert tallies["topic"].written == 6
    assert tallies["topic"].lost == {"the row's output does not follow from it": 6}


def test_without_a_teacher_the_row_goes_without(recipe: Path) -> None:
    recipe.write_text(RECIPE)
    tallies, _, _ = filled(recipe, Asked())
    assert tallies["topic"].written == 0 and tallies["topic"].lost.total() == 12


def test_a_message_that_says_nothing_or_contradicts_the_row_is_no_candidate() -> None:
    assert candidates([{"a": " "}], {}, [], 1)[1] == "nothing but blanks was written"
    assert candidates([{"a": "x", "b": 1}], {"b": 2}, [], 1)[1] == "it contradicts what the row says of the message"
    assert candidates([None, None], {}, [], 1)[1] == "nothing valid was written"
    assert candidates([{"a": 1}, None, None], {}, ["a"], 0.5)[1] == "the samples disagree"


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    file = Kept(tmp_path / "deep" / "kept.jsonl")
    file.put({"key": "a", "n": 1})
    yield file


def test_what_is_kept_is_there_for_the_next(kept: Kept) -> None:
    kept.put({"key": "a", "n": 2})
    again = Kept(kept.path)
    assert again.get("a") == {"key": "a", "n": 2} and again.get("b") is None and len(list(again)) == 2


def test_a_line_that_was_cut_is_cut_off(kept: Kept) -> None:
    with kept.path.open("ab") as file:
        file.write(b'{"key": "b", "n"')
    again = Kept(kept.path)
    assert again.get("b") is None
    again.put({"key": "c"})
    assert [entry["key"] for entry in Kept(kept.path)] == ["a", "c"]


def test_a_full_disk_leaves_what_was_there(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fslm_core.tune.cache.os.fsync", full)
    with pytest.raises(TrainError, match="No space left"):
        kept.put({"key": "b"})
    monkeypatch.undo()
    assert [entry["key"] for entry in Kept(kept.path)] == ["a"]
