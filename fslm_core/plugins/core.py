"""Which versions of fslm-core a plugin needs, by the metadata of its distribution, and whether this is one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CORE = "fslm-core"
_NAME = re.compile(r"\s*([A-Za-z0-9._-]*)")
_ORDER = ("===", "==", "~=", ">=", ">", "!=", "<=", "<")


@dataclass(frozen=True, slots=True)
class CoreNeed:
    """The core a plugin's metadata asks for.

    Attributes:
        versions: as one would write it, ``>=0.1,<0.2``; empty for any version, None where nothing is stated.
        unreadable: a requirement of the core that is none, as it stands in the metadata; else empty.
    """

    versions: str | None = None
    unreadable: str = ""

    def refusal(self, plugin: str, distribution: str, running: str) -> tuple[str, str]:
        """Why a plugin cannot be loaded by the core that runs, and what to do; two empty texts where it can.

        >>> why, cure = CoreNeed(">=0.4,<0.5").refusal("fslm-shop 2.0", "fslm-shop", "0.1.0")
        >>> why
        'fslm-shop 2.0 needs fslm-core >=0.4,<0.5, and this is 0.1.0'
        >>> cure
        "python -m pip install 'fslm-core>=0.4,<0.5', or install a version of fslm-shop made for fslm-core 0.1.0"
        """
        if self.unreadable:
            why = f"{plugin} says which core it needs in a way that cannot be read: {self.unreadable!r}"
            return why, f"install another version of {distribution}, or ask its author to mend its dependencies"
        if not self.versions or SpecifierSet(self.versions).contains(running, prereleases=True):
            return "", ""
        other = f"install a version of {distribution} made for {CORE} {running}"
        return (
            f"{plugin} needs {CORE} {self.versions}, and this is {running}",
            f"python -m pip install '{CORE}{self.versions}', or {other}",
        )


def core_need(requires: Iterable[str]) -> CoreNeed:
    """Read the core's versions out of ``Requires-Dist``: all that apply here, whatever extras of the core they name.

    >>> core_need(["pydantic>=2", "fslm-core[torch]<0.2,>=0.1"])
    CoreNeed(versions='>=0.1,<0.2', unreadable='')
    >>> core_need(["fslm-core>=9; extra == 'train'", "fslm-core"]).versions
    ''
    >>> core_need(["pydantic>=2"]).versions is None
    True
    """
    found: SpecifierSet | None = None
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            if canonicalize_name(_NAME.match(text)[1]) == CORE:  # type: ignore[index]
                return CoreNeed(unreadable=text)
            continue
        if canonicalize_name(requirement.name) != CORE:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = requirement.specifier if found is None else found & requirement.specifier
    return CoreNeed() if found is None else CoreNeed(_written(found))


def _written(specifiers: SpecifierSet) -> str:
    """Lower bounds first; a ``SpecifierSet`` has an order of its own."""
    return ",".join(map(str, sorted(specifiers, key=lambda s: (_ORDER.index(s.operator), s.version))))


def running_core() -> str:
    """The version of the core that runs."""
    from .. import __version__

    return __version__


__all__ = ["CORE", "CoreNeed", "core_need", "running_core"]
