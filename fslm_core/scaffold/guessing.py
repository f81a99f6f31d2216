"""From the values of a column to what its field can hold, and the counts that say so."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from ..data.cells import date_text, plain_text
from .kinds import Day, Kind, Labels, Many, Moment, Number, OneOf, Record, Slot, Text, Whole, YesNo
from .text import class_name, field_name, is_claimed, quoted, width_of

MOST_LABELS = 500
"""Of more different values than that none are labels."""
_WIDEST_LABEL = 60
_COPIED = 20
"""More labels than that, and standing in the text they go with: they are copied from it, and another will come."""
_LARGEST = 2**53 - 1
_DIGITS = 15
_DEEPEST = 6
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,12})?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?")
_ID = frozenset(
    {
        *("id", "ids", "nr", "no", "number", "num", "code", "key", "sku", "zip", "zipcode", "postcode", "plz", "phone"),
        *("tel", "mobile", "fax", "iban", "bic", "ref", "reference", "uuid", "guid", "email", "mail", "url", "link"),
        *("isbn", "ean"),
    }
)
_NAME = frozenset(
    {
        *("name", "names", "surname", "forename", "person", "author", "customer", "client", "user", "username"),
        *("company", "street", "address", "city", "town"),
    }
)
"""Last words of a header under which there are ids, or names: never counted with, never a closed set."""


class Undraftable(Exception):
    """No model that a grammar can express takes all these values; the text says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about a column beside its values.

    Attributes:
        name: the field's name; types and models below it take their names from it.
        header: as the table writes it: its last word may say that it holds ids or names.
        typed: numbers are numbers and texts are texts, as in JSON; not so in a CSV file, where all is text.
        nested: values go into the model as they are; where rows are flat, a number in a field of text becomes text.
        bounded: a model writes it, so that it needs bounds.
        beside: the text that each value goes with, to see whether values are copied from it.
        classes: names of types that are taken; those made are added.
    """

    name: str
    header: str
    typed: bool
    nested: bool
    bounded: bool = True
    beside: Sequence[str | None] = ()
    classes: set[str] = field(default_factory=set)
    depth: int = 0

    def class_name(self, suffix: str = "") -> str:
        """A name for a type, after the field's."""
        made = class_name(self.name, suffix, self.classes)
        self.classes.add(made)
        return made


@dataclass(frozen=True, slots=True)
class Guess:
    """A kind, and the counts it rests on; ``lone`` says that it looks like an id or a name that stands in no text."""

    kind: Kind
    why: str
    lone: bool = False


def guess(values: Sequence[Any], setting: Setting) -> Guess:
    """Say what can hold all these values, of which there is at least one and none is null.

    Raises:
        Undraftable: nothing can.
    """
    if not setting.nested:
        values = [_as_cell(value) for value in values]
    kinds = {_KINDS.get(type(value), "other") for value in values}
    if kinds <= {"integer", "number"}:
        return _number(values, setting)
    if len(kinds) == 1:
        match kinds.pop():
            case "boolean":
                return Guess(YesNo(), f"true or false in {_rows(values)}")
            case "text":
                return _of_texts(values, setting)
            case "list":
                return _list(values, setting)
            case "object":
                return _object(values, setting)
    elif setting.nested:
        return _mixed(values, kinds, setting)
    elif kinds <= {"text", "boolean", "integer", "number"}:
        found = _text([plain_text(value) for value in values], setting)
        counted = Counter(_KINDS[type(value)] for value in values)
        return Guess(found.kind, f"{_counted(counted)}, so text; {found.why}", found.lone)
    raise Undraftable("it holds " + _counted(Counter(_KINDS.get(type(value), "other") for value in values)))


_KINDS: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    list: "list",
    dict: "object",
}


def _as_cell(value: Any) -> Any:
    """A workbook's value as its field gets it."""
    if isinstance(value, datetime.date | datetime.time):
        return date_text(value)
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value


# -- text ------------------------------------------------------------------------------------------------------------


