"""One step's maker: input model, prompt, small language model (or a Python function), output model."""

from __future__ import annotations

import importlib.resources
import inspect
import math
import os
import re
import sys
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel

from .errors import PromptError, SchemaError, StageError, UnknownNameError
from .lazy import lazy
from .message import digest
from .prompt import Prompt, Template, variables_of
from .schema import Schema, normalise, parts_of, schema_id_of

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")


@dataclass(frozen=True, slots=True)
class SLM:
    """A small language model: a base checkpoint, and the adapter that makes it a specialist.

    Attributes:
        base: a checkpoint's name (``smollm2-135m``, ``hf:owner/name@revision``) or a folder.
        adapter: a PEFT LoRA folder; None runs the checkpoint as it is.
        tuned: say True for a fully fine-tuned checkpoint without an adapter; otherwise it shows as ``untuned``.
        sha256: of the adapter's weights, hex; checked on load where given.

    >>> SLM("smollm2-135m").untuned
    True
    >>> SLM("smollm2-135m", adapter=Path("intent/adapter")).untuned
    False
    """

    base: str
    adapter: Path | None = None
    tuned: bool = False
    sha256: str | None = None

    @property
    def untuned(self) -> bool:
        """True for a bare checkpoint that nobody says was tuned for its stage."""
        return self.adapter is None and not self.tuned


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an output is written.

    Attributes:
        max_tokens: at most this many output tokens; None for the longest output the schema allows.
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens that together have this probability.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        attempts: how often to try; more than one is of use only with a temperature above 0.
        on_overflow: ``error``, or ``truncate`` the data of a prompt that does not fit (and record it).

    >>> Decoding(temperature=0.7, attempts=3).max_tokens is None
    True
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    attempts: int = 1
    on_overflow: Literal["error", "truncate"] = "error"

    def __post_init__(self) -> None:
        rules = [
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("attempts", self.attempts >= 1, "at least 1"),
            ("on_overflow", self.on_overflow in ("error", "truncate"), "'error' or 'truncate'"),
        ]
        for name, holds, expected in rules:
            if not holds:
                raise StageError(
                    f"{name} is out of range",
                    where=f"Decoding({name}=…)",
                    found=getattr(self, name),
                    expected=expected,
                    hint="leave it out for the usual value",
                )
        if self.attempts > 1 and self.temperature == 0:
            raise StageError(
                "more than one attempt with a temperature of 0 would write the same text again",
                where="Decoding(attempts=…)",
                found=f"attempts={self.attempts}, temperature=0",
                hint="set Decoding(temperature=…) above 0, or attempts=1",
            )


@dataclass(frozen=True, slots=True)
class Scored(Generic[Out]):
    """What a tool stage may return beside its output: a confidence for each top-level field, 0 to 1.

    >>> class Topic(BaseModel):
    ...     topic: str
    >>> Scored(Topic(topic="loan"), {"topic": 0.93}).confidence["topic"]
    0.93
    """

    output: Out
    confidence: Mapping[str, float]


ToolFunction = Callable[[In], "Out | Scored[Out] | Awaitable[Out] | Awaitable[Scored[Out]]"]


