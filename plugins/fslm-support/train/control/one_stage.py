"""The control with a language model: one adapter that writes the whole ticket in one stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fslm_core import SLM, Stack, Stage, hookimpl
from fslm_support.messages import Enquiry, Ticket

here = Path(__file__).parent

ticket = Stage(
    "support.ticket",
    input=Enquiry,
    output=Ticket,
    prompt="{% block system %}ticket{% endblock %}{% block user %}{{ text }}{% endblock %}",
    model=SLM(base="smollm2-135m", adapter=here / "adapter"),
    description="The whole ticket at once.",
)
single = Stack("support.single", input=Enquiry, output=Ticket, steps=[ticket])


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [ticket]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [single]
