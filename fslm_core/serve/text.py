"""JSON as text that a terminal cannot take for anything but text."""

from __future__ import annotations

import json
import re
from typing import Any

UNSEEN = (
    "\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
"""Above ASCII, what a terminal acts on or nobody can see, as a part of a regular expression's class: the Unicode
categories Cc, Cf, Cs, Zl and Zp, but for the two joiners that emoji and several scripts need."""
_UNSAFE = re.compile(f"[{UNSEEN}]")


def as_json(data: Any, *, indent: int | None = 2) -> str:
    """Return JSON that keeps letters as they are and escapes what a terminal would obey.

    >>> as_json({"a": "\\x9b31m é"})
    '{\\n  "a": "\\\\u009b31m é"\\n}'
    """
    text = json.dumps(data, ensure_ascii=False, indent=indent, allow_nan=False)
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """A character as JSON escapes it, in two halves where it is beyond U+FFFF."""
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2]):04x}" for i in range(0, len(units), 2))


__all__ = ["UNSEEN", "as_json"]
