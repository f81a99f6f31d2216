"""Runs of one stage or stack for a test: what an outcome holds, asserts and shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Decoding, PluginHost, Problem, Route, Stack, Stage, Step, Vote, hookimpl, tool
from fslm_core.backends.protocol import Request
from fslm_core.errors import (
    BackendError,
    CheckError,
    EngineStateError,
    InputError,
    StageFailedError,
    ToolError,
    UnknownNameError,
    UsageError,
)
from fslm_core.events import AttemptFailed, MessageEmitted, RunFinished, RunStarted
from fslm_core.message import Message
from fslm_core.testing import KitEngine, Recording, clean_settings, record, run_stack, run_stage, script


class Review(BaseModel):
    text: Annotated[str, Field(min_length=1)]


class Opinion(BaseModel):
    sentiment: Literal["good", "bad"]
    text: Annotated[str, Field(max_length=60)]


class Reply(BaseModel):
    reply: Annotated[str, Field(max_length=60)]


class Handled(BaseModel):
    sentiment: Literal["good", "bad"]
    reply: str | None


PROMPT = "{% block system %}opinion{% endblock %}{% block user %}{{ text }}{% endblock %}"
opinion = Stage("kit.opinion", input=Review, output=Opinion, prompt=PROMPT, model=SLM("smollm2-135m", tuned=True))
reply = Stage(
    "kit.reply",
    input=Opinion,
    output=Reply,
    prompt="{% block user %}{{ text }}{% endblock %}",
    model=SLM("smollm2-135m", tuned=True),
)
sampled = Stage(
    "kit.sampled",
    input=Review,
    output=Reply,
    prompt=PROMPT,
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(temperature=1.0, attempts=3),
)


@tool("kit.shout", version="1", pure=True)
def shout(message: Review) -> Reply:
    """Say it louder."""
    if message.text == "whisper":
        raise ValueError("too quiet")
    return Reply(reply=message.text.upper())


kit = Stack(
    "kit",
    input=Review,
    output=Handled,
    steps=[opinion, Step(reply, when="opinion.sentiment == 'bad'", bind={"text": "opinion.text"})],
)
BAD = {"sentiment": "bad", "text": "It leaks."}


def test_a_stage_alone_runs_through_the_real_engine() -> None:
    outcome = run_stage(opinion, {"text": "The kettle leaks."}, replies=BAD)
    assert outcome.assert_ok() is outcome
    assert outcome.output == Opinion(sentiment="bad", text="It leaks.")
    assert outcome.run is not None and outcome.run.status == "succeeded"
    (attempt,) = outcome.attempts["opinion"]
    assert attempt.prompt is not None and attempt.prompt.text("user") == "The kettle leaks."
    assert attempt.raw == '{"sentiment":"bad","text":"It leaks."}'
    assert isinstance(outcome.events[0], RunStarted) and isinstance(outcome.events[-1], RunFinished)
    assert any(isinstance(event, MessageEmitted) for event in outcome.events)
    assert outcome.error is None and outcome.problems == () and outcome.skipped == ()


def test_the_records_are_those_of_a_real_trace() -> None:
    outcome = run_stack(kit, {"text": "x"}, replies={"opinion": BAD, "reply": {"reply": "Sorry."}})
    assert outcome.records is not None
    assert [node.step for node in outcome.records.nodes] == ["opinion", "reply"]
    assert outcome.records.row.status == "succeeded" and outcome.records.row.content == "full"
    assert outcome.records.output is not None and outcome.records.output.data == {"sentiment": "bad", "reply": "Sorry."}


def test_a_tool_needs_no_reply() -> None:
    assert run_stage(shout, Review(text="hello")).output == Reply(reply="HELLO")
    error = run_stage(shout, {"text": "whisper"}).assert_failed(ToolError, match="too quiet")
    assert isinstance(error.__cause__, ValueError)


def test_a_skipped_step_is_among_the_messages() -> None:
    outcome = run_stack(kit, {"text": "x"}, replies={"opinion": {"sentiment": "good", "text": "fine"}})
    assert outcome.output == Handled(sentiment="good", reply=None)
    assert outcome.skipped == ("reply",) and isinstance(outcome.messages["opinion"], Message)


@pytest.mark.parametrize(
    "given",
    [
        {"sentiment": "bad", "text": "It leaks."},
        '{"sentiment":"bad","text":"It leaks."}',
        Opinion(sentiment="bad", text="It leaks."),
        [BAD],
        lambda request: BAD,
        lambda request: Opinion(sentiment="bad", text="It leaks."),
    ],
    ids=["data", "text", "message", "list", "function of data", "function of a message"],
)
def test_a_reply_may_be_written_in_any_form(given: Any) -> None:
    assert run_stage(opinion, {"text": "x"}, replies=given).output.sentiment == "bad"


def test_replies_come_one_after_another_and_the_last_for_good() -> None:
    outcome = run_stage(sampled, {"text": "x"}, replies=["no", {"reply": "x" * 61}, {"reply": "y"}])
    assert outcome.output.reply == "y"
    assert [[p.kind for p in attempt.problems] for attempt in outcome.attempts["sampled"]] == [["json"], ["schema"], []]
    assert [problem.kind for problem in outcome.problems] == ["json", "schema"]
    assert run_stage(sampled, {"text": "x"}, replies=["no", "never"]).attempts["sampled"][2].raw == "never"


def test_a_function_sees_the_request() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> dict[str, str]:
        seen.append(request)
        return {"reply": request.prompt.text("user") or ""}

    assert run_stage(sampled, {"text": "hello"}, replies=answer).output.reply == "hello"
    assert seen[0].model.stage == "kit.sampled" and len(seen[0].input) == 64


def test_a_reply_may_be_an_error() -> None:
    broken = BackendError("the machine is on fire", hint="run")
    outcome = run_stage(opinion, {"text": "x"}, replies=broken)
    assert outcome.assert_failed(BackendError, match="on fire").hint == "run"
    assert "step opinion (kit.opinion): no answer" in repr(outcome)


def test_a_step_that_runs_several_times_has_replies_for_all_or_for_one_and_is_shown_each_time() -> None:
    panel = Vote("kit.panel", Step(sampled, name="say"), n=3)
    voting = Stack("kit.voting", input=Review, output=Reply, steps=[panel])
    replies = {"panel.say": {"reply": "a"}, "panel.say[1]": {"reply": "b"}}
    outcome = run_stack(voting, {"text": "x"}, replies=replies)
    assert outcome.output.reply == "a"
    shown = repr(outcome)
    for index, reply in enumerate("aba"):
        assert f"step panel.say[{index}] (kit.sampled): ok" in shown
        assert outcome.attempts[f"panel.say[{index}]"][0].raw == f'{{"reply":"{reply}"}}'
    assert "step panel.say (kit.sampled): not reached" not in shown
    with pytest.raises(UnknownNameError):
        run_stack(voting, {"text": "x"}, replies={"panel.said[1]": {"reply": "a"}})


def test_replies_are_named_after_steps_or_stages() -> None:
    twice = Stack(
        "kit.twice",
        input=Review,
        output=Reply,
        steps=[Step(sampled, name="one"), Step(sampled, name="two")],
        bind={"reply": "two.reply"},
    )
    by_step = run_stack(twice, {"text": "x"}, replies={"one": {"reply": "a"}, "two": {"reply": "b"}})
    assert [m.content.reply for m in by_step.messages.values() if isinstance(m, Message)] in (["a", "b"], ["b", "a"])
    assert by_step.output.reply == "b"
    by_both = run_stack(twice, {"text": "x"}, replies={"one": {"reply": "a"}, "kit.sampled": {"reply": "c"}})
    assert by_both.output.reply == "c"
    run_stack(twice, {"text": "x"}, replies={"one": {"reply": "a"}}).assert_failed(UnknownNameError, match="two")
    with pytest.raises(UnknownNameError, match=r"no step or stage named 'opinoin'") as caught:
        run_stack(kit, {"text": "x"}, replies={"opinoin": BAD})
    assert caught.value.hint == "did you mean 'opinion' or 'kit.opinion'?"


@pytest.mark.parametrize(("given", "says"), [(7, "a reply is text"), ([], "a list of replies is empty"), ([7], "text")])
def test_what_is_no_reply_is_refused_at_once(given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        script({"kit.opinion": given})


def test_replies_and_a_backend_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="both replies and a backend"):
        run_stage(opinion, {"text": "x"}, replies=BAD, backend="torch")


def test_without_a_reply_the_error_says_what_is_missing() -> None:
    run_stage(opinion, {"text": "x"}).assert_failed(UnknownNameError, match="give the script an answer")


def test_an_input_that_does_not_fit_is_an_outcome() -> None:
    outcome = run_stage(opinion, {"text": ""}, replies=BAD)
    outcome.assert_failed(InputError, match="at least 1 character")
    assert outcome.run is None and outcome.events == () and outcome.records is None and outcome.messages == {}
    assert repr(outcome).startswith("<Outcome of kit.opinion: refused before it ran>\n  input    {'text': ''}")


def test_a_stack_that_the_check_refuses_is_an_outcome() -> None:
    stack = Stack("kit.bad", input=Review, output=Handled, steps=[opinion])
    assert "nobody supplies field 'reply'" in str(run_stack(stack, {"text": "x"}).assert_failed(CheckError))


def test_an_unknown_stack_is_an_outcome() -> None:
    run_stack("kit.nowhere", {"text": "x"}).assert_failed(UnknownNameError, match=r"kit\.nowhere")


def test_assertions_that_fail_show_the_outcome() -> None:
    good = run_stage(opinion, {"text": "x"}, replies=BAD)
    bad = run_stage(opinion, {"text": "x"}, replies="no")
    for ask in (good.assert_failed, lambda: bad.output, bad.assert_ok, lambda: bad.assert_failed(ToolError)):
        with pytest.raises(AssertionError, match=r"<Outcome of kit\.opinion: (succeeded|failed)>\n"):
            ask()
    with pytest.raises(AssertionError, match="StageFailedError was expected, but there is an output"):
        good.assert_failed(StageFailedError)
    with pytest.raises(AssertionError, match="ToolError was expected, not StageFailedError"):
        bad.assert_failed(ToolError)
    with pytest.raises(AssertionError, match="does not match 'penguins'"):
        bad.assert_failed(match="penguins")
    assert bad.assert_failed().code == "stage-failed"


def test_the_repr_of_a_failure_is_worth_reading() -> None:
    outcome = run_stack(kit, {"text": "The kettle\nleaks."}, replies={"opinion": BAD, "reply": {"reply": 3}})
    assert repr(outcome) == (
        "<Outcome of kit: failed>\n"
        "  input    {'text': 'The kettle\\nleaks.'}\n"
        "  step opinion (kit.opinion): ok\n"
        "    system   opinion\n"
        "    user     The kettle\n"
        "             leaks.\n"
        '    reply    {"sentiment":"bad","text":"It leaks."}\n'
        "  step reply (kit.reply): failed\n"
        "    user     It leaks.\n"
        '    reply    {"reply":3}\n'
        "    problem  (schema) reply: 3 is not of type 'string'\n"
        "  error    StageFailedError: stack kit, step reply: the stage kit.reply gave no valid message\n"
        "             found: reply: 3 is not of type 'string'"
    )


def test_the_repr_of_a_success_names_what_was_skipped() -> None:
    outcome = run_stack(kit, Review(text="x"), replies={"opinion": {"sentiment": "good", "text": "\x1b[31m"}})
    assert repr(outcome).splitlines()[-2:] == [
        "  step reply: skipped, for this is false: opinion.sentiment == 'bad'",
        '  output   {"sentiment":"good","reply":null}',
    ]
    assert "\\u001b[31m" in repr(outcome) and "\x1b" not in repr(outcome)


def test_the_repr_tells_of_nested_steps_decisions_and_failures_that_were_passed_over() -> None:
    route = Route(
        "kit.desk", by="input.text", cases={"whisper": Step(shout, on_error="skip")}, default=opinion, output=Maybe
    )
    stack = Stack("kit", input=Review, output=Maybe, steps=[route])
    lines = repr(run_stack(stack, {"text": "whisper"})).splitlines()
    assert lines[2:] == [
        "  step desk (kit.desk): ok",
        "  step desk.shout (kit.shout): skipped, for it failed with tool",
        "    problem  (tool) ValueError: too quiet",
        "  step desk.opinion (kit.opinion): not reached",
        '  decided desk.choice {"value":"whisper","step":"shout","default":false}',
        '  output   {"reply":null}',
    ]


class Maybe(BaseModel):
    reply: str | None = None


def test_a_repr_is_bounded() -> None:
    outcome = run_stage(sampled, {"text": "long " * 4000}, replies="no " * 4000)
    assert len(repr(outcome)) <= 12_000 and "<Outcome of kit.sampled: failed>" in repr(outcome)


def test_the_plugin_s_own_checks_take_part() -> None:
    class Plugin:
        @hookimpl
        def fslm_stages(self) -> list[Stage[Any, Any]]:
            return [opinion]

        @hookimpl
        def fslm_check_message(self, message: BaseModel) -> Iterable[Problem]:
            yield Problem("refused", "not in this house", "text")

    host = PluginHost(clean_settings(Path("data")), plugins={"kit": Plugin()}, installed=False)
    outcome = run_stage(opinion, {"text": "x"}, replies=BAD, host=host)
    outcome.assert_failed(StageFailedError, match="not in this house")
    assert [(p.kind, p.field, p.source) for p in outcome.problems] == [("refused", "text", "kit")]
    assert sum(isinstance(event, AttemptFailed) for event in outcome.events) == 1


def test_an_engine_runs_many_and_keeps_their_events_apart() -> None:
    with KitEngine([kit, shout], replies={"kit.opinion": BAD, "kit.reply": [{"reply": "a"}, {"reply": "b"}]}) as engine:
        first, second = (engine.outcome(kit, {"text": "x"}) for _ in range(2))
        third = engine.outcome(shout, {"text": "x"})
        place = engine.settings.trace_path
        assert place.exists()
    assert (first.output.reply, second.output.reply, third.output.reply) == ("a", "b", "X")
    runs = [outcome.run.id for outcome in (first, second) if outcome.run is not None]
    assert [{event.run for event in outcome.events} for outcome in (first, second)] == [{run} for run in runs]
    assert not place.parent.exists()
    with pytest.raises(EngineStateError):
        engine.outcome(kit, {"text": "x"})


def test_a_trace_may_be_left_out() -> None:
    with KitEngine([shout], trace=False) as engine:
        assert engine.outcome(shout, {"text": "x"}).records is None


def test_what_a_backend_wrote_is_recorded_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "recorded/kit.jsonl"
    backend = script({"kit.opinion": BAD, "kit.reply": {"reply": "Sorry."}})
    assert record(kit, [{"text": "a"}, {"text": "b"}], path, backend=backend) == path
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) == 3 and lines == sorted(lines)  # both reviews come to one opinion, so to one reply
    assert '"text": "{\\"reply\\":\\"Sorry.\\"}", "finish_reason": "stop"}' in lines[-1]
    for given in ("a", "b"):
        assert run_stack(kit, {"text": given}, replies=Recording(path)).output.reply == "Sorry."
    assert run_stack(kit, {"text": "a"}, backend=Recording(path)).output.reply == "Sorry."


def test_recording_again_replaces_what_changed_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "kit.jsonl"
    record(opinion, [{"text": "a"}, {"text": "b"}], path, backend=script({"kit.opinion": BAD}))
    good = {"sentiment": "good", "text": "fine"}
    record(opinion, [{"text": "b"}], path, backend=script({"kit.opinion": good}))
    replies = [run_stage(opinion, {"text": given}, replies=Recording(path)).output.sentiment for given in "ab"]
    assert replies == ["bad", "good"]


def test_attempts_and_how_they_ended_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "kit.jsonl"
    record(sampled, [{"text": "a"}], path, backend=script({"kit.sampled": ["no", "w " * 400, {"reply": "y"}]}))
    outcome = run_stage(sampled, {"text": "a"}, replies=Recording(path))
    assert [attempt.finish_reason for attempt in outcome.attempts["sampled"]] == ["stop", "length", "stop"]
    assert outcome.output.reply == "y"


def test_each_time_of_a_step_is_recorded_and_replayed_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "kit.jsonl"
    replies = {f"panel.say[{i}]": {"reply": said} for i, said in enumerate("abb")}
    voting = [
        Stack("kit.voting", input=Review, output=Reply, steps=[Vote("kit.panel", Step(sampled, name="say"), n=n)])
        for n in (3, 4)
    ]
    record(voting[0], [{"text": "x"}], path, backend=script(replies, voting[0]))
    assert ['"at": "[1]"' in line for line in path.read_text("utf-8").splitlines()] == [False, True, False]
    for stack, said in zip(voting, ("abb", "abba"), strict=True):
        outcome = run_stack(stack, {"text": "x"}, replies=Recording(path))
        found = [outcome.attempts[f"panel.say[{i}]"][0].raw for i in range(len(said))]
        assert found == [f'{{"reply":"{each}"}}' for each in said]


def test_an_input_that_was_not_recorded_is_told(tmp_path: Path) -> None:
    path = tmp_path / "kit.jsonl"
    record(opinion, [{"text": "a"}], path, backend=script({"kit.opinion": BAD}))
    outcome = run_stage(opinion, {"text": "z"}, replies=Recording(path, again="record it: `make recordings`"))
    error = outcome.assert_failed(BackendError, match="this input was not recorded")
    assert error.found == "1 other input of that stage" and error.hint == "record it: `make recordings`"


@pytest.mark.parametrize(("text", "says"), [(None, "cannot be read"), ("{}\n", "not of a recording"), ("?", "line 1")])
def test_a_file_that_is_no_recording_is_told(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "kit.jsonl"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        Recording(path)
