"""Rows in flight on one fused model: places are given, ticks are run, choices are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..encoding import Ids
from ..generic import OnForward
from ..row import Row
from . import weights
from .decide import Chance, decide
from .drafts import Lookup
from .forward import Model, Segment
from .lora import Tuned
from .prefixes import Prefixes, beginning
from .products import Format
from .slots import Block, Slot, Slots

TOKENS = 256
"""The most tokens in a forward once every row that decodes has its own: bounds the wait for a cancellation."""
_PLACES = 4096
"""The most positions that texts scored side by side take up, one text at least: bounds their memory."""
_DECODING = 16
"""A row with at most this many tokens to feed goes into every forward."""
DRAFTED = 8
"""Rows may guess ahead as long as a forward has no more tokens than this: so few cost little more than one."""
_GAIN = 8
"""So many tokens are worth copying or keeping."""
_WAIT = 32
"""So many tokens, about to be computed for another row, are worth waiting for."""
_PREFIX_SHARE = 4
"""The prefix store takes at most one part in so many of the cache's budget."""


@dataclass(slots=True, eq=False)
class _Seat:
    """A row in flight. It has no slot while it waits for ``source``, whose prompt begins like its own."""

    row: Row
    adapter: Tuned | None
    ids: NDArray[np.int64]
    slot: Slot | None = None
    source: _Seat | None = None
    prompt: Lookup | None = None
    """The row's own prompt, from its first draft on."""

    @property
    def name(self) -> str | None:
        return self.adapter.name if self.adapter else None


@dataclass(frozen=True, slots=True)
class _Found:
    """The beginning of a prompt in a slot: so many of its tokens are there."""

    slot: Slot | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _There:
    """What is there of a prompt, to be had without computing.

    Attributes:
        whole: the slot that holds most of it in every layer.
        lower: the slot that holds most of it in the layers below every adapter.
        kept: how many of its tokens the prefix store has.
    """

    whole: _Found
    lower: _Found
    kept: int

    @property
    def tokens(self) -> int:
        """The most that any of them has."""
        return max(self.whole.tokens, self.lower.tokens, self.kept)


