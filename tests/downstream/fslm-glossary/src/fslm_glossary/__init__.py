"""Words of a house glossary."""

WORDS = {"invoice": "bill", "cancellation": "order stop", "escalation": "hand-over"}
