"""What a planner is given and what it may write: exactly one of the declared tools with its arguments, or the end."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WrapValidator, create_model

from ...errors import SchemaError, StackError
from ...schema import dumps, tree_of
from ...stack import Node, Step

PLAN = "plan"
"""The planner's step."""
NEXT = "next"
"""The field in which it says what to do."""
FINISH = "finish"
PROGRESS = "progress"
"""What hands the planner its record."""
ARGUMENTS = "arguments"
"""What hands a tool, or the output, what the planner wrote for it."""
AVAILABLE = "available"
_VALIDATORS = (AfterValidator, BeforeValidator, WrapValidator)
_SHOWN = 200
"""Characters of an argument's labels that a card shows."""


class Turn(BaseModel):
    """One call as the record tells it: the tool, its arguments and what it gave as compact JSON.

    Of a call that failed ``result`` is the error's code, and what is known of the reason.
    """

    tool: str
    arguments: str
    result: str
    failed: bool = False


class ToolCard(BaseModel):
    """A tool as a prompt may show it: ``arguments`` are their names, with the labels of those that have labels."""

    name: str
    description: str
    arguments: str


class Progress(BaseModel):
    """What the agent tells its planner beside its own input.

    Attributes:
        record: the calls so far, the newest last, as far as they fit the agent's bound.
        omitted: how many older ones do not.
        tools: a card for each tool that may be chosen this time.
        available: what may be chosen this time: their names, and ``finish``.
    """

    record: list[Turn]
    omitted: int
    tools: list[ToolCard]
    available: list[str]


Why: TypeAlias = Literal["finish", "rounds", "tokens", "seconds", "repeating", "failed"]


class Ending(BaseModel):
    """How an agent ended.

    Attributes:
        why: ``finish`` where its planner chose to, else the bound that was reached; ``repeating`` is a planner that
            wanted the same call a third time, ``failed`` a failure that nobody is told of.
        finished: whether there is an output; with ``exhausted="finish"`` there may be one after a bound, too.
        rounds: how often the planner was asked.
        tokens: read and written by everything in the agent.
        calls: how often each tool was called, by name.
        failed: how many of these calls failed.
    """

    why: Why
    finished: bool
    rounds: int
    tokens: int
    calls: dict[str, int]
    failed: int


class Failure(BaseModel):
    """A call that failed and did not end the agent."""

    tool: str
    code: str
    reason: str


def plan_model(
    tools: Sequence[Step | Node],
    output: type[BaseModel],
    *,
    bind: Collection[str] = (),
    base: type[BaseModel] | None = None,
) -> type[BaseModel]:
    """The output model of a planner: a field ``next`` that is one of the tools with its arguments, or ``finish``.

    Args:
        tools: as for :class:`Agent`; what a step binds is no argument.
        output: the agent's; its fields are the arguments of ``finish``.
        bind: the output fields that the agent binds, which are none.
        base: a model whose fields the planner writes before, as a ``thought``.

    Raises:
        StackError: two tools of one name, or one named ``finish``.

    >>> class Sum(BaseModel):
    ...     total: int
    >>> plan = plan_model([], Sum).model_validate({"next": {"tool": "finish", "arguments": {"total": 3}}})
    >>> plan.next.arguments.total
    3
    """
    steps = [tool if isinstance(tool, Step) else Step(tool) for tool in tools]
    refuse_names(steps, "plan_model(…)")
    models = {step.name: arguments_of(step.node.input, step.name, step.bind) for step in steps}
    return plan_of({**models, FINISH: arguments_of(output, FINISH, bind)}, base)


def plan_of(arguments: Mapping[str, type[BaseModel]], base: type[BaseModel] | None = None) -> type[BaseModel]:
    """As :func:`plan_model`, of the models of all arguments, those of ``finish`` among them."""
    calls = [_call_of(name, model) for name, model in arguments.items()]
    one = calls[0] if len(calls) == 1 else Annotated[Union[tuple(calls)], Field(discriminator="tool")]  # noqa: UP007
    fields: dict[str, Any] = {NEXT: (one, ...)}
    return create_model("Plan", __base__=base, **fields) if base else create_model("Plan", **fields)


def _call_of(name: str, arguments: type[BaseModel]) -> Any:
    fields: dict[str, Any] = {"tool": (Literal[name], ...), ARGUMENTS: (arguments, ...)}
    return create_model(f"{_word(name)}Call", **fields)


