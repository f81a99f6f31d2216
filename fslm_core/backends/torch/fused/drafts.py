"""Guesses at what a row will write next, so that one forward can check several tokens.

Two places are looked up, as in prompt lookup decoding (Saxena 2023; Yang et al. 2023, arXiv 2304.04487): the row's
own prompt, for what is copied out of it, and what rows of the same adapter wrote lately, for what every answer of a
stage has in common. A wrong guess costs a little arithmetic and never changes an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 4
"""Tokens of the row's end that are looked up, at most."""
_REMEMBERED = 4096
_APART = -1


class Lookup:
    """A text in which the end of another is looked up.

    >>> prompt = Lookup([5, 6, 7, 8])
    >>> prompt.after([1, 5, 6], most=5), prompt.after([9], most=5)
    (([7, 8], 2), ([], 0))
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        if ids:
            self.add(ids, latest=False)

    def add(self, ids: Sequence[int], *, latest: bool = True) -> None:
        """Add a text. Of equal places, the latest counts from now on, or the earliest goes on to count."""
        if len(self._ids) > _REMEMBERED:
            kept = self._ids[-_REMEMBERED // 2 :]
            self._ids, self._next = [], {}
            self.add(kept[kept.index(_APART) + 1 :] if _APART in kept else [])
        start = len(self._ids)
        self._ids += [*ids, _APART]
        for stop in range(start + 1, start + len(ids)):
            for length in range(1, min(_LONGEST, stop - start) + 1):
                gram = tuple(self._ids[stop - length : stop])
                if latest:
                    self._next[gram] = stop
                else:
                    self._next.setdefault(gram, stop)

    def after(self, end: Sequence[int], most: int) -> tuple[list[int], int]:
        """Return what followed the longest part of ``end`` that is found, and how long that part was."""
        for length in range(min(_LONGEST, len(end)), 0, -1):
            if (place := self._next.get(tuple(end[len(end) - length :]))) is not None:
                found = self._ids[place : place + most]
                return (found[: found.index(_APART)] if _APART in found else found), length
        return [], 0


__all__ = ["Lookup"]
