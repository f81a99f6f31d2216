"""The teacher: a stage like any other, with its own prompt and model, that writes a step's messages.

So whatever may run a stage may teach, the message is held to the stage's own schema and narrowing, and its pydantic
validators judge it, all by the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, create_model

from .. import adapter as adapters
from .. import backends
from ..backends.protocol import Backend
from ..engine.models import model_of
from ..errors import TrainError
from ..message import digest
from ..plugins import PluginHost
from ..schema import dumps, plain_data
from ..settings import Settings
from ..stack import INPUT, Stack, Step
from ..stage import SLM, Decoding, Stage
from .recipe import Teacher as Ways
from .recipe import TeacherStep

_VERSION = "fslm-tune/1"
Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One sample to be written: of which step, by which stack of one step, from which input."""

    key: str
    step: str
    stack: Stack[Any, Any]
    input: Json

    @property
    def seed(self) -> int:
        """Decides its tokens; every sample has its own."""
        return int(self.key[:8], 16)


class Teacher:
    """Makes the teacher's stages of a recipe, and the calls of a row.

    Args:
        seed: the recipe's.

    Raises:
        UnknownNameError: there is no such backend.
        MissingExtraError: its packages are not installed.
        AdapterError: the teacher's adapter is not whole.
    """

    def __init__(self, ways: Ways, stack: Stack[Any, Any], settings: Settings, host: PluginHost, seed: int) -> None:
        self.ways, self.stack, self.host, self.seed = ways, stack, host, seed
        self.settings = _settings(ways, settings)
        self.backend: Backend = backends.create(ways.backend, self.settings, extra=host.backends)
        self._local = self.backend.capabilities.weights
        self._stacks: dict[str, Stack[Any, Any]] = {}
        self._by: dict[str, str] = {}
        if ways.adapter is not None:
            adapters.inspect(ways.adapter)
        if not self._local and ways.model is not None:
            stages = [step.node.name for step in stack.steps if isinstance(step.node, Stage)]
            served = {self._named(name): ways.model for name in (*stages, stack.name)}
            server = self.settings.openai.model_copy(update={"models": {**self.settings.openai.models, **served}})
            self.settings = self.settings.model_copy(update={"openai": server})
            self.backend = backends.create(ways.backend, self.settings, extra=host.backends)

    def calls(self, step: Step, fed: BaseModel, known: Json, gold: Json) -> list[Call]:
        """What is asked to have a step's message written for a row.

        Args:
            fed: what the step is given.
            known: fields of the message that the row says.
            gold: the row's output.
        """
        way = self.ways.steps.get(step.name, TeacherStep())
        value = plain_data(fed)
        if way.prompt is not None:
            notes = _fields(step.stage)
            value = {**value, "gold": gold, "known": json.dumps(known, ensure_ascii=False), "fields": notes}
        stack = self._stack(step.name, lambda: self._writer(step, way))
        narrowed = step.stage.narrowed(fed).text
        return [
            Call(self._key(step.name, value, narrowed, str(sample)), step.name, stack, value)
            for sample in range(self.ways.samples)
        ]

    def answer(self, step: Step, input: BaseModel, message: Json) -> Call:
        """What is asked to see what output follows from a step's message."""
        name = f"{step.name}.answer"
        value = {**plain_data(input), "message": message}
        stack = self._stack(name, lambda: self._answerer(step))
        return Call(self._key(name, value), step.name, stack, value)

    # -- stages ------------------------------------------------------------------------------------------------------

    def _writer(self, step: Step, way: TeacherStep) -> Stage[Any, Any]:
        stage = step.stage
        given = stage.input
        if way.prompt is not None:
            given = _extended(stage.input, {"gold": self.stack.output, "known": str, "fields": str}, step.name)
        return Stage(
            self._named(stage.name),
            input=given,
            output=stage.output,
            prompt=stage.prompt if way.prompt is None else way.prompt,
            model=self._model(stage),
            variants=stage.variants if self.ways.model is None else None,
            decoding=replace(self._decoding, max_tokens=stage.decoding.max_tokens),
            narrow=stage.narrow,
        )

    def _answerer(self, step: Step) -> Stage[Any, Any]:
        assert self.ways.answer_prompt is not None
        return Stage(
            f"teacher.{self.stack.name}",
            input=_extended(self.stack.input, {"message": step.stage.output}, step.name),
            output=self.stack.output,
            prompt=self.ways.answer_prompt,
            model=self._model(step.stage),
            decoding=Decoding(),
        )

    def _model(self, stage: Stage[Any, Any]) -> SLM:
        assert stage.model is not None
        if self.ways.model is None:
            return stage.model
        base = self.ways.model if self._local else stage.model.base
        return SLM(base, adapter=self.ways.adapter, tuned=True)

    @property
    def _decoding(self) -> Decoding:
        return Decoding(temperature=self.ways.temperature, top_p=self.ways.top_p)

    def _named(self, name: str) -> str:
        """The name under which the teacher is asked; a step's own model is asked under its own, as the settings know
        it."""
        return name if self.ways.model is None else f"teacher.{name}"

    def _stack(self, name: str, make: Callable[[], Stage[Any, Any]]) -> Stack[Any, Any]:
        if name not in self._stacks:
            stage = make()
            self._stacks[name] = alone(stage)
            model = model_of(stage, self.host, self.settings, self.backend.capabilities)
            self._by[name] = digest(
                _VERSION,
                stage.fingerprint(
                    checkpoint=self.ways.model or model.slm.base,
                    adapter=model.adapter.identity if model.adapter else None,
                    backend=self.ways.backend,
                ),
                str(self.seed),
            )
        return self._stacks[name]

    def _key(self, name: str, value: Json, *parts: str) -> str:
        return digest(self._by[name], name, dumps(value), *parts)