@dataclass(frozen=True, slots=True)
class Tool(Generic[In, Out]):
    """The Python function of a tool stage.

    Attributes:
        function: takes the input instance; sync functions run on a worker thread, or, with a ``timeout`` or
            ``isolated``, in a worker process (so the function and its models must be importable by name).
        version: changes when the function's results would; part of the fingerprint.
        pure: its result depends on its input alone, so it may be reused.
        timeout: seconds, or None.
        isolated: it runs in a worker process, whatever else: one that ends its process ends no other.

    Raises:
        StageError: a timeout that is none, a version that is no text, or an async function that is to be isolated.
    """

    function: ToolFunction[In, Out]
    version: str
    pure: bool = False
    timeout: float | None = None
    isolated: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.version, str):
            raise StageError(
                "a tool's version is text that changes when its results would",
                where="@tool(version=…)",
                found=self.version,
                expected="text, as in '1'",
                hint="begin with version='1'",
            )
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise StageError(
                "a tool's timeout is out of range",
                where="@tool(timeout=…)",
                found=self.timeout,
                expected="seconds above 0",
                hint="leave it out where there is no bound",
            )
        if self.isolated and self.asynchronous:
            raise StageError(
                "an async tool runs on the engine's loop and cannot be isolated",
                where="@tool(isolated=True)",
                found=f"async def {getattr(self.function, '__name__', '…')}",
                hint="make it a plain function, or leave isolated out",
            )

    @property
    def asynchronous(self) -> bool:
        """Whether the function is awaited on the engine's loop."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def in_process(self) -> bool:
        """Whether the function runs in a worker process."""
        return not self.asynchronous and (self.isolated or self.timeout is not None)

    def unreachable(self) -> str | None:
        """Why a worker process could not find the function by its name; None where it could, or need not."""
        if not self.in_process:
            return None
        function: Any = self.function
        module, name = function.__module__, function.__qualname__
        why = f"it runs in a worker process, which finds it by name, and {module}.{name} "
        found: Any = sys.modules.get(module)
        if found is None or (module == "__main__" and not hasattr(found, "__file__")):
            return why + "is in no module that can be imported; put it into a file"
        for part in name.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, Stage) or found.tool is None or found.tool.function is not function:
            return why + "is not the tool; define it with @tool at the top of its module"
        return None


class Stage(Generic[In, Out]):
    """A stage: what a plugin offers and a stack arranges.

    Args:
        name: dotted lower-case words; in a plugin, its entry-point name or that name and a dot first.
        input: the pydantic model whose fields the template may use.
        output: the pydantic model the SLM writes.
        prompt: a template file (``files(__name__) / "prompt.jinja"``), or the template itself as a string.
        model: what runs it.
        decoding: how it writes.
        narrow: output field to a dotted path on the input (properties count) that gives the values allowed this time. A
            dotted field lies in an object, or in those of a list: ``{"slots.name": "service.slot_names"}``. An index
            leads to one item of a list: ``{"steps[0]": "beginnings"}``.
        variants: other models for the same stage by name, chosen by a settings profile.
        description: one sentence for people.
        tool: set by :func:`tool`; in place of prompt and model.

    Raises:
        StageError: a bad name, or parts that contradict each other.

    >>> class Review(BaseModel):
    ...     text: str
    >>> class Opinion(BaseModel):
    ...     sentiment: Literal["good", "mixed", "bad"]
    >>> opinion = Stage("reviews.opinion", input=Review, output=Opinion, prompt="{{ text }}", model=SLM("smollm2-135m"))
    >>> [span.text for span in opinion.render(Review(text="It leaks.")).spans]
    ['It leaks.']
    >>> opinion.schema.tree["properties"]
    {'sentiment': {'enum': ['good', 'mixed', 'bad']}}
    """

    def __init__(
        self,
        name: str,
        *,
        input: type[In],
        output: type[Out],
        prompt: Path | str | None = None,
        model: SLM | None = None,
        decoding: Decoding = Decoding(),
        narrow: Mapping[str, str] | None = None,
        variants: Mapping[str, SLM] | None = None,
        description: str = "",
        tool: Tool[In, Out] | None = None,
    ) -> None:
        self.name = name
        self.input = input
        self.output = output
        self.prompt = prompt
        self.model = model
        self.decoding = decoding
        self.narrow = dict(narrow or {})
        self.variants = dict(variants or {})
        self.description = description
        self.tool = tool
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        where = f"stage {self.name}"
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise StageError(
                "a stage's name is dotted lower-case words",
                where="@tool(…)" if self.tool is not None else "Stage(…)",
                found=self.name,
                expected="letters, digits, '-', '_' and dots, as in 'support.intent'",
                hint="begin it with the plugin's name",
            )
        for label, kind in (("input", self.input), ("output", self.output)):
            if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                raise StageError(
                    f"{label} is not a pydantic model", where=where, found=kind, hint=f"pass the class: {label}=MyModel"
                )
        if self.tool is None and (self.prompt is None or self.model is None):
            raise StageError("a stage needs a prompt and a model", where=where, hint="or make a tool stage with @tool")
        if self.tool is not None and (
            self.prompt is not None or self.model is not None or self.variants or self.narrow
        ):
            raise StageError(
                "a tool stage has no prompt, model, variants or narrowing", where=where, hint="leave them out"
            )
        for field in self.narrow:
            if parts_of(field)[0] not in self.output.model_fields:
                raise StageError(
                    "narrow names a field the output does not have",
                    where=where,
                    found=field,
                    expected=", ".join(self.output.model_fields),
                    hint="correct the field's name in narrow=…",
                )

    def __repr__(self) -> str:
        return f"Stage({self.name!r}, {self.input.__name__} -> {self.output.__name__})"

    @lazy
    def template(self) -> Template:
        """The compiled prompt template.

        Raises:
            PromptError: it cannot be read or does not parse.
        """
        if self.prompt is None:
            raise PromptError("a tool stage has no prompt", where=f"stage {self.name}", hint="look at stage.tool first")
        if isinstance(self.prompt, str):
            return Template(self.prompt, name=f"prompt of {self.name}")
        try:
            source = self.prompt.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise PromptError(
                f"the prompt template cannot be read: {error}",
                where=f"stage {self.name}",
                hint="ship the file with the plugin (package data in pyproject.toml)",
            ) from None
        return Template(source, name=os.fspath(self.prompt.name))

    @lazy
    def schema(self) -> Schema:
        """The normalised output schema.

        Raises:
            SchemaError: the output model cannot be expressed or has no bound.
        """
        return normalise(self.output)

    @property
    def max_tokens(self) -> int:
        """The bound on output tokens: as set, else the longest canonical text in bytes (a token is a byte or more)."""
        return self.decoding.max_tokens or self.schema.max_bytes

    def render(self, input: In) -> Prompt:
        """Render the prompt of one input; running and training both call this.

        Raises:
            PromptError: the template fails on this input.
        """
        return self.template.render(variables_of(input), where=f"stage {self.name}")

    def narrowed(self, input: In) -> Schema:
        """The output schema as narrowed by this input; the static one where the stage narrows nothing.

        Raises:
            SchemaError: the input widens it, leaves nothing, or has no such path.
        """
        return self.schema.narrow(
            {field: _reach(input, path, self.name) for field, path in self.narrow.items()}, where=f"stage {self.name}"
        )

    def variant(self, name: str | None) -> tuple[SLM, str | None]:
        """The model of the variant ``name`` and that name; the stage's own and None if it has no such variant.

        Raises:
            StageError: this is a tool stage.
        """
        if self.model is None:
            raise StageError("a tool stage has no model", where=f"stage {self.name}", hint="look at stage.tool first")
        if name is not None and name in self.variants:
            return self.variants[name], name
        return self.model, None

    def fingerprint(self, *, checkpoint: str | None, adapter: str | None, backend: str) -> str:
        """Hash of all that decides what the stage writes.

        Args:
            checkpoint: SHA-256 of the checkpoint (weights and tokenizer).
            adapter: SHA-256 of the adapter: its weights, and what its configuration makes of them.
            backend: the backend's name.
        """
        if self.tool is not None:
            made_by: list[str | None] = ["tool", self.tool.version]
        else:
            made_by = [
                "slm",
                checkpoint,
                adapter,
                self.template.source,
                repr(self.decoding),
                repr(sorted(self.narrow.items())),
                backend,
            ]
        return digest(self.name, schema_id_of(self.input), schema_id_of(self.output), *made_by)


def tool(
    name: str,
    *,
    version: str,
    pure: bool = False,
    timeout: float | None = None,
    isolated: bool = False,
    description: str = "",
) -> Callable[[Callable[[In], Any]], Stage[In, Any]]:
    """Make a tool stage of a function with annotated input and output models.

    Args:
        name: the stage's name.
        version: changes when the function's results would.
        pure: its result depends on its input alone.
        timeout: seconds after which the call is stopped; a sync function then runs in a worker process.
        isolated: run a sync function in a worker process in any case: one that may crash, or eat the memory.
        description: one sentence for people; the docstring's first line where empty.

    Raises:
        StageError: the function does not take exactly one pydantic model and return one, or as :class:`Tool`.

    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1", pure=True)
    ... def shout(message: Text) -> Text:
    ...     'Say it louder.'
    ...     return Text(text=message.text.upper())
    >>> shout
    Stage('demo.shout', Text -> Text)
    >>> shout.description
    'Say it louder.'
    """

    def make(function: Callable[[In], Any]) -> Stage[In, Any]:
        where = f"tool stage {name}"
        try:
            hints = typing.get_type_hints(function)
        except NameError as error:
            raise StageError(
                f"an annotation cannot be resolved: {error}",
                where=where,
                hint="define or import its models at the top of the module, not under TYPE_CHECKING",
            ) from None
        parameters = list(inspect.signature(function).parameters)
        input_, output = hints.get(parameters[0]) if len(parameters) == 1 else None, hints.get("return")
        if typing.get_origin(output) is Scored:
            (output,) = typing.get_args(output)
        if input_ is None or output is None:
            raise StageError(
                "a tool takes one annotated model and returns one",
                where=where,
                found=f"def {function.__name__}{inspect.signature(function)}",
                expected="def f(message: In) -> Out (or -> Scored[Out])",
                hint="annotate the one parameter and what is returned",
            )
        doc = (inspect.getdoc(function) or "").partition("\n")[0]
        made = Stage(
            name,
            input=cast("type[In]", input_),
            output=output,
            description=description or doc,
            tool=Tool(function, version, pure, timeout, isolated),
        )
        return made

    return make


def files(package: str) -> Path:
    """The folder of an installed package, for the prompts and adapters shipped in it: ``files(__name__)``.

    Raises:
        StageError: the package is not a real folder (a zip, say).

    >>> (files("fslm_core") / "py.typed").is_file()
    True
    """
    place = importlib.resources.files(package)
    if not isinstance(place, Path):
        raise StageError(
            "a plugin must be installed as files",
            where=package,
            found=type(place).__name__,
            hint="install its wheel with pip",
        )
    return place


def _reach(input: BaseModel, path: str, stage: str) -> list[object]:
    value: Any = input
    for part in path.split("."):
        if part.startswith("_") or not hasattr(value, part):
            raise SchemaError(
                "narrow follows a path the input does not have",
                where=f"stage {stage}",
                found=path,
                hint="name a field of the input, or dotted fields below it",
            )
        value = getattr(value, part)
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def by_name(stages: Iterable[Stage[Any, Any]], name: str) -> Stage[Any, Any]:
    """Find a stage.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = {stage.name: stage for stage in stages}
    if name not in known:
        raise UnknownNameError.of("stage", name, known)
    return known[name]


__all__ = ["SLM", "Decoding", "Scored", "Stage", "Tool", "by_name", "files", "tool"]
