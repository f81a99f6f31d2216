"""Support triage: what is a customer's message about, what does the customer want, and about which order?"""

from __future__ import annotations

from typing import Any

from fslm_core import SLM, Stack, Stage, Step, files, hookimpl

from .messages import CategorisedEnquiry, Category, Details, Enquiry, Intent, Ticket

here = files(__name__)

category = Stage(
    "support.category",
    input=Enquiry,
    output=Category,
    prompt=here / "category/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "category/adapter"),
    description="What a message is about; OTHER where it is no support request.",
)
intent = Stage(
    "support.intent",
    input=CategorisedEnquiry,
    output=Intent,
    prompt=here / "intent/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "intent/adapter"),
    narrow={"intent": "intents"},
    description="What the customer wants, of what the category has to offer.",
)
details = Stage(
    "support.details",
    input=CategorisedEnquiry,
    output=Details,
    prompt=here / "details/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "details/adapter"),
    description="The order, invoice, amount, person, place or account a message names, as written.",
)

SUPPORT_ONLY = "category.category != 'OTHER'"
triage = Stack(
    "support",
    input=Enquiry,
    output=Ticket,
    steps=[category, Step(intent, when=SUPPORT_ONLY), Step(details, when=SUPPORT_ONLY)],
    description="A ticket from a customer's message: category, intent, and the one detail it names.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [category, intent, details]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [triage]
