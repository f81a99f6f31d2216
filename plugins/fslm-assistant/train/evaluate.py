"""Score the stack and its controls on dialogues that nothing was trained on or chosen by.

    python evaluate.py --data DIR --out FILE [--part dev|select] [--seen N] [--unseen N] [--ways WAY …] [--wrong FILE]

Turn by turn. *On gold*: each step by itself, fed with what was annotated before it. *On predictions*: the stack goes
through the whole dialogue with the state that it made itself; as user turns answer what was said in the recorded
dialogue, the assistant's last utterance and what it proposed are taken from there. Calls are served from the recorded
results. The controls: ``whole`` is one adapter for the whole turn, on its own predictions too; ``linear`` a linear
classifier of the intent, which needs ``rows/``. With ``--wrong`` the runs are kept in the trace, and the file has those
with a fault: ``fslm trace show RUN`` explains one. ``select`` scores dialogues held back from training, to choose by;
``dev`` is opened to report alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from prepare import held_back
from scoring import Hit, call_hits, figures, same_state, same_told
from turns import TODAY, GoldTurn, after, dialogues, services

from fslm_assistant import act, assistant, intent, reply, slots
from fslm_assistant.messages import Asked, Choice, Content, Fact, Filled, Heard, Saying, Situation, Turn
from fslm_assistant.tools import Before, Ready, call, settle
from fslm_assistant.values import NONE
from fslm_core import Engine, Stack, Stage, Step
from fslm_core.engine import Run
from fslm_core.message import Message
from fslm_core.settings import Settings

HERE = Path(__file__).parent
AT_ONCE = 8
WAYS = ("gold", "predicted", "whole", "linear")


def sample(data: Path, part: str, seen: int, unseen: int) -> dict[str, list[list[GoldTurn]]]:
    """So many dialogues of services that training had, and of those that it had not; drawn by a fixed seed."""
    train_schemas = services(data / "schema_train.json")
    trained = {d[0].service.name for d in dialogues(data / "train.jsonl", train_schemas)}
    if part == "select":
        found = [d for d in dialogues(data / "train.jsonl", train_schemas) if held_back(d[0])]
    else:
        found = list(dialogues(data / "dev.jsonl", services(data / "schema_dev.json")))
    Random(0).shuffle(found)
    known = [d for d in found if d[0].service.name in trained]
    new = [d for d in found if d[0].service.name not in trained]
    return {"seen": known[:seen], "unseen": new[:unseen]}


# -- each step on gold ------------------------------------------------------------------------------------------------


def alone(stage: Stage[Any, Any]) -> Stack[Any, Any]:
    """A stack of that one stage."""
    return Stack(f"alone.{stage.name}", input=stage.input, output=stage.output, steps=[Step(stage, name="step")])


def outputs(engine: Engine, stage: Stage[Any, Any], inputs: Sequence[Any]) -> list[Any]:
    """What a stage writes for each input; None where it fails."""
    outcomes = engine.map(alone(stage), inputs, concurrency=AT_ONCE)
    return [outcome.output if outcome.error is None else None for outcome in outcomes]


def gold_hits(engine: Engine, turns: list[GoldTurn]) -> Iterable[Hit]:
    """Each step by itself, on what was annotated before it."""
    heard = [Heard(text=t.text, said=t.before.said, now=t.before.intent, choices=choices(t)) for t in turns]
    for t, got in zip(turns, outputs(engine, intent, heard), strict=True):
        yield Hit("gold intent", t.dialogue, got is not None and got.intent == t.intent)
        yield Hit("gold move", t.dialogue, got is not None and got.move == t.move)
    wanted = [t for t in turns if t.intent != NONE]
    asked = [Asked(text=t.text, said=t.before.said, task=t.task) for t in wanted]
    for t, got in zip(wanted, outputs(engine, slots, asked), strict=True):
        yield Hit("gold slots told", t.dialogue, got is not None and same_told(got.told, t.told))
        yield Hit("gold slots asked", t.dialogue, got is not None and set(got.asked) == set(t.asked))
        yield Hit("gold joint goal", t.dialogue, got is not None and same_state(settled(t, got.told), t.slots))
    for t in turns:
        if t.intent == NONE:
            yield Hit("gold joint goal", t.dialogue, same_state(settled(t, []), t.slots))
        yield from call_hits("gold", t, called(t))
    yield from said_hits(engine, turns)


def said_hits(engine: Engine, turns: list[GoldTurn]) -> Iterable[Hit]:
    """The act and the reply by themselves."""
    there = [
        Situation(text=t.text, task=t.task, move=t.move, missing=t.missing, asked=t.asked, call=t.call, rows=t.rows)
        for t in turns
    ]
    for t, got in zip(turns, outputs(engine, act, there), strict=True):
        yield Hit("gold act", t.dialogue, got is not None and got.act == t.act)
    saying = [Saying.model_validate({"act": t.act, "subject": t.subject, "facts": t.facts}) for t in turns]
    for t, made, got in zip(turns, saying, outputs(engine, reply, saying), strict=True):
        if t.act not in ("REQUEST", "MORE", "GOODBYE", "SUGGEST") and made.facts:
            yield Hit("gold reply says all", t.dialogue, got is not None and says(got.reply, made.facts))


def choices(turn: GoldTurn) -> list[Choice]:
    return [Choice(name=each.name, description=each.description) for each in turn.service.intents]


def settled(turn: GoldTurn, told: list[Filled]) -> dict[str, str]:
    """The slots after a turn in which this was told, all else as annotated."""
    assert settle.tool is not None
    before = turn.before
    given = Before(
        task=turn.task, move=turn.move, told=told, asked=turn.asked,
        service=before.service, slots=before.slots, proposed=before.proposed,
    )  # fmt: skip
    made: Any = settle.tool.function(given)
    return dict(made.slots)


def called(turn: GoldTurn) -> Any:
    """The call that the tool makes of what was annotated."""
    assert call.tool is not None
    before = turn.before
    given = Ready(
        task=turn.task, move=turn.move, told=[Filled.model_validate(each) for each in turn.told], slots=turn.slots,
        missing=turn.missing, intent_before=before.intent, act_before=before.act, proposed=before.proposed,
        called=before.called, rows=before.rows, place=before.place, records=turn.records, today=TODAY.isoformat(),
    )  # fmt: skip
    served: Any = call.tool.function(given)
    return served.call


def says(text: str, facts: Sequence[Fact]) -> bool:
    """Whether a reply names every value that it is to name; yes, no and counts may be put otherwise."""
    plain = [f.value for f in facts if f.value not in ("True", "False") and f.slot != "count"]
    return all(value.lower() in text.lower() for value in plain)


# -- the whole stack on its own predictions ---------------------------------------------------------------------------


async def run_through(engine: Engine, stack: Stack[Any, Any], dialogue: list[GoldTurn]) -> list[Run[Any] | None]:
    """A dialogue turn by turn; each begins with what the stack itself made of the turns before."""
    state, runs = dialogue[0].before, []
    for turn in dialogue:
        given = Turn(text=turn.text, service=turn.service, records=turn.records, today=TODAY.isoformat())
        try:
            run = await engine.arun(stack, given, state=state)
        except Exception as error:  # a turn that fails is a wrong turn, and the next goes on from before it
            print(f"{turn.dialogue}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            run = None
        runs.append(run)
        recorded = after(turn)
        own: dict[str, Any] = {}
        if run is not None:
            said = contents(run)
            own = {"intent": said["intent"].intent, "slots": said["settle"].slots}
            own |= {"called": said["call"].call or state.called}
        else:
            own = {"intent": state.intent, "slots": state.slots, "called": state.called}
        state = recorded.model_copy(update=own)
    return runs


def contents(run: Run[Any]) -> dict[str, Any]:
    """What each step that ran said."""
    return {name: message.content for name, message in run.messages.items() if isinstance(message, Message)}


async def run_all(engine: Engine, stack: Stack[Any, Any], found: list[list[GoldTurn]]) -> list[list[Run[Any] | None]]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(dialogue: list[GoldTurn]) -> list[Run[Any] | None]:
        async with gate:
            return await run_through(engine, stack, dialogue)

    return await asyncio.gather(*map(one, found))


def predicted_hits(found: list[list[GoldTurn]], ran: list[list[Run[Any] | None]], prefix: str) -> Iterable[Hit]:
    """What each turn of the dialogues came to."""
    for dialogue, runs in zip(found, ran, strict=True):
        for t, run in zip(dialogue, runs, strict=True):
            if run is None:
                served = "exact call" if t.call else "no call where none is due"
                for name in ("intent", "move", "joint goal", "act", served):
                    yield Hit(f"{prefix} {name}", t.dialogue, False)
                continue
            yield from (replace(hit, run=run.id) for hit in _turn_hits(t, contents(run), prefix))


def _turn_hits(t: GoldTurn, said: dict[str, Any], prefix: str) -> Iterable[Hit]:
    """What one turn came to."""
    yield Hit(f"{prefix} intent", t.dialogue, said["intent"].intent == t.intent)
    yield Hit(f"{prefix} move", t.dialogue, said["intent"].move == t.move)
    yield Hit(f"{prefix} joint goal", t.dialogue, same_state(said["settle"].slots, t.slots))
    yield from call_hits(prefix, t, said["call"].call)
    yield Hit(f"{prefix} act", t.dialogue, said.get("act", said["intent"]).act == t.act)
    filled = said.get("fill")
    if isinstance(filled, Content) and filled.facts and filled.act in ("CONFIRM", "OFFER", "INFORM", "SUCCESS"):
        yield Hit(f"{prefix} reply says all", t.dialogue, says(said["reply"].reply, filled.facts))


def linear_hits(found: list[list[GoldTurn]]) -> Iterable[Hit]:
    """The linear classifier's intent, on gold and on its own, and that of always going on with the present intent."""
    sys.path.insert(0, str(HERE / "control"))
    from linear import LinearIntent

    recipe = tomllib.loads((HERE / "intent.toml").read_text("utf-8"))
    linear = LinearIntent(HERE / "rows/intent.train.jsonl", recipe["data"]["max_rows"])
    for dialogue in found:
        own = NONE
        for t in dialogue:
            yield Hit("gold linear intent", t.dialogue, linear.predict(t.service, t.before, t.text) == t.intent)
            own = linear.predict(t.service, t.before.model_copy(update={"intent": own}), t.text)
            yield Hit("predicted linear intent", t.dialogue, own == t.intent)


