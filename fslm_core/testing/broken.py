"""What a contract's check raises: what is wrong, where, and what to do next, without a traceback nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..errors import FslmError, UsageError


class ContractBroken(AssertionError):
    """Something that the framework relies on does not hold; the parts are those of every error of fslm.

    >>> print(ContractBroken("there is no description", where="stage a.b", hint="write one"))
    stage a.b: there is no description
      next: write one
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(str(UsageError(what, where=where, found=found, expected=expected, hint=hint)))


def shown(path: Path) -> str:
    """A path as people read it: below the folder that they are in, where it is."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextmanager
def told() -> Iterator[None]:
    """Fail the test with the text of what is broken, and the example that hypothesis found, if any."""
    __tracebackhide__ = True
    try:
        yield
    except (ContractBroken, FslmError) as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    else:
        return
    raise pytest.fail.Exception(text, pytrace=False) from None


__all__ = ["ContractBroken", "shown", "told"]
