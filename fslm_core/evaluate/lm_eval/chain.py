"""A stack up to the stage that writes the answer, as it is asked for likelihoods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import UsageError
from ...shapes.sampling import at_temperature, varies
from ...stack import Stack, Step
from ...stage import Decoding
from .answers import Answer
from .options import WHERE


class Chain(Stack[Any, Any]):
    """The steps that the final stage needs, and the final stage itself, which is asked whatever its ``when`` says.

    Args:
        temperature: that at which the stages before the final one write; their own if None. Shapes write as they are.
    """

    def __init__(self, stack: Stack[Any, Any], answer: Answer, temperature: float | None = None) -> None:
        last = answer.step
        steps = [step for step in stack.steps if step.name in _needed(stack, last)]
        model = last.node.output
        super().__init__(
            f"{stack.name}.scored",
            input=stack.input,
            output=model,
            steps=[*(_bound(stack, step) for step in steps), _bound(stack, last, asked=True)],
            bind={name: f"{last.name}.{name}" for name in model.model_fields},
            description=f"{stack.name} up to {last.name}, whose field {answer.name} is scored.",
        )
        self._answer = answer
        self._temperature = temperature

    @property
    def samples(self) -> bool:
        """Whether its stages write at a temperature that is not their own."""
        return self._temperature is not None

    @property
    def vary(self) -> bool:
        """Whether two passages can differ in what comes before the answer."""
        before = self.steps if not self._answer.is_first else self.steps[:-1]
        return any(varies(step, self._temperature) for step in before)

    def _decoding(self, step: Step) -> Decoding | None:
        if step.name != self._answer.step.name:
            return at_temperature(step, self._temperature)
        if self._temperature is not None and not self._answer.is_first:
            return at_temperature(step, self._temperature)
        return replace(step.stage.decoding, temperature=0.0, attempts=1)


def chains_of(stack: Stack[Any, Any], answer: Answer, chains: int, temperature: float) -> tuple[Chain, Chain | None]:
    """The stack as it is asked once, and as it is asked for sampled chains, where there is more than one.

    Raises:
        UsageError: the stack has a session; or all chains would be the same.
    """
    if stack.session is not None:
        raise UsageError(
            "a stack with a session has no likelihood for one context",
            where=f"stack {stack.name}",
            hint="score a stack without one, or use a task that generates (output_type: generate_until)",
        )
    sampled = Chain(stack, answer, temperature) if chains > 1 else None
    if sampled is not None and not sampled.vary:
        raise UsageError(
            "all chains would be the same: nothing that comes before the answer is sampled",
            where=f"{WHERE}, chains",
            found=f"chains={chains}",
            hint="leave chains out",
        )
    return Chain(stack, answer), sampled


def _needed(stack: Stack[Any, Any], last: Step) -> set[str]:
    """The names of the steps that must have ended before the last can be given its input."""
    names = {step.name for step in stack.steps}
    new = {source.step for source in stack.wiring.sources[last.name].values()} & names
    needed: set[str] = set()
    while new:
        needed |= new
        new = {name for step in new for name in stack.wiring.needs(step)} - needed
    return needed


def _bound(stack: Stack[Any, Any], step: Step, *, asked: bool = False) -> Step:
    """The step, bound as the whole stack binds it."""
    bind = {name: str(source) for name, source in stack.wiring.sources[step.name].items()}
    when, on_error = (None, "fail") if asked else (step.when, step.on_error)
    return Step(step.node, name=step.name, bind=bind, when=when, on_error=on_error)


__all__ = ["Chain", "chains_of"]