def _of_texts(texts: Sequence[str], setting: Setting) -> Guess:
    if not setting.typed:
        if all(text.lower() in ("true", "false") for text in texts):
            return Guess(YesNo(), f"TRUE or FALSE in {_rows(texts)}")
        if not _sounds_open(setting) and all(_NUMBER.fullmatch(text) and text != "-0" for text in texts):
            return _number(texts, setting)
    return _text(texts, setting)


def _text(texts: Sequence[str], setting: Setting) -> Guess:
    counts = Counter(texts)
    if all(_DAY.fullmatch(text) and _is_date(text) for text in counts):
        return Guess(Day(), f"dates from {min(counts)} to {max(counts)} in {_rows(texts)}")
    if all(_MOMENT.fullmatch(text) and _is_date(text) for text in counts):
        return Guess(Moment(), f"times from {min(counts)} to {max(counts)} in {_rows(texts)}")
    named = _sounds_open(setting)
    copied = _copied(texts, setting)
    if not named and _are_labels(counts, copied):
        return Guess(Labels(tuple(sorted(counts)), setting.class_name("Label")), _labels(counts))
    lone = (named or _look_like_codes(counts)) and copied < 0.5
    return Guess(_free(texts, setting), _why_free(texts, counts, copied, named, setting), lone)


def _are_labels(counts: Counter[str], copied: float) -> bool:
    repeated = len(counts) == 1 or 2 * len(counts) <= counts.total()
    short = all(text and text.isprintable() and width_of(text) <= _WIDEST_LABEL for text in counts)
    open_ended = len(counts) > _COPIED and copied >= 0.8
    return counts.total() >= 2 and repeated and short and len(counts) <= MOST_LABELS and not open_ended


def _labels(counts: Counter[str]) -> str:
    shown = ", ".join(f"{quoted(label)} {count:,}" for label, count in counts.most_common(6))
    if len(counts) == 1:
        return f"always the same in {counts.total():,} rows, so there is nothing to learn"
    rest = f", and {len(counts) - 6:,} more" if len(counts) > 6 else ""
    once = sum(count == 1 for count in counts.values())
    lone = f"; {once:,} of them once only: are they spelt right?" if once else ""
    return f"{len(counts):,} different texts in {counts.total():,} rows: {shown}{rest}{lone}"


def _free(texts: Sequence[str], setting: Setting) -> Text:
    least = int(all(texts))
    return Text(least, _roomy(max(map(len, texts)))) if setting.bounded else Text(least)


def _why_free(texts: Sequence[str], counts: Counter[str], copied: float, named: bool, setting: Setting) -> str:
    lengths = sorted(map(len, texts))
    different = "all different" if len(counts) == len(texts) else f"{len(counts):,} of them different"
    longest = f"{lengths[-1]:,} characters"
    span = longest if lengths[0] == lengths[-1] else f"{lengths[0]:,} to {longest}"
    why = f"{len(texts):,} text{'s' * (len(texts) != 1)}, {different}, of {span}"
    if named:
        why += f"; {setting.header!r} sounds like ids or names, so no labels"
    elif len(counts) > MOST_LABELS and 2 * len(counts) <= len(texts):
        why += f"; more than {MOST_LABELS} are too many to be labels"
    if any(setting.beside):
        why += f"; {round(copied * len(texts)):,} stand in the text as they are"
    return why


def _copied(texts: Sequence[str], setting: Setting) -> float:
    """The share of texts that stand in the text they go with."""
    if not setting.beside:
        return 0.0
    pairs = zip(texts, setting.beside, strict=True)
    return sum(text.casefold() in (beside or "").casefold() for text, beside in pairs) / len(texts)


def _sounds_open(setting: Setting) -> bool:
    """Whether the header says that there are ids or names below it."""
    return field_name(setting.header).rstrip("_").rpartition("_")[2] in _ID | _NAME


def _look_like_codes(counts: Counter[str]) -> bool:
    """Single words with digits in them, and hardly one of them twice."""
    codes = sum(bool(re.fullmatch(r"\S*\d\S*", text)) for text in counts)
    return codes > 0.9 * len(counts) and len(counts) > 0.9 * counts.total()


