"""Text as Python source writes it: names made of any words, and strings as a formatter leaves them."""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections.abc import Collection, Iterable
from itertools import count

from pydantic import BaseModel

_LONGEST = 30
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OTHER = re.compile(r"[^a-z0-9]+")


def field_name(words: str, taken: Collection[str] = ()) -> str:
    """Make a field's name of a column's: ASCII, lower case, no keyword, nothing that pydantic or a template claims.

    >>> field_name("Customer Message"), field_name("2nd Größe"), field_name("class"), field_name("数量")
    ('customer_message', 'field_2nd_grosse', 'class_', 'field')
    >>> field_name("Order", taken={"order"})
    'order_2'
    """
    plain = unicodedata.normalize("NFKD", _CAMEL.sub("_", words).replace("ß", "ss")).encode("ascii", "ignore").decode()
    name = _OTHER.sub("_", plain.lower())[:_LONGEST].strip("_")
    if not name or name[0].isdigit():
        name = f"field_{name}".rstrip("_")
    if is_claimed(name):
        name += "_"
    return name if name not in taken else next(f"{name}_{n}" for n in count(2) if f"{name}_{n}" not in taken)


def is_claimed(name: str) -> bool:
    """Whether a name means something else to Python, to pydantic or in a template.

    >>> is_claimed("copy"), is_claimed("none"), is_claimed("text")
    (True, True, False)
    """
    return (
        keyword.iskeyword(name)
        or keyword.issoftkeyword(name)
        or name in _MEANT
        or name in _CLASSES
        or name.startswith("_")
        or hasattr(BaseModel, name)
    )


def class_name(words: str, suffix: str = "", taken: Collection[str] = ()) -> str:
    """Make a class's name of a field's or a plugin's.

    >>> class_name("order_number"), class_name("my-shop", "Input"), class_name("literal")
    ('OrderNumber', 'MyShopInput', 'LiteralModel')
    >>> class_name("order_number", taken={"OrderNumber"})
    'OrderNumber2'
    """
    made = "".join(part[:1].upper() + part[1:] for part in re.split(r"[_-]+", words) if part) + suffix
    if made in _CLASSES or hasattr(builtins, made):
        made += "Model"
    return made if made not in taken else next(f"{made}{n}" for n in count(2) if f"{made}{n}" not in taken)


_CLASSES = frozenset(
    {
        *("Annotated", "Any", "BaseModel", "Field", "Literal", "True", "False", "None"),
        *("Decoding", "SLM", "Scored", "Stack", "Stage", "Step"),
    }
)
"""What a plugin's modules import."""
_MEANT = frozenset(
    {
        *("none", "true", "false", "bool", "datetime", "float", "int", "list", "str"),
        *("caller", "kwargs", "loop", "self", "super", "varargs"),
    }
)
"""What annotations and templates name."""


def quoted(text: str) -> str:
    r"""A text as a Python string literal, with the quotes that a formatter prefers.

    >>> print(quoted('say "hi"'), quoted("it's"), quoted("a\n\u202e"))
    'say "hi"' "it's" "a\n\u202e"
    """
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(f"\\{c}" if c == quote else _escaped(c) for c in text) + quote


def _escaped(character: str) -> str:
    if character == "\\" or not character.isprintable():
        return character.encode("unicode_escape").decode()
    return character


def width_of(text: str) -> int:
    """How many columns of a screen a text takes.

    >>> width_of("ab"), width_of("数量")
    (2, 4)
    """
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def listed(words: Iterable[str]) -> str:
    """Words as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


__all__ = ["class_name", "field_name", "is_claimed", "listed", "quoted", "width_of"]
