"""What ``--model_args`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import UsageError
from ...schema import problems_of

WHERE = "--model_args of the model fslm"


class Options(BaseModel):
    """The arguments of the model.

    Attributes:
        stack: the name of an installed stack.
        field: the field of its output that is the answer.
        input: the field of its input that a task's context is put in.
        choice: ``json`` scores a choice as the value of the field, in the text that the stage writes; ``text`` scores
            what lm-eval hands over, as it is.
        chains: over how many sampled chains the probability of a choice is averaged; 1 samples none.
        temperature: of the stages that write the chains.
        control: ``base`` gives the task to the bare base model, without the stack.
        base: the checkpoint of that control; the stack's where it has one.
        seed: decides every sampled token.
        concurrency: contexts at work at once.
        failures: what a context whose run fails does: ``raise`` ends the evaluation, ``count`` counts it as wrong.
        device, batch_size, max_batch_size: lm-eval's, for the control alone: the settings say where the engine runs,
            and it makes batches of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stack: str
    field: str | None = None
    input: str | None = None
    choice: Literal["json", "text"] = "json"
    chains: Annotated[int, Field(ge=1, le=1000)] = 1
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    control: Literal["base"] | None = None
    base: str | None = None
    seed: int = 0
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    failures: Literal["raise", "count"] = "raise"
    device: str | None = None
    batch_size: int | str | None = None
    max_batch_size: int | None = None


def read(given: Mapping[str, Any]) -> Options:
    """Read them.

    Raises:
        UsageError: one is unknown, missing or out of range, or two contradict each other.
    """
    try:
        options = Options.model_validate(dict(given))
    except ValidationError as error:
        raise UsageError(
            "the model's arguments are wrong",
            where=WHERE,
            found="; ".join(f"{problem.field}: {problem.text}" for problem in problems_of(error)[:3]),
            expected=", ".join(Options.model_fields),
            hint="write them as --model_args stack=NAME,field=FIELD",
        ) from None
    if options.base is not None and options.control is None:
        raise UsageError(
            "base names the control's checkpoint, and no control is asked for",
            where=WHERE,
            found=f"base={options.base}",
            hint="add control=base, or leave base out",
        )
    return options


__all__ = ["WHERE", "Options", "read"]
