"""What a new plugin may be called, and what is called so already."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from ..errors import UsageError
from ..plugins import PluginInfo

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 40
_OURS = frozenset({"core"})
"""``fslm-core`` is fslm itself."""
_AUTHOR = re.compile(r"(?P<name>[^<>]*?)\s*(<(?P<email>[^<>@\s]+@[^<>@\s]+)>)?")


@dataclass(frozen=True)
class Names:
    """What a plugin is called, by whom: ``my-shop`` by fslm, ``fslm-my-shop`` by pip, ``fslm_my_shop`` by Python."""

    name: str

    @property
    def distribution(self) -> str:
        """Pip's name for it."""
        return f"fslm-{self.name.replace('_', '-')}"

    @property
    def module(self) -> str:
        """Python's name for it."""
        return f"fslm_{self.name.replace('-', '_')}"


def names_of(name: str) -> Names:
    """Check a plugin's name.

    Raises:
        UsageError: it is not a lower-case word, or one that means something else.

    >>> names_of("my-shop")
    Names(name='my-shop')
    """
    short = name.removeprefix("fslm-").removeprefix("fslm_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in _OURS or len(name) > _LONGEST or short != name:
        near = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-0123456789") or "reviews"
        raise UsageError(
            "a plugin cannot be called so",
            where="NAME",
            found=name,
            expected=f"a lower-case word of at most {_LONGEST} letters, digits, '-' and '_', no keyword of Python;"
            " what pip installs is called fslm-NAME",
            hint=f"such as `{f'{near}-plugin' if keyword.iskeyword(near) or near in _OURS else near[:_LONGEST]}`",
        )
    return Names(name)


def taken_by(names: Names, installed: Iterable[PluginInfo]) -> PluginInfo | None:
    """The installed plugin that has this name already, or None."""
    wanted = {_plain(names.name), _plain(names.distribution)}
    return next((info for info in installed if wanted & {_plain(info.name), _plain(info.distribution)}), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def author_of(text: str) -> tuple[str, str | None]:
    """Take ``Name <mail>`` apart.

    Raises:
        UsageError: it is neither a name nor that.

    >>> author_of("Ada Lovelace <ada@example.org>"), author_of("Ada")
    (('Ada Lovelace', 'ada@example.org'), ('Ada', None))
    """
    found = _AUTHOR.fullmatch(text.strip())
    if found is None or not found["name"] or not text.isprintable():
        raise UsageError(
            "this is no author", where="--author", found=text, expected="a name, or a name and <mail>",
            hint='such as --author "Ada Lovelace <ada@example.org>"',
        )  # fmt: skip
    return found["name"], found["email"]


def licence_of(text: str) -> str:
    """A licence by its SPDX identifier, or an expression of such.

    Raises:
        UsageError: SPDX knows none of that name.

    >>> licence_of("apache-2.0")
    'Apache-2.0'
    """
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        raise UsageError(
            "SPDX knows no such licence", where="--licence", found=text,
            expected="an identifier such as Apache-2.0, MIT or LicenseRef-Proprietary",
            hint="see the list on spdx.org/licenses",
        ) from None  # fmt: skip


__all__ = ["Names", "author_of", "licence_of", "names_of", "taken_by"]
