"""What passes between the stages: a message comes in, a ticket goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

CategoryName = Literal[
    "ACCOUNT", "CANCELLATION_FEE", "CONTACT", "DELIVERY", "FEEDBACK", "INVOICE",
    "NEWSLETTER", "ORDER", "PAYMENT", "REFUND", "SHIPPING_ADDRESS", "OTHER",
]  # fmt: skip
IntentName = Literal[
    "create_account", "delete_account", "edit_account", "recover_password", "registration_problems", "switch_account",
    "check_cancellation_fee", "contact_customer_service", "contact_human_agent", "delivery_options", "delivery_period",
    "complaint", "review", "check_invoice", "get_invoice", "newsletter_subscription", "cancel_order", "change_order",
    "place_order", "track_order", "check_payment_methods", "payment_issue", "check_refund_policy", "get_refund",
    "track_refund", "change_shipping_address", "set_up_shipping_address",
]  # fmt: skip
EntityType = Literal[
    "account_type", "delivery_city", "delivery_country", "invoice_id", "order_id", "person_name", "refund_amount"
]
EntityValue = Annotated[str, Field(min_length=1, max_length=64)]

INTENTS: dict[CategoryName, tuple[IntentName, ...]] = {
    "ACCOUNT": (
        "create_account", "delete_account", "edit_account",
        "recover_password", "registration_problems", "switch_account",
    ),
    "CANCELLATION_FEE": ("check_cancellation_fee",),
    "CONTACT": ("contact_customer_service", "contact_human_agent"),
    "DELIVERY": ("delivery_options", "delivery_period"),
    "FEEDBACK": ("complaint", "review"),
    "INVOICE": ("check_invoice", "get_invoice"),
    "NEWSLETTER": ("newsletter_subscription",),
    "ORDER": ("cancel_order", "change_order", "place_order", "track_order"),
    "PAYMENT": ("check_payment_methods", "payment_issue"),
    "REFUND": ("check_refund_policy", "get_refund", "track_refund"),
    "SHIPPING_ADDRESS": ("change_shipping_address", "set_up_shipping_address"),
    "OTHER": (),
}  # fmt: skip
"""What a customer of each category may want; OTHER is whatever an online shop's support does not deal with."""


class Enquiry(BaseModel):
    """What a customer wrote."""

    text: Annotated[str, Field(min_length=1)]


class Category(BaseModel):
    """What a message is about."""

    category: CategoryName


class CategorisedEnquiry(Enquiry):
    """A message together with what it is about."""

    category: CategoryName

    @property
    def intents(self) -> tuple[IntentName, ...]:
        """The intents this category has.

        >>> CategorisedEnquiry(text="Where is it?", category="DELIVERY").intents
        ('delivery_options', 'delivery_period')
        """
        return INTENTS[self.category]


class Intent(BaseModel):
    """What the customer wants."""

    intent: IntentName


class Details(BaseModel):
    """The one detail a message names, as written; both fields are null where it names none."""

    entity_type: EntityType | None
    entity_value: EntityValue | None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Details:
        if (self.entity_type is None) != (self.entity_value is None):
            raise ValueError("entity_type and entity_value are given together or not at all")
        return self


class Ticket(BaseModel):
    """The whole ticket; intent and detail are null where the message is no support request."""

    category: CategoryName
    intent: IntentName | None
    entity_type: EntityType | None
    entity_value: EntityValue | None


__all__ = ["INTENTS", "CategorisedEnquiry", "Category", "Details", "Enquiry", "Intent", "Ticket"]