def _is_date(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


# -- numbers ---------------------------------------------------------------------------------------------------------


def _number(values: Sequence[Any], setting: Setting) -> Guess:
    if not setting.nested and _sounds_open(setting):
        return _text([plain_text(value) for value in values], setting)
    exact = [Decimal(repr(value) if isinstance(value, float) else value) for value in values]
    if all(number.is_finite() and number == number.to_integral_value() for number in exact) and not _has_points(values):
        return _whole([int(number) for number in exact], values, setting)
    kind = _decimal(exact)
    if kind is None:
        return _unbounded(values, setting, Number(None, None))
    return Guess(kind, f"numbers from {min(exact):,f} to {max(exact):,f} in {_rows(values)}")


def _has_points(values: Sequence[Any]) -> bool:
    """Whether a number is written with a point, as 3.0 is in a CSV file: a field of whole numbers does not take it."""
    return any(isinstance(value, str) and "." in value for value in values)


def _whole(numbers: Sequence[int], values: Sequence[Any], setting: Setting) -> Guess:
    counts = Counter(numbers)
    low, high = min(counts), max(counts)
    if not -_LARGEST <= low <= high <= _LARGEST:
        plain = Number(None, None) if any(isinstance(value, float) for value in values) else Whole(None, None)
        return _unbounded(values, setting, plain)
    why = f"whole numbers from {low:,} to {high:,} in {_rows(numbers)}"
    if len(counts) == high - low + 1 >= 10 and len(numbers) == len(counts):
        return Guess(_roomy_whole(low, high), f"{why}, each once: they only count the rows", lone=True)
    if low in (0, 1) and high - low + 1 == len(counts) <= 11 and min(counts.values()) >= 3 and low < high:
        return Guess(Whole(low, high), f"{why}, each {min(counts.values()):,} times or more, so taken for a scale")
    return Guess(_roomy_whole(low, high), f"{why}; the bounds leave room")


def _roomy_whole(low: int, high: int) -> Whole:
    return Whole(*(max(-_LARGEST, min(_LARGEST, end)) for end in _room(low, high)))


def _decimal(numbers: Sequence[Decimal]) -> Number | None:
    """Bounds and decimals that a grammar can express, with room where digits allow it; None where none are."""
    if not all(number.is_finite() for number in numbers):
        return None
    decimals = max(max(0, -int(number.as_tuple().exponent)) for number in numbers)
    tight = math.floor(min(numbers)), math.ceil(max(numbers))
    for low, high in (_room(*tight), tight):
        if len(str(max(abs(low), abs(high)))) + decimals <= _DIGITS:
            return Number(low, high, decimals)
    return None


def _unbounded(values: Sequence[Any], setting: Setting, plain: Whole | Number) -> Guess:
    """What becomes of numbers that have more digits than a float or a JSON reader keeps."""
    why = f"numbers of more than {_DIGITS} digits"
    if not setting.nested:
        found = _text([plain_text(value) for value in values], setting)
        return Guess(found.kind, f"{why}, so text; {found.why}", found.lone)
    if not setting.bounded:
        return Guess(plain, f"{why} in {_rows(values)}")
    raise Undraftable(f"it holds {why}; round them, or write them as text")


def _room(low: int, high: int) -> tuple[int, int]:
    """Round bounds that leave half as much again for values not seen yet; those of counts begin at 0.

    >>> _room(1, 30), _room(-4, 9)
    ((0, 50), (-10, 20))
    """
    return (0 if low >= 0 else -_round(-low)), (_round(high) if high > 0 else 0)


def _round(number: int) -> int:
    wanted = math.ceil(number * 3 / 2) if number < 10**15 else number + number // 2
    step = 1
    while True:
        for leading in (1, 2, 5):
            if leading * step >= wanted:
                return leading * step
        step *= 10


def _roomy(length: int) -> int:
    """A length that leaves half as much again.

    >>> _roomy(3), _roomy(45), _roomy(210)
    (10, 70, 350)
    """
    wanted = length * 3 // 2
    step = 10 if wanted < 100 else 50 if wanted < 500 else 100
    return max(step, -(-wanted // step) * step)


# -- lists, objects, and what is of several kinds --------------------------------------------------------------------


def _list(values: Sequence[list[Any]], setting: Setting) -> Guess:
    _require_shallow(setting)
    items = [item for value in values for item in value]
    if not items:
        raise Undraftable("it holds empty lists only")
    if any(item is None for item in items):
        raise Undraftable("its lists hold null")
    inner = guess(items, _below(setting, setting.name, setting.header))
    longest = max(map(len, values))
    most = max(longest + 1, longest * 3 // 2)
    return Guess(Many(inner.kind, most), f"lists of 0 to {longest:,} in {_rows(values)}: {inner.why}")


def _object(values: Sequence[dict[str, Any]], setting: Setting) -> Guess:
    _require_shallow(setting)
    slots = slots_of(values, setting)
    why = f"objects of {', '.join(slot.name for slot in slots)} in {_rows(values)}"
    return Guess(Record(setting.class_name(), slots), why)


def slots_of(values: Sequence[Mapping[str, Any]], setting: Setting) -> tuple[Slot, ...]:
    """The fields of objects, each under the name it has there.

    Raises:
        Undraftable: a name that is none in Python, or values that no field takes.
    """
    names = list(dict.fromkeys(name for value in values for name in value))
    if not names:
        raise Undraftable("its objects are empty")
    return tuple(_slot(name, values, setting) for name in names)


def _slot(name: str, values: Sequence[Mapping[str, Any]], setting: Setting) -> Slot:
    if not (name.isascii() and name.isidentifier()) or is_claimed(name):
        raise Undraftable(f"{name!r} cannot be the name of a field; rename it in the rows")
    absent = sum(name not in value for value in values)
    here = [(value[name], beside) for value, beside in _paired(values, setting) if value.get(name) is not None]
    if not here:
        raise Undraftable(f"{name!r} is null in every row; leave it out of the rows")
    below = _below(setting, name, name, [beside for _, beside in here])
    found = guess([value for value, _ in here], below)
    empty = len(values) - len(here)
    why = found.why + (f"; null in {empty:,} of {len(values):,}" if empty else "")
    return Slot(name, found.kind, nullable=empty > 0, optional=absent > 0, comment=why)


def _paired(values: Sequence[Mapping[str, Any]], setting: Setting) -> list[tuple[Mapping[str, Any], str | None]]:
    return list(zip(values, setting.beside or [None] * len(values), strict=True))


def _mixed(values: Sequence[Any], kinds: set[str], setting: Setting) -> Guess:
    groups: dict[str, list[Any]] = {}
    for value in values:
        groups.setdefault("number" if _KINDS[type(value)] == "integer" else _KINDS[type(value)], []).append(value)
    found = [guess(group, _below(setting, f"{setting.name}_{name}", "")) for name, group in sorted(groups.items())]
    why = f"{_counted(Counter(_KINDS[type(value)] for value in values))}: " + "; ".join(one.why for one in found)
    return Guess(OneOf(tuple(one.kind for one in found)), why)


def _below(setting: Setting, name: str, header: str, beside: Sequence[str | None] = ()) -> Setting:
    """The setting of a part. Values below a column go into the model as they are."""
    return replace(setting, name=name, header=header, typed=True, nested=True, beside=beside, depth=setting.depth + 1)


def _require_shallow(setting: Setting) -> None:
    if setting.depth >= _DEEPEST:
        raise Undraftable(f"it is nested more than {_DEEPEST} deep")


def _rows(values: Sequence[Any]) -> str:
    return "1 row" if len(values) == 1 else f"{len(values):,} rows"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,} times" for kind, count in counts.most_common())


__all__ = ["MOST_LABELS", "Guess", "Setting", "Undraftable", "guess", "slots_of"]
