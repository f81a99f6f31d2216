"""What a stage reads and writes, tried on made-up values: its template, its schema, its canonical text; and tools."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.errors import FailedHealthCheck, Unsatisfiable
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from ..errors import FslmError
from ..schema import Schema, canonical, parse, plain_data
from ..stack import Stack
from ..stage import Stage
from .broken import ContractBroken
from .engine import KitEngine


def for_every(values: SearchStrategy[Any], check: Callable[[Any], None], max_examples: int) -> None:
    """Call ``check`` with many values; the smallest for which it raises is told with the error.

    Raises:
        ContractBroken: ``check`` raised it; or hardly any value can be made.
    """

    @settings(
        max_examples=max_examples,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(values)
    def every(value: Any) -> None:
        check(value)

    try:
        every()
    except (FailedHealthCheck, Unsatisfiable) as error:
        raise ContractBroken(
            f"too few values can be made up of the model: {error}",
            hint="say how to make them, in the test class: inputs = st.builds(…), or outputs",
        ) from None


def check_template(stage: Stage[Any, Any], inputs: SearchStrategy[Any], max_examples: int) -> None:
    """The template renders for every input, and leaves no turn of the user empty.

    Raises:
        ContractBroken: it fails for an input, which the error's notes tell.
    """

    def renders(value: BaseModel) -> None:
        try:
            prompt = stage.render(value)
        except FslmError as error:
            raise ContractBroken(
                f"the template fails on an input: {error.what}",
                where=f"stage {stage.name}",
                found=error.found,
                hint=error.hint,
            ) from error
        if not prompt.spans:
            raise ContractBroken(
                "the template renders to nothing", where=f"stage {stage.name}", hint="let it show a field of the input"
            )

    for_every(inputs, renders, max_examples)


def check_grammar(stage: Stage[Any, Any]) -> None:
    """The output schema is bounded and compiles to a grammar, where llguidance is installed.

    Raises:
        ContractBroken: it is not, or does not.
    """
    try:
        complaint = stage.schema.grammar_error()
    except FslmError as error:
        raise ContractBroken(
            f"the output model has no schema: {error.what}", where=f"stage {stage.name}, {error.where}",
            found=error.found, hint=error.hint,
        ) from error  # fmt: skip
    if complaint:
        raise ContractBroken(
            f"the grammar cannot express {stage.output.__name__}: {complaint}",
            where=f"stage {stage.name}",
            hint="use simpler types, or a validator in place of a pattern",
        )


def check_round_trip(stage: Stage[Any, Any], outputs: SearchStrategy[Any], max_examples: int) -> None:
    """Every output's canonical text fits the schema, can be written by the grammar, and is read back as the same.

    Raises:
        ContractBroken: an output does not, which the error's notes tell.
    """
    schema = stage.schema
    writable = _writable(schema)

    def comes_back(value: BaseModel) -> None:
        where = f"stage {stage.name}"
        text = canonical(value)
        if problems := schema.problems(plain_data(value)):
            raise ContractBroken(
                f"an output is written otherwise than its schema says: {problems[0]}",
                where=where,
                found=text,
                hint="let serialisers and validators keep within the schema",
            )
        back = parse(text, stage.output, schema)
        if isinstance(back, list) or back != value or canonical(back) != text:
            raise ContractBroken(
                "the canonical text is not read back as what was written",
                where=where,
                found=text,
                expected="; ".join(map(str, back)) if isinstance(back, list) else canonical(back),
                hint="let validators accept what they have made: each must leave its own result as it is",
            )
        if not writable(text):
            raise ContractBroken(
                "the grammar cannot write an output that the model accepts",
                where=where,
                found=text,
                hint="report it with the model; meanwhile use a plainer type",
            )

    for_every(outputs, comes_back, max_examples)


def _writable(schema: Schema) -> Callable[[str], bool]:
    """Whether the schema's grammar, fed byte by byte, accepts a text; everything, where llguidance is not installed."""
    try:
        import llguidance
    except ImportError:
        return lambda text: True
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema.text, defaults={"whitespace_flexible": False})

    def accepts(text: str) -> bool:
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        return all(matcher.consume_token(byte) for byte in text.encode()) and bool(matcher.is_accepting())

    return accepts


def check_version(stage: Stage[Any, Any]) -> None:
    """A tool stage says its version, by which caches and traces tell its results apart.

    Raises:
        ContractBroken: the version is empty.
    """
    if stage.tool is not None and not str(stage.tool.version).strip():
        raise ContractBroken(
            "the tool has no version",
            where=f"stage {stage.name}",
            hint='write @tool(…, version="1"), and another one whenever its results change',
        )


def check_importable(stage: Stage[Any, Any]) -> None:
    """A tool with a timeout, or to be isolated, can be found by name, as its worker process has to find it.

    Raises:
        ContractBroken: no module has it under its function's name.
    """
    tool = stage.tool
    if tool is None or not tool.in_process:
        return
    module, name = tool.function.__module__, tool.function.__qualname__
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not stage:
        raise ContractBroken(
            "the tool runs in a worker process, which cannot find it by name",
            where=f"stage {stage.name}",
            found=f"{module}.{name} is {type(found).__name__}",
            expected="the tool stage itself",
            hint="define it at the top of its module with @tool, under the function's own name",
        )


def check_pure(stage: Stage[Any, Any], stack: Stack[Any, Any], inputs: SearchStrategy[Any], max_examples: int) -> None:
    """A tool that is said to be pure gives the same output for the same input, on a real engine.

    Args:
        stack: one that has this stage alone.

    Raises:
        ContractBroken: it gave two answers for one input, which the error's notes tell.
    """
    if stage.tool is None or not stage.tool.pure:
        return
    with KitEngine([stack], trace=False) as engine:

        def same(value: BaseModel) -> None:
            first, second = (_answer(engine, stack, value) for _ in range(2))
            if first != second:
                raise ContractBroken(
                    "the tool is said to be pure, but gives two answers for one input",
                    where=f"stage {stage.name}",
                    found=f"{first}, then {second}",
                    hint="leave time, chance and state out of it, or say pure=False",
                )

        for_every(inputs, same, max_examples)


def _answer(engine: KitEngine, stack: Stack[Any, Any], value: BaseModel) -> str:
    outcome = engine.outcome(stack, value)
    return canonical(outcome.output) if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"


__all__ = [
    "check_grammar",
    "check_importable",
    "check_pure",
    "check_round_trip",
    "check_template",
    "check_version",
    "for_every",
]