class Flight:
    """The executor: every tick one packed forward over all rows, whichever adapter they use.

    Args:
        path: a checkpoint folder that :func:`.shape.unsupported` has nothing against.
        most: the most rows in flight.
        budget: bytes for keys and values, prefix store included.

    Raises:
        CheckpointError: the weights cannot be loaded.
        BackendError: there are no kernels for the format.
    """

    def __init__(
        self,
        path: Path,
        config: Any,
        number_format: Format,
        device: torch.device,
        *,
        most: int,
        budget: int,
        on_forward: OnForward | None = None,
    ) -> None:
        self._model = Model(weights.load(path, config, number_format, device))
        self._device = device
        self._most = most
        self._on_forward = on_forward
        share = budget // _PREFIX_SHARE
        self._slots = Slots(self._model.weights.shape, budget - share, device)
        self._prefixes = Prefixes(share)
        self._seats: list[_Seat] = []
        self._written: dict[str | None, Lookup] = {}

    @property
    def model(self) -> Model:
        """The packed model."""
        return self._model

    @property
    def rows(self) -> Sequence[Row]:
        """The rows in flight."""
        return [seat.row for seat in self._seats]

    def know(self, adapter: Tuned) -> None:
        """Learn of an adapter before its first row: layers that it touches are no longer shared."""
        if adapter.first < self._model.depth:
            self._model.depth = adapter.first
            self._prefixes.clear()
            for slot in self._slots:
                slot.forget()

    def admit(self, row: Row, adapter: Tuned | None) -> bool:
        """Take a row into flight, or return False while there is no place for it."""
        if len(self._seats) >= self._most or any(seat.slot is None and seat.source is None for seat in self._seats):
            return False
        seat = _Seat(row, adapter, np.array(row.prompt.ids, dtype=np.int64))
        there = self._there(seat)
        seat.source = self._worth_waiting_for(seat, there)
        if seat.source is None and not self._place(seat, there):
            return False
        self._seats.append(seat)
        return True

    def tick(self) -> None:
        """Run one forward, and let the rows that were fed to their end choose."""
        self._place_waiting()
        fed = self._segments()
        if not fed:
            return
        if self._on_forward:
            self._on_forward(len(fed), sum(len(segment.ids) for _, segment in fed))
        hidden = self._model.forward([segment for _, segment in fed])
        parts = hidden.split([segment.wanted for _, segment in fed])
        chances = [
            Chance(seat.row, part, segment.ids[len(segment.ids) - segment.wanted + 1 :])
            for (seat, segment), part in zip(fed, parts, strict=True)
        ]
        decide(self._model.weights, [chance for chance in chances if len(chance.hidden)])
        for (seat, segment), chance in zip(fed, chances, strict=True):
            self._fed(seat, segment, wrong=len(chance.draft) - chance.right)

    def drop(self) -> list[Row]:
        """Take out the rows that are finished, failed or no longer wanted, and return them."""
        return self._remove([seat for seat in self._seats if seat.row.over()])

    def clear(self) -> list[Row]:
        """Take out every row and forget what the slots hold, after a failure."""
        gone = self._remove(list(self._seats))
        for slot in self._slots:
            slot.wipe()
        return gone

    def likelihoods(self, prompt: Ids, continuations: Sequence[Ids], adapter: Tuned | None) -> list[float]:
        """The natural-log likelihood of each continuation after ``prompt``, which is read once, in its own slot."""
        longest = max(map(len, continuations), default=0)
        if longest == 0:
            return [0.0] * len(continuations)
        before = len(prompt) - 1
        together = max(1, min(len(continuations), _PLACES // (before + longest)))
        slots = Block(self._model.weights.shape, together, before + longest, self._device).slots
        for start in range(0, before, TOKENS):
            part = prompt[start : min(start + TOKENS, before)]
            self._model.forward([Segment(slots[0], part, start, start, adapter, 0)])
        for slot in slots[1:]:
            slot.copy(slots[0], before)
        found: list[float] = []
        for start in range(0, len(continuations), together):
            found += self._likelihoods(slots, prompt[-1], continuations[start : start + together], before, adapter)
        return found

    def _likelihoods(
        self, slots: Sequence[Slot], last: int, continuations: Sequence[Ids], before: int, adapter: Tuned | None
    ) -> list[float]:
        """One continuation in each slot, behind the prompt's tokens but the last; what stood there is lost."""
        totals = [0.0] * len(continuations)
        most = max(1, TOKENS // len(continuations))
        for first in range(0, max(map(len, continuations)), most):
            segments = []
            for slot, ids in zip(slots, continuations, strict=False):
                part = (last, *ids)[first : min(first + most, len(ids))]
                segments.append(Segment(slot, part, before + first, before + first, adapter, len(part)))
            hidden = self._model.forward([segment for segment in segments if segment.ids])
            logprobs = torch.log_softmax(self._model.weights.head(hidden), dim=-1)
            for i, rows in enumerate(logprobs.split([segment.wanted for segment in segments])):
                targets = torch.tensor(continuations[i][first : first + most], dtype=torch.long, device=self._device)
                totals[i] += float(rows.gather(1, targets[:, None]).sum())
        return totals

    def _remove(self, gone: Sequence[_Seat]) -> list[Row]:
        for seat in gone:
            self._seats.remove(seat)
            if seat.row.finished is not None:
                self._written.setdefault(seat.name, Lookup()).add(seat.row.tokens)
            if seat.slot is not None:
                if seat.row.error is not None:
                    seat.slot.wipe()
                elif seat.row.finished is None:
                    seat.slot.cleanse()
                self._slots.free(seat.slot)
        return [seat.row for seat in gone]

    # Places.

    def _place_waiting(self) -> None:
        """Place rows whose source has been read, or is gone."""
        for seat in self._seats:
            if seat.slot is None and (seat.source is None or not self._still_reading(seat, seat.source)):
                seat.source = None
                if not self._place(seat, self._there(seat)):
                    return

    def _still_reading(self, seat: _Seat, source: _Seat) -> bool:
        return source in self._seats and source.row.seen < _common(seat.ids, source.ids)

    def _worth_waiting_for(self, seat: _Seat, there: _There) -> _Seat | None:
        """A row in flight that is about to compute more of this prompt's beginning than there is now, or None."""
        shares = self._model.depth > 0
        for other in self._seats:
            if other.name != seat.name and not shares:
                continue
            common = min(_common(seat.ids, other.ids), len(seat.ids) - 1)
            if common - there.tokens >= _WAIT and other.row.seen < common:
                return other
        return None

    def _place(self, seat: _Seat, there: _There) -> bool:
        """Give a row a slot, with as much of its prompt in it as is to be had without computing."""
        row = seat.row
        prefer = there.whole.slot if there.whole.tokens >= there.lower.tokens else there.lower.slot
        slot = self._slots.take(len(row.prompt.ids) + row.max_tokens, prefer)
        if slot is None:
            return False
        try:
            self._fill(seat, slot, there)
        except BaseException:
            slot.wipe()
            self._slots.free(slot)
            raise
        seat.slot = slot
        return True

    def _fill(self, seat: _Seat, slot: Slot, there: _There) -> None:
        """Copy what there is of a row's prompt into its slot, and start the row behind it."""
        row, whole, lower = seat.row, there.whole, there.lower
        if lower.slot is not None and lower.slot is not slot:
            slot.copy(lower.slot, lower.tokens, layers=self._model.depth)
        if there.kept > whole.tokens:
            self._prefixes.fill(slot, seat.name, row.prompt.ids[: there.kept])
            whole = _Found(None, there.kept)
        elif whole.slot is not None and whole.slot is not slot:
            slot.copy(whole.slot, whole.tokens)
        slot.hold(seat.ids, seat.name, whole.tokens, max(whole.tokens, lower.tokens))
        row.start()
        row.seen = row.cached = whole.tokens
        del row.pending[: whole.tokens]

    def _there(self, seat: _Seat) -> _There:
        """Look for the beginning of a row's prompt; its last token never counts."""
        shares = 0 < self._model.depth < self._model.weights.shape.layers
        whole = lower = _Found()
        for slot, common in self._slots.common(seat.ids):
            tokens = min(common, len(seat.ids) - 1)
            if slot.adapter == seat.name and min(tokens, slot.whole) > max(whole.tokens, _GAIN - 1):
                whole = _Found(slot, min(tokens, slot.whole))
            if shares and min(tokens, slot.lower) > max(lower.tokens, _GAIN - 1):
                lower = _Found(slot, min(tokens, slot.lower))
        return _There(whole, lower, self._prefixes.length(seat.name, seat.row.prompt))

    # Ticks.

    def _segments(self) -> list[tuple[_Seat, Segment]]:
        """What goes into the next forward: all that decode, then prompts, oldest first, as far as TOKENS goes."""
        placed = [s for s in self._seats if s.slot is not None and s.row.finished is None and s.row.error is None]
        decoding = [seat for seat in placed if len(seat.row.pending) <= _DECODING]
        left = TOKENS - sum(len(seat.row.pending) for seat in decoding)
        chosen = [(seat, len(seat.row.pending)) for seat in decoding]
        for seat in placed:
            if (count := len(seat.row.pending)) > _DECODING:
                if left <= 0 and chosen:
                    break
                chosen.append((seat, min(count, max(left, 1))))
                left -= count
        room = DRAFTED - sum(count for _, count in chosen)
        share = max(0, room) // max(1, len(chosen))
        return [(seat, self._segment(seat, count, share)) for seat, count in chosen if count]

    def _segment(self, seat: _Seat, count: int, share: int) -> Segment:
        """The next ``count`` tokens of a row and, where it may choose after them, a draft of at most ``share``."""
        row, slot = seat.row, seat.slot
        assert slot is not None
        ids, row.pending = row.pending[:count], row.pending[count:]
        draft = [] if row.pending or row.seen < len(row.prompt.ids) else self._draft(seat, share)
        lower = min(max(row.seen, slot.lower), row.seen + count)
        return Segment(slot, [*ids, *draft], row.seen, lower, seat.adapter, wanted=0 if row.pending else 1 + len(draft))

    def _draft(self, seat: _Seat, most: int) -> list[int]:
        """What the row is likely to write next, as far as its grammar allows."""
        row = seat.row
        most = min(most, row.max_tokens - len(row.tokens))
        if most <= 0:
            return []
        if seat.prompt is None:
            seat.prompt = Lookup(row.prompt.ids)
        copied, length = seat.prompt.after(row.tokens, most)
        written, longer = self._written[seat.name].after(row.tokens, most) if seat.name in self._written else ([], 0)
        draft = written if longer > length else copied
        return draft if row.grammar is None else draft[: row.grammar.valid(draft)]

    def _fed(self, seat: _Seat, segment: Segment, wrong: int) -> None:
        """Note what a forward left in the slot; what followed a wrong guess is worth nothing."""
        row, slot = seat.row, segment.slot
        ids = segment.ids[: len(segment.ids) - wrong]
        row.seen = segment.start + len(ids)
        row.forwards += 1
        slot.extend(ids, segment.start)
        static = beginning(row.prompt)
        if segment.start < static <= min(row.seen, slot.whole) and static >= _GAIN:
            self._prefixes.put(slot, static)


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many leading entries are equal."""
    length = min(len(a), len(b))
    differ = a[:length] != b[:length]
    return int(differ.argmax()) if differ.any() else length


__all__ = ["TOKENS", "Flight"]