def report(hits: list[Hit]) -> dict[str, Any]:
    return {name: asdict(figure) for name, figure in sorted(figures(hits).items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds the dialogues and schemas")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the figures go, as JSON")
    parser.add_argument("--part", choices=("dev", "select"), default="dev")
    parser.add_argument("--seen", type=int, default=50, metavar="N", help="dialogues of services seen in training")
    parser.add_argument("--unseen", type=int, default=50, metavar="N", help="dialogues of other services")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["gold", "predicted"], help="what is scored")
    parser.add_argument(
        "--wrong", type=Path, metavar="FILE", help="keep runs in the trace, and list those with a fault"
    )
    arguments = parser.parse_args()
    sampled = sample(arguments.data, arguments.part, arguments.seen, arguments.unseen)
    stacks: dict[str, Stack[Any, Any]] = {"predicted": assistant} if "predicted" in arguments.ways else {}
    if "whole" in arguments.ways:
        sys.path.insert(0, str(HERE / "control"))
        from whole_turn import control

        stacks["whole"] = control
    told: dict[str, Any] = {"seconds": {}}
    keep = arguments.wrong is not None
    with Engine(stacks=list(stacks.values()), settings=Settings(), trace=keep, max_in_flight=AT_ONCE) as engine:
        for name, found in sampled.items():
            if not found:
                continue
            hits: list[Hit] = []
            if "gold" in arguments.ways:
                clock = time.perf_counter()
                hits += gold_hits(engine, [turn for dialogue in found for turn in dialogue])
                told["seconds"][f"{name}, on gold"] = round(time.perf_counter() - clock)
            for prefix, stack in stacks.items():
                clock = time.perf_counter()
                hits += predicted_hits(found, asyncio.run(run_all(engine, stack, found)), prefix)
                told["seconds"][f"{name}, {prefix}"] = round(time.perf_counter() - clock)
            if "linear" in arguments.ways:
                hits += linear_hits(found)
            told[name] = report(hits)
            if keep:
                with arguments.wrong.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(hit)) + "\n" for hit in hits if hit.run and not hit.right)
            arguments.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            for figure, its in told[name].items():
                print(
                    f"{name:7} {figure:36} {its['value']:.3f} ({its['low']:.3f} to {its['high']:.3f}) of {its['turns']}"
                )


if __name__ == "__main__":
    main()
