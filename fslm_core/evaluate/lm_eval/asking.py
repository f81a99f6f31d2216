"""Asks a stack what lm-eval wants to know: many contexts at once, the steps before the answer once in each passage."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from ...engine import Engine, Run
from ...engine.flow import in_order
from ...engine.loop import LoopThread
from ...errors import ContextOverflowError, FslmError, RunFailed
from ...message import Message, derive_seed
from ...plugins import PluginHost
from ...prompt import Prompt
from ...schema import dumps, plain_data
from ...settings import Settings
from ...stack import Stack
from .answers import Answer, answer_of, field_of, text_of
from .chain import Chain, chains_of
from .contexts import Contexts
from .options import Options

T = TypeVar("T")
R = TypeVar("R")

Likelihoods = Mapping[str, tuple[float, bool]]
"""For each choice of a context its log-likelihood, and whether the stack says it of its own accord."""

log = logging.getLogger("fslm")


@dataclass(frozen=True, slots=True)
class Question:
    """A context to be answered: the texts that end the answer, and how often the same was asked before."""

    context: str
    until: Sequence[str] = ()
    before: int = 0


@dataclass(frozen=True, slots=True)
class Choices:
    """A context with all the choices that are to be scored after it."""

    context: str
    choices: Sequence[str]


class Asker:
    """Runs a stack for lm-eval.

    Raises:
        UnknownNameError: there is no such stack.
        UsageError: its input or output has no such field.
    """

    def __init__(self, options: Options, settings: Settings, host: PluginHost) -> None:
        self._options = options
        self._settings = settings
        self._host = host
        self.stack = host.stack(options.stack)
        self._contexts = Contexts(self.stack, options.input)
        self._field = field_of(self.stack, options.field)

    def texts(self, asked: Sequence[Question], done: Callable[[str], None]) -> list[str]:
        """What the stack says to each context, up to the first text that ends it.

        Args:
            done: told each answer, in order.

        Raises:
            FslmError: a run failed, where failures are not counted; or none began.
        """

        async def one(engine: Engine, item: Question) -> str:
            seed = derive_seed(self._options.seed, "again", item.before) if item.before else self._options.seed
            run = await self._run(engine, self.stack, item.context, seed)
            return "" if run is None else _cut(text_of(run.output, self._field), item.until)

        return self._all([self.stack], asked, one, done)

    def likelihoods(self, asked: Sequence[Choices], done: Callable[[Likelihoods], None]) -> list[Likelihoods]:
        """How likely the final stage is to write each choice, in each context.

        Args:
            done: told what came of each context, in order.

        Raises:
            UsageError: the stack has no likelihood: its answer is no one field that a stage with a model writes.
            CapabilityError: the backend cannot score.
            InputError: a choice is no value of the field.
            FslmError: a run failed, where failures are not counted; or none began.
        """
        answer = answer_of(self.stack, self._options.field)
        alone, sampled = chains_of(self.stack, answer, self._options.chains, self._options.temperature)
        scorer = _Scorer(answer, self._options.choice == "json")
        values = {choice: scorer.value(choice) for item in asked for choice in item.choices}

        async def passage(engine: Engine, chain: Chain, item: Choices, seed: int) -> list[tuple[float, bool]]:
            run = await self._run(engine, chain, item.context, seed)
            if run is not None:
                try:
                    own = [values[choice] for choice in item.choices]
                    return await scorer.score(engine, chain, run, own, greedy=chain is alone)
                except ContextOverflowError as error:
                    self._count(error)
            return [(-math.inf, False)] * len(item.choices)

        async def one(engine: Engine, item: Choices) -> Likelihoods:
            first = await passage(engine, alone, item, self._options.seed)
            chains = [first]
            if sampled is not None:
                seeds = [derive_seed(self._options.seed, "chain", i) for i in range(self._options.chains)]
                chains = [await passage(engine, sampled, item, seed) for seed in seeds]
            means = [_mean([chain[i][0] for chain in chains]) for i in range(len(item.choices))]
            return {choice: (means[i], first[i][1]) for i, choice in enumerate(item.choices)}

        async def look(engine: Engine) -> None:
            await engine.ascore(alone, answer.step.name, Prompt(()), ())

        return self._all([chain for chain in (alone, sampled) if chain is not None], asked, one, done, look)

    async def _run(self, engine: Engine, stack: Stack[Any, Any], context: str, seed: int) -> Run[Any] | None:
        """One run; None where it ended without an output, and such are counted.

        Raises:
            FslmError: it ended so, and they are not; or it did not begin.
        """
        try:
            run = await engine.arun(stack, self._contexts.read(context), seed=seed)
        except RunFailed as failed:
            self._count(failed.error)
            return None
        if run.error is not None:  # a person is to decide
            self._count(run.error)
            return None
        return run

    def _count(self, error: FslmError) -> None:
        """Note a failure, or raise it."""
        if self._options.failures == "raise":
            raise error
        log.warning("a context of lm-eval is counted as wrong: %s", error)

    def _all(
        self,
        stacks: Sequence[Stack[Any, Any]],
        items: Sequence[T],
        work: Callable[[Engine, T], Awaitable[R]],
        done: Callable[[R], None],
        look: Callable[[Engine], Awaitable[None]] | None = None,
    ) -> list[R]:
        """Do the work for all items, many at once; ``look`` comes before it.

        It has a loop of its own: lm-eval waits for it, also on a thread whose loop is running, as a notebook's is.
        """

        async def main() -> list[R]:
            room = max(64, self._options.concurrency)
            async with Engine(stacks, settings=self._settings, host=self._host, max_in_flight=room) as engine:
                if look is not None:
                    await look(engine)

                async def one(_: int, item: T) -> R:
                    return await work(engine, item)

                found: list[R] = []
                async with aclosing(in_order(_each(items), one, self._options.concurrency)) as results:
                    async for result in results:
                        done(result)
                        found.append(result)
                return found

        loop = LoopThread("fslm-lm-eval")
        try:
            return loop.submit(main()).result()
        finally:
            loop.close()


@dataclass(frozen=True)
class _Scorer:
    """Scores the choices of a context after a passage up to the final stage."""

    answer: Answer
    as_json: bool

    def value(self, choice: str) -> Any:
        """What a choice is scored as."""
        return self.answer.value(choice) if self.as_json else choice

    async def score(
        self, engine: Engine, chain: Chain, run: Run[Any], values: Sequence[Any], *, greedy: bool
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each choice, and whether the final stage says it of its own accord, if asked."""
        step = self.answer.step.name
        message = run.messages[step]
        assert isinstance(message, Message)
        prompt = message.attempts[-1].prompt
        assert prompt is not None
        if not self.as_json:
            plain = await engine.ascore(chain, step, prompt, values, greedy=greedy)
            return [(text.logprob, bool(text.greedy)) for text in plain]
        begun, texts = self.answer.texts(message.content, values)
        start, *found = await engine.ascore(chain, step, prompt, [begun, *texts])
        said = dumps(plain_data(message.content)[self.answer.name])
        pairs = zip(found, values, strict=True)
        return [(text.logprob - start.logprob, dumps(value) == said) for text, value in pairs]


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


def _cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of those that end it."""
    return text[: min((place for stop in until if stop and (place := text.find(stop)) >= 0), default=len(text))]


def _mean(logprobs: Sequence[float]) -> float:
    """The logarithm of the mean of probabilities that are given as logarithms.

    >>> round(math.exp(_mean([math.log(0.5), math.log(0.1), -math.inf])), 6)
    0.2
    """
    most = max(logprobs)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(one - most) for one in logprobs) / len(logprobs))


__all__ = ["Asker", "Choices", "Likelihoods", "Question"]
