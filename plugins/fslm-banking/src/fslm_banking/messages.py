"""What passes between the stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

TopicLabel = Literal[
    "account_blocked",
    "balance",
    "bill_balance",
    "bill_due",
    "freeze_account",
    "interest_rate",
    "min_payment",
    "order_checks",
    "pay_bill",
    "pin_change",
    "report_fraud",
    "routing",
    "spending_history",
    "transactions",
    "transfer",
]


class BankingInput(BaseModel):
    """What a customer asks."""

    text: Annotated[str, Field(min_length=1)]


class Topic(BaseModel):
    """What it is about."""

    topic: TopicLabel


__all__ = ["BankingInput", "Topic"]
