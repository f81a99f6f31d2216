"""JSON as text that a terminal cannot take for anything but text."""

from __future__ import annotations

import json
import re
from typing import Any

_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def as_json(data: Any, *, indent: int | None = 2) -> str:
    """Return JSON that keeps letters as they are and escapes what a terminal would obey.

    >>> as_json({"a": "\\x9b31m é"})
    '{\\n  "a": "\\\\u009b31m é"\\n}'
    """
    text = json.dumps(data, ensure_ascii=False, indent=indent, allow_nan=False)
    return _UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


__all__ = ["as_json"]
