"""A pydantic model, its normalised JSON Schema, and one canonical text for each of its values.

Grammar and training targets both come from here: the schema is closed, every field is required and in declared
order, and every string, array and number is bounded, so that the longest output is known before anything is written.

>>> from pydantic import BaseModel
>>> class Answer(BaseModel):
...     polite: bool
>>> canonical(Answer(polite=True)), normalise(Answer).max_bytes
('{"polite":true}', 16)
"""

from __future__ import annotations

from .canonical import canonical, dumps, field_spans, loads, plain_data
from .fit import parts_of
from .normal import Schema, content_id, normalise, parse, problems_of, schema_id_of, tree_of
from .sensitive import is_denied, sensitive_fields

__all__ = [
    "Schema",
    "canonical",
    "content_id",
    "dumps",
    "field_spans",
    "is_denied",
    "loads",
    "normalise",
    "parse",
    "parts_of",
    "plain_data",
    "problems_of",
    "schema_id_of",
    "sensitive_fields",
    "tree_of",
]
