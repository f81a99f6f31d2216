"""One passage through an agent: plan, act, read, and again; and the ends it can come to."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ...errors import FslmError, StageFailedError
from ...message import Message, Skipped
from ...schema import canonical
from ...stack import FAILURES, Place, Result, Step, fetch
from .plan import ARGUMENTS, AVAILABLE, FINISH, NEXT, PROGRESS, Ending, Failure, Progress, Why
from .record import Record, reason_of

if TYPE_CHECKING:
    from .agent import Agent

ALIKE = 2
"""How often one tool is called with the same arguments."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a planner chose: a tool, or ``finish``, with its arguments."""

    tool: str
    arguments: BaseModel
    plan: Message[Any]

    @property
    def text(self) -> str:
        """The arguments as compact JSON."""
        return canonical(self.arguments)


class Passage:
    """One passage of one input through an agent."""

    def __init__(self, agent: Agent[Any, Any], place: Place) -> None:
        self._agent = agent
        self._place = place
        self._record = Record(agent.record)
        self._wanted: Counter[tuple[str, str]] = Counter()
        self._rounds = 0
        self._plans: list[Message[Any]] = []
        self._known: dict[str, Message[Any] | Skipped] = {
            **{step.name: Skipped(step.name, "", "not called yet") for step in agent.tools},
            **place.given,
        }
        self._tools = self._allowed()

    async def go(self) -> Result[Any]:
        """To the end.

        Raises:
            FslmError: a bound was reached, or a step's own failure that nobody is to be told of.
        """
        try:
            why, result = await self._ended()
        except FAILURES:
            await self._tell("failed", finished=False)
            raise
        await self._tell(why, finished=result is not None)
        if result is None:
            raise self._spent(why)
        return result

    async def _ended(self) -> tuple[Why, Result[Any] | None]:
        """Why it ended, and with what, where there is something."""
        found = await self._within_the_time()
        if isinstance(found, Result):
            return "finish", found
        if self._agent.exhausted == "finish":
            return found, self._result(await self._plan([]))
        return found, None

    async def _within_the_time(self) -> Result[Any] | Why:
        try:
            async with asyncio.timeout(self._agent.seconds) as clock:
                return await self._work()
        except TimeoutError:
            if not clock.expired():
                raise
            return "seconds"

    async def _work(self) -> Result[Any] | Why:
        """Round after round, but for the one that is kept for the end where the planner must finish."""
        agent = self._agent
        most = agent.most - (agent.exhausted == "finish")
        while self._rounds < most:
            if agent.tokens is not None and self._tokens >= agent.tokens:
                return "tokens"
            call = await self._plan(self._left())
            if self._wanted[call.tool, call.text] >= ALIKE:
                return "repeating"
            self._wanted[call.tool, call.text] += 1
            if call.tool == FINISH:
                try:
                    return self._result(call)
                except FAILURES as error:
                    await self._failed(call, error)
            elif self._rounds < agent.most:
                await self._call(call)
        return "rounds"

    # -- one round ---------------------------------------------------------------------------------------------

    async def _plan(self, tools: list[str]) -> Call:
        """Ask the planner, who may choose one of ``tools`` or finish."""
        agent, record = self._agent, self._record
        available = [*tools, FINISH]
        progress = Progress(
            record=record.turns(), omitted=record.omitted, tools=agent.cards_of(tools), available=available
        )
        self._known[PROGRESS] = self._place.say(progress, record.messages())
        index, self._rounds = self._rounds, self._rounds + 1
        made = await self._place.step(agent.plans, self._known, index=index)
        assert isinstance(made, Message)  # its step has no condition, and is not skipped where it fails
        self._plans.append(made)
        chosen = getattr(made.content, NEXT)
        call = Call(chosen.tool, chosen.arguments, made)
        if call.tool not in available:
            raise StageFailedError(
                f"the planner chose {call.tool}, which is not to be had this time",
                where=self._place.where(),
                hint=f"choose among the names in the planner's input field {AVAILABLE!r}",
            )
        return call

    async def _call(self, call: Call) -> None:
        """Call a tool and remember what it gave."""
        step = self._agent.tool(call.tool)
        self._known[ARGUMENTS] = self._place.say(call.arguments, [call.plan])
        try:
            made = await self._place.step(step, self._known, index=self._rounds - 1)
        except FAILURES as error:
            await self._failed(call, error)
            return
        self._remember(step, call, made)

    def _remember(self, step: Step, call: Call, made: Message[Any] | Skipped) -> None:
        if isinstance(made, Skipped):
            self._record.add(call.tool, call.text, f"skipped: {made.when}", (call.plan,), failed=True)
            return
        self._known[step.name] = made
        self._record.add(call.tool, call.text, canonical(made.content), (made,))

    async def _failed(self, call: Call, error: FslmError) -> None:
        """Tell the planner of a failure, if that is the agent's way."""
        if self._agent.on_tool_error == "fail":
            raise error
        reason = reason_of(error)
        told = await self._place.decided(
            "failed", Failure(tool=call.tool, code=error.code, reason=reason), [call.plan], index=self._rounds - 1
        )
        text = f"{error.code}: {reason}" if reason else error.code
        self._record.add(call.tool, call.text, text, (told,), failed=True)

    # -- the end -----------------------------------------------------------------------------------------------

    def _result(self, call: Call) -> Result[Any]:
        """The output, of the arguments of ``finish``; how sure the planner was of them is how sure it was of them all.

        Raises:
            StageFailedError: they are no valid output.
        """
        self._known[ARGUMENTS] = self._place.say(call.arguments, [call.plan])
        result = self._place.result(self._known)
        if (sure := (call.plan.confidence or {}).get(NEXT)) is None:
            return result
        return replace(
            result, confidence={**dict.fromkeys(type(call.arguments).model_fields, sure), **(result.confidence or {})}
        )

    async def _tell(self, why: Why, *, finished: bool) -> None:
        ending = Ending(
            why=why,
            finished=finished,
            rounds=self._rounds,
            tokens=self._tokens,
            calls=dict(self._record.calls),
            failed=self._record.failed,
        )
        await self._place.decided("ending", ending, self._plans)

    def _spent(self, why: Why) -> StageFailedError:
        agent = self._agent
        whats = {
            "rounds": (f"its {agent.most} rounds are spent", "most"),
            "tokens": (f"its {agent.tokens} tokens are spent ({self._tokens} were read and written)", "tokens"),
            "seconds": (f"its {agent.seconds:g} s are spent" if agent.seconds else "", "seconds"),
            "repeating": ("its planner wanted the same call with the same arguments once more", ""),
        }
        what, argument = whats[why]
        more = f"allow more with {argument}=…" if argument else "look at what its planner was told"
        return StageFailedError(
            f"the agent did not finish: {what}, {self._rounds} of {agent.most} rounds used;"
            f" it called {self._record.summary()}",
            where=self._place.where(),
            hint=f'{more}, or give an answer all the same with exhausted="finish"',
        )

    # -- what there is -----------------------------------------------------------------------------------------

    @property
    def _tokens(self) -> int:
        return self._place.used.prompt + self._place.used.output

    def _left(self) -> list[str]:
        """The tools that may be chosen now: all that were not called as often as one may be."""
        each, calls = self._agent.each, self._record.calls
        return [name for name in self._tools if each is None or calls[name] < each]

    def _allowed(self) -> list[str]:
        """The tools that may be chosen in this run, in declared order.

        Raises:
            StageFailedError: the input names one that does not exist.
        """
        every = [step.name for step in self._agent.tools]
        if self._agent.available is None:
            return every
        named = fetch(self._agent.wiring.sources[AVAILABLE][AVAILABLE], self._known)
        if named is None:
            return every
        if not set(named) <= set(every):
            raise StageFailedError(
                f"{self._agent.available} names a tool that the agent does not have: it has {', '.join(every)}",
                where=self._place.where(),
                hint="name only these, or declare the others in tools=[…]",
            )
        return [name for name in every if name in named]


__all__ = ["ALIKE", "Call", "Passage"]
