"""What shapes are given and give, for type checkers: where neither ``input`` nor ``output`` is named, any model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from typing_extensions import TypeVar  # its default (PEP 696) is new in Python 3.13

In = TypeVar("In", bound=BaseModel, default=Any)
Out = TypeVar("Out", bound=BaseModel, default=Any)

__all__ = ["In", "Out"]
