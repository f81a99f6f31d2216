"""The fields of a message as a form, and what somebody changed in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..explain.drawing import compact
from ..schema import loads
from ..store import StoredContent

FIELD = "field."
"""Before a field's name, in the names of a form."""
LONGEST = 20_000
"""Characters of a value that is edited in a form; of a longer one the command line changes a part."""
_LINE_ENDS = re.compile("\r\n?")


def editable(content: StoredContent | None) -> bool:
    """Whether a message can be edited: it was kept as it was, and has fields."""
    return content is not None and content.kind == "full" and isinstance(content.data, dict)


def written(value: Any) -> str:
    """A value as it stands in a form: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else compact(value)


def fits(value: Any) -> bool:
    """Whether a value is short enough to be edited in a form."""
    return len(written(value)) <= LONGEST


def changed(content: StoredContent, form: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a form says otherwise than the message, with their new values.

    A text stays a text; where something else was, what can be read as JSON is, as ``--set`` of the command line does.
    """
    found: dict[str, Any] = {}
    for name, value in content.data.items():
        given = form.get(FIELD + name)
        if given is None or _sent(given) == _sent(written(value)):
            continue
        found[name] = _LINE_ENDS.sub("\n", given) if isinstance(value, str) else _read(given)
    return found


def _sent(text: str) -> str:
    """A text as it comes out of a browser: lines end in one way, and some characters cannot be sent."""
    return _LINE_ENDS.sub("\n", text.encode("utf-8", "replace").decode().replace("\0", "\ufffd"))


def _read(text: str) -> Any:
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return text


__all__ = ["FIELD", "changed", "editable", "fits", "written"]
