"""A plugin for the tests of reviews: a cascade of two tools, each as sure as the letter says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from fslm_core import Cascade, Scored, Stack, hookimpl, tool


class Letter(BaseModel):
    """``0.6 praise 0.9``: how sure the first tool is, what it says, and how sure the second is."""

    text: str = Field(max_length=100)


class Kind(BaseModel):
    kind: Literal["praise", "complaint"]


@tool("desk.small", version="1", pure=True)
def small(letter: Letter) -> Scored[Kind]:
    """Say what the letter says."""
    sure, kind, _ = letter.text.split()
    return Scored(Kind.model_validate({"kind": kind}), {"kind": float(sure)})


@tool("desk.large", version="1", pure=True)
def large(letter: Letter) -> Scored[Kind]:
    """Say that it is praise."""
    return Scored(Kind(kind="praise"), {"kind": float(letter.text.split()[2])})


@hookimpl
def fslm_stages() -> list[object]:
    return [small, large]


@hookimpl
def fslm_stacks() -> list[object]:
    sure: Cascade[Letter, Kind] = Cascade("desk.sure", [small, large], abstain_below={"kind": 0.8})
    return [Stack("desk", input=Letter, output=Kind, steps=[sure])]
