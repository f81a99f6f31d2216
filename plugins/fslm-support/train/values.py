"""Draws ids, amounts, names and places that no data set holds, so that a copied value cannot be a remembered one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_CONSONANTS = (*"bdfghklmnprstvwz", "br", "ch", "kr", "st", "th", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ie", "ou", "é", "ö", "á")
_TIERS = (
    "orchid", "harbour", "comet", "velvet", "junior", "cobalt", "nova", "walnut", "falcon", "granite", "sunrise",
    "cedar", "orbit", "scarlet", "summit", "maple", "ember", "lagoon", "amber", "ivory", "jade", "meteor", "copper",
)  # fmt: skip
_TITLES = ("Mr.", "Ms.", "Mrs.", "Dr.", "Prof.", "Mr", "Mrs", "Miss")


def _digits(rng: Random, low: int, high: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _letters(rng: Random, low: int, high: int) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(low, high)))


def _word(rng: Random, syllables: int) -> str:
    vowels = _VOWELS if rng.random() < 0.2 else _VOWELS[:9]
    parts = [rng.choice(_CONSONANTS) + rng.choice(vowels) for _ in range(syllables)]
    return "".join(parts).capitalize() + rng.choice(("", "", "n", "s", "r", "l"))


def order_id(rng: Random) -> str:
    forms: tuple[Callable[[], str], ...] = (
        lambda: _digits(rng, 4, 14),
        lambda: _digits(rng, 7, 10),
        lambda: "0" * rng.randint(1, 3) + _digits(rng, 4, 8),
        lambda: "#" + _digits(rng, 4, 8),
        lambda: f"{_digits(rng, 3, 3)}-{_digits(rng, 7, 7)}",
        lambda: f"{_letters(rng, 1, 3)}-{_digits(rng, 4, 9)}",
        lambda: f"{_letters(rng, 1, 4)}{_digits(rng, 3, 8)}",
        lambda: f"{_digits(rng, 2, 4)}{_letters(rng, 1, 2)}{_digits(rng, 2, 5)}",
        lambda: f"{_letters(rng, 2, 3)}/{_digits(rng, 2, 4)}/{_digits(rng, 3, 5)}",
    )
    return rng.choice(forms)()


def invoice_id(rng: Random) -> str:
    forms: tuple[Callable[[], str], ...] = (
        lambda: _digits(rng, 5, 10),
        lambda: "#" + _digits(rng, 4, 7),
        lambda: f"INV-{_digits(rng, 4, 8)}",
        lambda: f"{rng.randint(2015, 2029)}/{_digits(rng, 2, 5)}",
        lambda: f"{rng.choice(('RE', 'F', 'R', 'IN', 'B'))}-{_digits(rng, 3, 8)}",
        lambda: f"{_letters(rng, 1, 3)}{_digits(rng, 4, 8)}",
    )
    return rng.choice(forms)()


def refund_amount(rng: Random) -> str:
    whole = rng.choice((rng.randint(1, 99), rng.randint(100, 999), rng.randint(1000, 9999), rng.randint(10000, 99999)))
    number = f"{whole:,}" if rng.random() < 0.5 else str(whole)
    return f"{number}.{rng.randint(0, 99):02d}" if rng.random() < 0.4 else number


def account_type(rng: Random) -> str:
    tier = rng.choice(_TIERS) if rng.random() < 0.5 else _word(rng, rng.randint(1, 2))
    return rng.choice((tier.lower(), tier.capitalize(), tier.lower(), tier.capitalize(), tier.upper()))


def person_name(rng: Random) -> str:
    first, last = _word(rng, rng.randint(1, 3)), _word(rng, rng.randint(2, 3))
    return rng.choice((first, f"{first} {last}", f"{first} {last}", f"{rng.choice(_TITLES)} {last}"))


def delivery_city(rng: Random) -> str:
    stem = _word(rng, rng.randint(1, 2))
    forms = (
        stem + rng.choice(("burg", "ton", "ville", "dorf", "furt", "mouth", "bury", "borough", "ano", "ella", "port")),
        rng.choice(("New", "Port", "Lake", "West", "North", "San", "Santa", "Bad", "Saint", "Castel")) + " " + stem,
        stem + " " + rng.choice(("City", "am See", "di Sopra", "Maggiore", "de la Sierra", "Park")),
    )
    return rng.choice(forms)


def delivery_country(rng: Random) -> str:
    stem = _word(rng, rng.randint(1, 2))
    forms = (
        stem + rng.choice(("land", "stan", "ia")),
        rng.choice(("Republic of", "Kingdom of", "United States of", "Democratic Republic of")) + " " + stem,
        stem + " " + rng.choice(("Islands", "Republic", f"and {_word(rng, 2)}")),
    )
    return rng.choice(forms)


DRAW: dict[str, Callable[[Random], str]] = {
    "account_type": account_type,
    "delivery_city": delivery_city,
    "delivery_country": delivery_country,
    "invoice_id": invoice_id,
    "order_id": order_id,
    "person_name": person_name,
    "refund_amount": refund_amount,
}
"""Entity type to the function that draws one value of it."""

__all__ = ["DRAW"]
