"""A stack that is full of leaks: whatever can quote a value quotes one. The tests look where it comes out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from fslm_core import SLM, Stack, Stage, hookimpl, tool
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import BackendError, InputError
from fslm_core.events import Event
from fslm_core.message import Problem
from fslm_core.stage import Decoding, Scored

SECRET: dict[str, Any] = {"sensitive": True}
NO_SECRET: dict[str, Any] = {"sensitive": False}
Do = Literal["pass", "raise", "fslm", "exit", "wait", "backend", "invalid", "number"]


class Contact(BaseModel):
    city: str = Field("Ghent", max_length=40)
    phone: str = Field(max_length=80, json_schema_extra=SECRET)


class Case(BaseModel):
    """What is given. ``note`` is for texts that nothing marks and that say nothing of it."""

    do: Do = "pass"
    note: str = Field("", max_length=400, json_schema_extra=NO_SECRET)
    name: str = Field(max_length=200, json_schema_extra=SECRET)
    number: int = Field(json_schema_extra=SECRET)
    contact: Contact
    tags: list[str] = Field(max_length=5, json_schema_extra=SECRET)

    @field_validator("name")
    @classmethod
    def _no_digits(cls, name: str) -> str:
        if name.endswith("!"):
            raise ValueError(f"{name} shouts")
        return name


class Careless(BaseModel):
    """A stage's own words for it, which mark nothing."""

    do: Do
    name: str = Field(max_length=200)
    number: int
    contact: Contact
    tags: list[str] = Field(max_length=5)


class Copied(BaseModel):
    """Everything somewhere else, in other shapes."""

    greeting: str
    shouted: str
    quoted: str
    several: list[str]
    amount: int
    deep: dict[str, list[str]]


class Written(BaseModel):
    answer: str = Field(max_length=400)
    tag: str = Field(max_length=200)

    @field_validator("answer")
    @classmethod
    def _polite(cls, answer: str) -> str:
        if "bad" in answer:
            raise ValueError(f"it says {answer}")
        return answer


class Result(BaseModel):
    greeting: str
    answer: str
    tag: str
    name: str = Field(max_length=200, json_schema_extra=SECRET)


@tool("canary.copy", version="1")
async def copy(case: Careless) -> Scored[Copied]:
    """Copy, or end as told."""
    told = f"{case.name}, {case.number}, {case.contact.phone} and {case.tags}"
    if case.do == "raise":
        raise ValueError(f"nothing known of {told}") from KeyError(case.name)
    if case.do == "fslm":
        problem = InputError(f"no {told}", where=case.name, found=told, expected=told, hint=told)
        problem.add_note(told)
        raise problem
    if case.do == "exit":
        sys.exit(told)
    if case.do == "wait":
        print("waiting", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    if case.do == "number":
        wrong: Any = case.name
        return Scored(Copied.model_construct(greeting=told, amount=wrong, deep={}), {})
    copied = Copied(
        greeting=f"Dear {case.name.upper()}!",
        shouted=case.name.swapcase(),
        quoted=json.dumps(case.model_dump()),
        several=[case.name, f"{case.contact.phone} now", *case.tags],
        amount=case.number,
        deep={case.name: [f"<{case.number}>", case.contact.phone[:-1]]},
    )
    return Scored(copied, {"greeting": 0.5, case.name: 0.5})


write = Stage(
    "canary.write",
    input=Careless,
    output=Written,
    prompt="Write to {{ name|title }} ({{ number }}), {{ contact.phone }}: {{ tags|join(', ') }} {{ do }}",
    narrow={"tag": "tags"},
    model=SLM(base="smollm2-135m", tuned=True),
    decoding=Decoding(temperature=0.5, attempts=2),
)


def written(request: Request) -> str:
    """The first answer is refused by a validator that quotes it, the second says the secret where nothing is marked."""
    said = request.prompt.turns[-1][1]
    tag = json.loads(request.grammar or "{}")["properties"]["tag"]["enum"][0]
    if said.endswith("backend"):
        raise BackendError(f"the server refused: {said}", found=said, hint=said)
    bad = "bad " if said.endswith("invalid") or request.id.endswith("/0") else ""
    return json.dumps({"answer": bad + said[:200], "tag": tag}, ensure_ascii=False, separators=(",", ":"))


STACK = Stack(
    "canary",
    input=Case,
    output=Result,
    steps=[copy, write],
    bind={"greeting": "copy.greeting", "answer": "write.answer", "tag": "write.tag", "name": "input.name"},
)


@hookimpl
def fslm_stages() -> list[object]:
    return [copy, write]


@hookimpl
def fslm_stacks() -> list[object]:
    return [STACK]


@hookimpl
def fslm_backends() -> dict[str, object]:
    return {"canary.scripted": lambda settings: ScriptedBackend({"canary.write": written})}


@hookimpl
def fslm_check_message(stage: object, message: BaseModel) -> list[Problem]:
    said = str(message)
    if "REFUSE" in said:
        raise RuntimeError(said)
    return [Problem(said, said, f"greeting.{said}")] if "ODD" in said else []


@hookimpl
def fslm_observe(event: Event) -> None:
    raise RuntimeError(f"seen {event}")