def alone(stage: Stage[Any, Any]) -> Stack[Any, Any]:
    """A stack that has this stage alone."""
    return Stack(
        "tune.teacher",
        input=stage.input,
        output=stage.output,
        steps=[Step(stage, name="message", bind={name: f"{INPUT}.{name}" for name in stage.input.model_fields})],
        bind={name: f"message.{name}" for name in stage.output.model_fields},
    )


def _settings(ways: Ways, settings: Settings) -> Settings:
    """The settings with the recipe's server, where it names one."""
    own = {"base_url": ways.base_url, "api_key_env": ways.api_key_env}
    server = settings.openai.model_copy(update={name: value for name, value in own.items() if value is not None})
    return settings.model_copy(update={"openai": server, "backend": ways.backend, "locked": False})


def _extended(model: type[BaseModel], more: Mapping[str, Any], step: str) -> type[BaseModel]:
    """A step's input with what the teacher is told besides.

    Raises:
        TrainError: the input has a field of such a name.
    """
    if taken := [name for name in more if name in model.model_fields]:
        raise TrainError(
            "the input has a field that the teacher's template needs for itself",
            where=f"step {step}",
            found=", ".join(taken),
            expected=f"no field named {', '.join(more)}",
            hint="leave the teacher's prompt out, so that the stage's own is used",
        )
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in more.items()}
    return create_model(model.__name__, __base__=model, **fields)


def _fields(stage: Stage[Any, Any]) -> str:
    """A message's fields for a teacher: name, what it may be, and the model's own description."""
    properties = stage.schema.tree.get("properties", {})
    lines = []
    for name, info in stage.output.model_fields.items():
        choices = properties.get(name, {}).get("enum")
        parts = [info.description, "one of " + ", ".join(map(json.dumps, choices)) if choices else None]
        told = "; ".join(part for part in parts if part)
        lines.append(f"{name}: {told}" if told else name)
    return "\n".join(lines)


__all__ = ["Call", "Teacher", "alone"]
