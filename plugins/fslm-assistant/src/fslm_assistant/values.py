"""One form for what can be said in many: times, dates, numbers, yes and no.

``half past 6 in the evening``, ``6:30 pm`` and ``18:30`` are one time; ``tomorrow`` and ``the 2nd`` may be one date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta

NONE = "NONE"
DONT_CARE = "dontcare"
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBERS = {word: number for number, word in enumerate(_WORDS)}
_NAMES = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTHS = {month: number for number, month in enumerate(_NAMES, start=1)}
_DAYS = {day: number for number, day in enumerate(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])}
_PLACE = {
    "atl": "Atlanta", "cdmx": "Mexico City", "ciudad de mexico": "Mexico City", "sd": "San Diego",
    "chi-town": "Chicago", "vegas": "Las Vegas", "la": "Los Angeles", "lax": "Los Angeles", "ny": "New York",
    "nyc": "New York", "new york city": "New York", "philly": "Philadelphia", "sf": "San Francisco",
    "sfo": "San Francisco", "san fran": "San Francisco", "dc": "Washington", "d.c.": "Washington",
    "washington d.c.": "Washington", "washington dc": "Washington",
}  # fmt: skip
"""What else some cities are called."""
_REGION = re.compile(
    r"(?P<city>[^,]{3,}), ?(?:[A-Z]{2}|USA|Ontario|British Columbia|England|France|California|Mexico|Canada|NSW"
    r"|New South Wales)\.?"
)
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(?:[a-z]*ary|ch|il|e|y|ust|[a-z]*ber)?\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?P<weekday>mon|tue|wed|thu|fri|sat|sun)(?:s|nes|rs|ur)?(?:day)?"
_PART = r"(?:(?:in the |at |this )?(?P<part>morning|afternoon|evening|night|noon)|(?P<half>[ap])\.?\s?m\.?)"
_TIME = re.compile(
    r"(?:(?:in the )?(?P<first>morning|afternoon|evening) (?:at )?)?"
    r"(?:(?P<past>half past|quarter past|quarter to) )?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?(?P<clock> ?o[\'\"]?clock)?(?: ?" + _PART + r")?"
)
_DATES = tuple(
    re.compile(form)
    for form in (
        rf"(?:the )?{_DAY}(?: of)? {_MONTH}",
        rf"{_MONTH} (?:the )?{_DAY}",
        rf"(?:the )?{_DAY}(?: of)? this month",
        r"(?:the )?(?P<day>\d{1,2})(?:st|nd|rd|th)",
        rf"(?P<which>next|this|coming)? ?{_WEEKDAY}(?P<week> next week| this week)?",
        r"(?P<word>(?:later )?today|tonight|tomorrow|day after tomorrow|the day after tomorrow)",
    )
)


_WORD = re.compile(r"\$?\w+")
_LONGEST = 10
"""Words of the longest value looked for: those of the training dialogues have nine at most."""


def spans(text: str) -> list[str]:
    """Whatever words of a text stand together, up to ten of them, also with the mark that follows them.

    >>> spans("Two, please!")
    ['Two', 'Two, please', 'Two, please!', 'please', 'please!']
    """
    words = list(_WORD.finditer(text))
    found: dict[str, None] = {}
    for place, first in enumerate(words):
        for last in words[place : place + _LONGEST]:
            found[text[first.start() : last.end()]] = None
            if text[last.end() : last.end() + 1] in (".", "!", "?"):
                found[text[first.start() : last.end() + 1]] = None
    return list(found)


def time_of(text: str) -> str | None:
    """A time as ``18:30``; None where the text is none.

    >>> time_of("half past 6 in the evening"), time_of("6:30 pm"), time_of("morning 11:15"), time_of("6")
    ('18:30', '18:30', '11:15', None)
    """
    said = " ".join(str(_NUMBERS.get(word, word)) for word in _plain(text).removeprefix("at ").split())
    if said in ("noon", "midday", "midnight"):
        return "00:00" if said == "midnight" else "12:00"
    found = _TIME.fullmatch(said)
    if found is None or not any(found[name] for name in ("first", "past", "minute", "clock", "part", "half")):
        return None
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    if found["past"]:
        minute = {"half past": 30, "quarter past": 15, "quarter to": 45}[found["past"]]
        hour -= found["past"] == "quarter to"
    part = found["part"] or found["first"]
    late = found["half"] == "p" or part in ("afternoon", "evening", "night", "noon")
    if late and hour < 12:
        hour += 12
    elif hour == 12 and (found["half"] == "a" or part == "morning"):
        hour = 0
    return f"{hour:02}:{minute:02}" if 0 <= hour < 24 and minute < 60 else None


def date_of(text: str, today: date) -> str | None:
    """A date as ``2026-03-01``, reckoned from ``today``; None where the text is none.

    >>> monday = date(2026, 3, 2)
    >>> date_of("tomorrow", monday), date_of("the 8th of March", monday), date_of("next Monday", monday)
    ('2026-03-03', '2026-03-08', '2026-03-09')
    """
    said = _plain(text).removeprefix("on ").removeprefix("for ")
    if re.fullmatch(r"\d{4}-\d\d-\d\d", said):
        return said
    for form in _DATES:
        if found := form.fullmatch(said):
            day = _date(found.groupdict(), today)
            return None if day is None else day.isoformat()
    return None


def _date(said: dict[str, str | None], today: date) -> date | None:
    if word := said.get("word"):
        return today + timedelta(days={"today": 0, "later today": 0, "tonight": 0, "tomorrow": 1}.get(word, 2))
    if weekday := said.get("weekday"):
        ahead = (_DAYS[weekday] - today.weekday()) % 7
        next_week = (said.get("week") or "").strip() == "next week"
        if next_week:
            return today - timedelta(days=today.weekday()) + timedelta(days=7 + _DAYS[weekday])
        return today + timedelta(days=ahead or (7 if said.get("which") in ("next", "coming") else 0))
    try:
        return today.replace(
            month=_MONTHS[month] if (month := said.get("month")) else today.month, day=int(said["day"] or 0)
        )
    except ValueError:
        return None


def canonical(text: str, today: date) -> str:
    """The one form of a value: a time, a date, a small number, a city; anything else as it stands, blanks tidied.

    >>> [canonical(said, date(2026, 3, 2)) for said in ("half past 6 in the evening", "two", "San Fran", "Seattle, WA")]
    ['18:30', '2', 'San Francisco', 'Seattle']
    """
    tidy = " ".join(text.split())
    if found := _REGION.fullmatch(tidy):
        tidy = found["city"]
    known = str(_NUMBERS.get(tidy.lower(), _PLACE.get(tidy.lower(), tidy)))
    return time_of(tidy) or date_of(tidy, today) or known


def alike(one: str, other: str, today: date) -> bool:
    """Whether two values say the same: their canonical forms, but for case and punctuation.

    >>> alike("Gay 90's Pizza", "gay 90s pizza", date(2026, 3, 2))
    True
    """
    return _bare(canonical(one, today)) == _bare(canonical(other, today))


def snapped(text: str, values: Sequence[str]) -> str | None:
    """The one of ``values`` that a text means; None where it means none of them.

    >>> snapped("two", ["1", "2"]), snapped("yes", ["True", "False"]), snapped("moderate", ["cheap"])
    ('2', 'True', None)
    """
    said = _plain(text)
    said = {"yes": "true", "no": "false"}.get(said, str(_NUMBERS.get(said, said)))
    return next((value for value in values if value.lower() == said), None)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace(",", " ").split())


def _bare(text: str) -> str:
    plain = re.sub(r"(\.\d*?)0+$", r"\1", text) if re.fullmatch(r"\d+\.\d+", text) else text
    return " ".join(re.sub(r"[^\w\s]", "", plain.casefold()).split())


__all__ = ["DONT_CARE", "NONE", "alike", "canonical", "date_of", "snapped", "time_of"]
