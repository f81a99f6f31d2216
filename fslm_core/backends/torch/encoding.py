"""Prompts to token ids: the one function that serving and training share.

The checkpoint's chat template joins the turns. Its own text is tokenised with special tokens, the turns'
contents without, so that ``<|im_end|>`` in someone's data is five harmless pieces of text and never the end
of a turn. What the template adds of its own accord stays: SmolLM2's, for one, opens with a default system
turn when a prompt has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from ...errors import BackendError, ContextOverflowError
from ...forking import lock_that_forks_wait_for
from ...prompt import Prompt, Role, Span
from ..protocol import Overflow

Ids = tuple[int, ...]
_MARKS: dict[Role, str] = {"system": "Fslm7System7Turn", "user": "Fslm7User7Turn"}
_CHUNK = 65_536
"""Characters tokenised at a time when only their number matters, which bounds memory."""
_BLANK_LINE = "\n\n"

# A fast tokenizer keeps "split special tokens" as state, so two threads must not use one at the same time.
_lock = lock_that_forks_wait_for()
_frames: WeakKeyDictionary[Any, dict[tuple[str | None, tuple[Role, ...]], _Frame]] = WeakKeyDictionary()
_controls: WeakKeyDictionary[Any, re.Pattern[str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as token ids.

    Attributes:
        truncated: how many tokens of data were left out to make it fit.
        static: how many of the first tokens are the same for every input of this template.
    """

    ids: Ids
    truncated: int = 0
    static: int = 0


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the turns: ``pieces`` has one entry more than ``slots``."""

    pieces: tuple[Ids, ...]
    slots: tuple[tuple[Role, ...], ...]
    """The roles whose contents stand in each gap; two where the template knows no system turn."""


def encode(
    prompt: Prompt, tokenizer: Any, *, context: int, max_tokens: int, on_overflow: Overflow = "error"
) -> Encoded:
    """Turn a prompt into token ids that leave room for the answer.

    Args:
        prompt: rendered spans. All spans of a role are tokenised together, for natural tokens.
        tokenizer: a transformers tokenizer, with or without a chat template. Without one the turns are
            plain text, each followed by a blank line.
        context: the model's context in tokens.
        max_tokens: how many of them the answer may take.
        on_overflow: ``truncate`` shortens the longest data spans from their ends until the prompt fits.

    Raises:
        ContextOverflowError: prompt and answer do not fit, or would not even without any data.
        BackendError: the chat template cannot be used.
    """
    frame = _frame(tokenizer, tuple(role for role, _ in prompt.turns))
    room = context - max_tokens
    fixed = sum(map(len, frame.pieces))
    size = sum(len(s.text) for s in prompt.spans)
    if size <= _CHUNK:
        ids = _join(prompt.spans, frame, tokenizer)
        if len(ids) <= room:
            return Encoded(ids, static=_static(prompt.spans, frame, tokenizer))
        total = len(ids)
    else:
        total = fixed + sum(_count(_content(prompt.spans, roles), tokenizer) for roles in frame.slots)
        if total <= room:
            return Encoded(_join(prompt.spans, frame, tokenizer), static=_static(prompt.spans, frame, tokenizer))
    if on_overflow == "truncate" and (short := _longest_fit(prompt.spans, frame, tokenizer, room)) is not None:
        return Encoded(short, max(0, total - len(short)), _static(prompt.spans, frame, tokenizer))
    raise ContextOverflowError(
        "the prompt does not fit the model's context",
        where="the prompt",
        found=f"{total} tokens",
        expected=f"at most {room} tokens ({context} less {max_tokens} for the answer)",
        hint="shorten the template or lower max_tokens"
        if on_overflow == "truncate"
        else 'shorten the input, or ask for on_overflow="truncate"',
    )


def encode_text(text: str, tokenizer: Any) -> Ids:
    """Tokenise text that can never become a control token, such as data or a training target.

    Lone surrogates, which no tokenizer takes, become U+FFFD.
    """
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    with _lock:
        ids: list[int] = []
        for part in _apart(clean, _control_pattern(tokenizer)):
            ids += tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return tuple(ids)


def end_ids(tokenizer: Any, generation_config: Any = None) -> Ids:
    """The tokens that end an answer; the first is the one training writes after a target.

    The tokenizer's own comes first, then those of the checkpoint's generation config.
    """
    named = getattr(generation_config, "eos_token_id", None)
    more = [named] if isinstance(named, int) else list(named or ())
    return tuple(dict.fromkeys(i for i in (tokenizer.eos_token_id, *more) if i is not None))


def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Added tokens that "split special tokens" does not cover: ``<think>`` and the like, but not runs of spaces."""
    if (pattern := _controls.get(tokenizer)) is None:
        added = tokenizer.added_tokens_decoder.values()
        words = sorted({t.content for t in added if not t.special and len(t.content) > 1 and t.content.strip()})
        pattern = re.compile("|".join(map(re.escape, words)) or r"(?!)")
        _controls[tokenizer] = pattern
    return pattern