def arguments_of(model: type[BaseModel], name: str, bound: Collection[str]) -> type[BaseModel]:
    """What a planner writes of a model's fields: all that is not bound.

    A field keeps its type and its bounds; what its validators say is heard where it is bound, so that a refusal can be
    told to the planner.
    """
    kept: dict[str, Any] = {}
    for field, info in model.model_fields.items():
        if field not in bound:
            plain = copy.copy(info)
            plain.metadata = [part for part in info.metadata if not isinstance(part, _VALIDATORS)]
            kept[field] = (info.annotation, plain)
    return create_model(f"{_word(name)}Arguments", **kept)


def request_of(input: type[BaseModel], cards: Sequence[ToolCard], where: str) -> type[BaseModel]:
    """The input model of a planner: the agent's input and its progress, which is that of the first round by default,
    so that rows to train on need not tell what does not matter to them.

    Raises:
        StackError: both have a field of one name.
    """
    if taken := sorted(set(input.model_fields) & set(Progress.model_fields)):
        raise StackError(
            "the input has a field that the planner's own input has, too",
            where=where,
            found=", ".join(taken),
            expected=f"other names than {', '.join(Progress.model_fields)}",
            hint="give the field another name",
        )
    first = Progress(record=[], omitted=0, tools=list(cards), available=[*(card.name for card in cards), FINISH])
    fields: dict[str, Any] = {
        name: (info.annotation, getattr(first, name)) for name, info in Progress.model_fields.items()
    }
    return create_model("Request", __base__=input, **fields)


def refuse_names(steps: Sequence[Step], where: str) -> None:
    """Refuse tools that cannot be told apart.

    Raises:
        StackError: two tools of one name, or one named ``finish``.
    """
    names = [step.name for step in steps]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise StackError(
            "two tools have one name",
            where=where,
            found=", ".join(twins),
            hint="wrap one of them: Step(tool, name='…')",
        )
    if FINISH in names:
        raise StackError(
            "a tool has the name by which a planner ends",
            where=where,
            found=FINISH,
            hint="wrap it: Step(tool, name='…')",
        )


def card_of(step: Step, arguments: type[BaseModel]) -> ToolCard:
    """A tool's card."""
    return ToolCard(name=step.name, description=step.node.description, arguments=signature_of(arguments))


def signature_of(arguments: type[BaseModel]) -> str:
    """Arguments as a person writes them: ``city, day: "today" | "tomorrow"``."""
    try:
        parts = tree_of(arguments).get("properties", {})
    except SchemaError:  # told by the check
        return ", ".join(arguments.model_fields)
    return ", ".join(f"{name}: {labels}" if (labels := _labels(part)) else name for name, part in parts.items())


def _labels(part: Mapping[str, Any]) -> str:
    labels = " | ".join(map(dumps, part.get("enum", ())))
    return labels if len(labels) <= _SHOWN else ""


def prompt_of(input: type[BaseModel], cards: Sequence[ToolCard], finish: str, *, narrowed: bool) -> str:
    """The prompt for those who write none: the tools, the input field by field, and the record.

    Args:
        finish: the arguments of ``finish``, as text.
        narrowed: whether not all tools may be chosen each time; those that may are then listed as data.
    """
    lines = [_text(f"{card.name}({card.arguments}) {card.description}".rstrip()) for card in cards]
    loop = "{% for tool in tools %}{{ tool.name }}({{ tool.arguments }}) {{ tool.description }}\n{% endfor %}"
    tools = loop if narrowed else "".join(f"{line}\n" for line in lines)
    fields = "".join(f"{name}: {{{{ {name} }}}}\n" for name in input.model_fields)
    return (
        "{% block system %}Call one tool at a time, then finish.\n"
        f"{tools}{FINISH}({_text(finish)}){{% endblock %}}\n"
        f"{{% block user %}}{fields}"
        "{% if omitted %}earlier calls left out: {{ omitted }}\n{% endif %}"
        "{% for turn in record %}{{ turn.tool }} {{ turn.arguments }} "
        "{% if turn.failed %}failed{% else %}gave{% endif %} {{ turn.result }}\n{% endfor %}{% endblock %}"
    )


def _text(words: str) -> str:
    """What an author wrote as plain words of a template."""
    return re.sub(r"\{(?=[{%#])", "{ ", words)


def _word(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


__all__ = [
    "ARGUMENTS",
    "AVAILABLE",
    "FINISH",
    "NEXT",
    "PLAN",
    "PROGRESS",
    "Ending",
    "Failure",
    "Progress",
    "ToolCard",
    "Turn",
    "Why",
    "arguments_of",
    "card_of",
    "plan_model",
    "plan_of",
    "prompt_of",
    "refuse_names",
    "request_of",
    "signature_of",
]
