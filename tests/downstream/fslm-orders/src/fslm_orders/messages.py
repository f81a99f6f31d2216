"""What passes between the steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

OrderId = Annotated[str, Field(pattern=r"^[A-Z]{2}-[0-9]{4}$", max_length=7)]
Reason = Literal["late", "damaged", "cancel", "other"]


class Letter(BaseModel):
    """What a customer wrote."""

    text: Annotated[str, Field(min_length=1, max_length=2000)]


class Found(BaseModel):
    """The order it is about, if it names one."""

    order: OrderId | None


class About(BaseModel):
    """A letter and its order."""

    text: str
    order: OrderId | None


class Why(BaseModel):
    """Why the customer writes."""

    reason: Reason
    quote: Annotated[str, Field(min_length=1, max_length=40)]


class Case(BaseModel):
    """What the desk works with."""

    order: OrderId | None
    reason: Reason | None
    quote: str | None


__all__ = ["About", "Case", "Found", "Letter", "Reason", "Why"]