def _apart(text: str, controls: re.Pattern[str]) -> list[str]:
    """Cut every control word after its first character, so that it is tokenised as plain text."""
    cuts = [0, *(m.start() + 1 for m in controls.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _content(spans: Sequence[Span], roles: tuple[Role, ...]) -> str:
    turns = ("".join(s.text for s in spans if s.role == role) for role in roles)
    return _BLANK_LINE.join(turns)


def _join(spans: Sequence[Span], frame: _Frame, tokenizer: Any) -> Ids:
    ids = list(frame.pieces[0])
    for roles, piece in zip(frame.slots, frame.pieces[1:], strict=True):
        ids += encode_text(_content(spans, roles), tokenizer)
        ids += piece
    return tuple(ids)


def _static(spans: Sequence[Span], frame: _Frame, tokenizer: Any) -> int:
    """Count the tokens before the first turn that holds data; text that runs into data may be cut otherwise."""
    count = len(frame.pieces[0])
    for roles, piece in zip(frame.slots, frame.pieces[1:], strict=True):
        if not all(s.static for s in spans if s.role in roles):
            break
        count += len(encode_text(_content(spans, roles), tokenizer)) + len(piece)
    return count


def _count(text: str, tokenizer: Any) -> int:
    """The number of tokens, exact up to one token for each chunk's border."""
    return sum(len(encode_text(text[i : i + _CHUNK], tokenizer)) for i in range(0, len(text), _CHUNK))


def _longest_fit(spans: Sequence[Span], frame: _Frame, tokenizer: Any, room: int) -> Ids | None:
    """The prompt with every data span cut to the greatest common length that fits, or None if none does."""
    best: Ids | None = None
    low, high = 0, max((len(s.text) for s in spans if not s.static), default=0)
    high = min(high, 64 * max(room, 0))
    while low <= high:
        cap = min((low + high) // 2, 4 * low + 1024)  # from below, so that no trial is much longer than fits
        ids = _join([s if s.static else _cut(s, cap) for s in spans], frame, tokenizer)
        if len(ids) <= room:
            best, low = ids, cap + 1
        else:
            high = cap - 1
    return best


def _cut(span: Span, cap: int) -> Span:
    return Span(span.text[:cap], span.role, span.static, span.field)


def _frame(tokenizer: Any, roles: tuple[Role, ...]) -> _Frame:
    template = getattr(tokenizer, "chat_template", None)
    with _lock:
        known = _frames.setdefault(tokenizer, {})
        key = (str(template) if template else None, roles)
        if key not in known:
            known[key] = _chat_frame(tokenizer, roles) if template else _plain_frame(tokenizer, roles)
        return known[key]


def _plain_frame(tokenizer: Any, roles: tuple[Role, ...]) -> _Frame:
    begin = tokenizer("a")["input_ids"][:1]
    head = (tokenizer.bos_token_id,) if begin == [tokenizer.bos_token_id] else ()
    gap = encode_text(_BLANK_LINE, tokenizer)
    return _Frame((head, *(gap for _ in roles)), tuple((role,) for role in roles))


def _chat_frame(tokenizer: Any, roles: tuple[Role, ...]) -> _Frame:
    slots: tuple[tuple[Role, ...], ...] = tuple((role,) for role in roles)
    rendered = _rendered(tokenizer, roles)
    if rendered is None and len(roles) > 1:  # no system turn in this template: it opens the user's
        slots, rendered = (roles,), _rendered(tokenizer, roles[-1:])
    if rendered is None:
        raise BackendError(
            "the checkpoint's chat template cannot be used: it refuses, repeats or drops a turn",
            where=str(tokenizer.name_or_path) or "the tokenizer",
            found=f"turns {', '.join(roles)}",
            expected="a template that shows each turn's content once, in order",
            hint="use a checkpoint with a plain chat template, or one without any",
        )
    return _Frame(tuple(_control_ids(piece, tokenizer) for piece in rendered), slots)


def _rendered(tokenizer: Any, roles: tuple[Role, ...]) -> list[str] | None:
    """The template's text around each turn, or None if it does not take turns of these roles."""
    from jinja2 import TemplateError

    turns = [{"role": role, "content": _MARKS[role]} for role in roles]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError, KeyError):
        return None
    pieces = re.split("|".join(_MARKS[role] for role in roles), text)
    found = re.findall("|".join(_MARKS.values()), text)
    return pieces if found == [_MARKS[role] for role in roles] else None


def _control_ids(text: str, tokenizer: Any) -> Ids:
    with _lock:
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"])


__all__ = ["Encoded", "encode", "encode_text", "end_ids"]
