"""What the machine allows: the bytes and operations a stack needs, over the bandwidth and rate of the same run.

What a stack of stages needs, whoever computes it:

- **Tokens.** Of each message the prompt's tokens without the stage's static prefix (computed once, ever), and the
  answer's tokens as far as its last decision: what is dictated after it is never read by anybody. In the layers below
  the lowest one that an adapter touches, a token that two steps of one run have in common is computed once.
- **Decisions.** Every token of an answer that the grammar does not dictate. Each needs the head over the vocabulary.
- **Rounds.** Decisions of one message follow one another; steps that need nothing of each other go side by side. The
  longest chain of decisions through the stack is the number of forwards that cannot be avoided.

With ``P`` weights in a layer, ``H`` in the head, ``b`` bytes a weight, and for each round ``t`` new tokens, ``d``
decisions and the attended places ``a`` (pairs of a new token and one at or before it)::

    operations(round) = 2 P (layers * tokens in them) + 2 A t + 2 H d + 4 q a layers      (A: the adapter's weights)
    bytes(round)      = b (P layers + H) + KV bytes of the decided rows' contexts

    alone:      seconds = Σ over rounds of max(bytes / bandwidth, operations / rate)
    C at once:  seconds a stack = max(Σ operations / rate, Σ bytes shared by C / bandwidth)

Weights are read once in a round, for all that takes part in it; with C stacks in flight, C share them. This is the
roofline of Williams, Waterman and Patterson (CACM 52(4), 2009), round by round. Overheads are no part of it.
Drafting several tokens in one forward needs fewer rounds than this: an engine that does may pass 100 % alone. So there
is a second figure, with perfect drafts: one round for each message, however many decisions it has.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engines import Precision

WEIGHT_BYTES: Mapping[Precision, float] = {"float32": 4.0, "16-bit": 2.0, "int8": 1.0, "int4": 0.625}
"""``int4`` is Q4_1: groups of 32 with a 16-bit scale and minimum, 5 bits a weight."""
KV_BYTES = 2
"""Of one number in the cache."""


@dataclass(frozen=True)
class Rates:
    """What the machine was seen to do: bytes and operations a second. A multiplication and its addition are two."""

    bandwidth: float
    float32: float
    bfloat16: float
    int8: float

    def of(self, precision: Precision) -> float:
        """The best arithmetic rate for weights of that class; wider arithmetic is open to narrower weights."""
        rates = [self.float32]
        rates += [self.bfloat16] if precision != "float32" else []
        rates += [self.int8] if precision in ("int8", "int4") else []
        return max(rates)


@dataclass(frozen=True)
class Shape:
    """The base model's dimensions, in weights and numbers.

    Attributes:
        layer: weights in one layer's linear maps.
        head: weights of the map to the vocabulary.
        kv: numbers that one layer caches of one token.
        queries: the width of all its query heads together.
    """

    layers: int
    layer: int
    head: int
    kv: int
    queries: int

    @classmethod
    def of(cls, checkpoint: Path) -> Shape:
        """Read a Llama-family configuration.

        >>> import tempfile
        >>> config = '{"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,'
        >>> config += ' "num_hidden_layers": 3, "vocab_size": 100}'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "config.json").write_text(config)
        ...     Shape.of(Path(folder))
        Shape(layers=3, layer=576, head=800, kv=8, queries=8)
        """
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        queries, keys = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
        attention = 2 * hidden * queries + 2 * hidden * keys
        return cls(
            layers=config["num_hidden_layers"],
            layer=attention + 3 * hidden * config["intermediate_size"],
            head=config["vocab_size"] * hidden,
            kv=2 * keys,
            queries=queries,
        )


@dataclass(frozen=True)
class Adapted:
    """One stage's adapter: its weights, and the lowest layer it touches."""

    weights: int
    lowest: int

    @classmethod
    def of(cls, folder: Path) -> Adapted:
        """Read an adapter's folder."""
        from fslm_core import adapter

        info = adapter.inspect(folder)
        return cls(
            weights=sum(_product(shape) for shape in info.shapes.values()),
            lowest=min(info.config.get("layers_to_transform") or [0]),
        )


@dataclass(frozen=True)
class Told:
    """One message as the reference engine wrote it. ``forced`` runs in step with ``tokens``."""

    row: int
    step: str
    stage: str
    ids: tuple[int, ...]
    tokens: tuple[int, ...]
    forced: tuple[bool, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Told:
        """Read what a worker told."""
        return cls(
            plain["row"],
            plain["step"],
            plain["stage"],
            tuple(plain["ids"]),
            tuple(plain["tokens"]),
            tuple(plain["forced"]),
        )

    @property
    def decisions(self) -> list[int]:
        """The places of the tokens that were decided."""
        return [place for place, forced in enumerate(self.forced) if not forced]


@dataclass
class Round:
    """What one forward of one run must do. ``lower`` and ``upper`` count tokens below and from the lowest adapter."""

    lower: int = 0
    upper: int = 0
    adapted: int = 0
    decisions: int = 0
    attended: int = 0
    context: int = 0
    """Places in the cache that deciding rows read, in tokens."""


@dataclass(frozen=True)
class Work:
    """What the stack needs, a list of rounds for each run of a sample; ``drafted`` if every draft were right."""

    shape: Shape
    lowest: int
    runs: Sequence[Sequence[Round]] = field(repr=False)
    drafted: Sequence[Sequence[Round]] = field(repr=False, default=())

    def mean(self, name: str) -> float:
        """The mean over the runs of a figure of :class:`Round`; ``rounds`` is their number."""
        if name == "rounds":
            return sum(map(len, self.runs)) / len(self.runs)
        return sum(getattr(part, name) for run in self.runs for part in run) / len(self.runs)

    def operations(self, part: Round) -> float:
        """Of one round; see the module's text."""
        s = self.shape
        linear = s.layer * (self.lowest * part.lower + (s.layers - self.lowest) * part.upper)
        return 2 * linear + 2 * part.adapted + 2 * s.head * part.decisions + 4 * s.queries * s.layers * part.attended

    def bytes(self, part: Round, weight: float) -> tuple[float, float]:
        """Of one round: weights, which others may share, and cache, which nobody else reads."""
        s = self.shape
        return weight * (s.layer * s.layers + s.head), float(KV_BYTES * s.kv * s.layers * part.context)

    def seconds(self, rates: Rates, precision: Precision, concurrency: int, *, drafted: bool = False) -> float:
        """The least time a stack can take, the mean over the runs; ``auto`` is the best of all classes."""
        if precision == "auto":
            return min(self.seconds(rates, each, concurrency, drafted=drafted) for each in WEIGHT_BYTES)
        rate, weight = rates.of(precision), WEIGHT_BYTES[precision]
        total = 0.0
        for run in self.drafted if drafted else self.runs:
            shared, own = zip(*(self.bytes(part, weight) for part in run), strict=True) if run else ((), ())
            arithmetic = [self.operations(part) / rate for part in run]
            if concurrency == 1:
                moves = [(a + b) / rates.bandwidth for a, b in zip(shared, own, strict=True)]
                total += sum(map(max, moves, arithmetic))
            else:
                total += max(sum(arithmetic), (sum(shared) / concurrency + sum(own)) / rates.bandwidth)
        return total / len(self.runs)


def work_of(
    told: Sequence[Told], needs: Mapping[str, frozenset[str]], adapters: Mapping[str, Adapted], shape: Shape
) -> Work:
    """What the runs of a sample need.

    Args:
        told: every message of the sample.
        needs: for each step the steps that must have ended before.
        adapters: by stage.
    """
    statics = static_prefixes(told)
    lowest = min((adapter.lowest for adapter in adapters.values()), default=shape.layers)
    rows: dict[int, list[Told]] = defaultdict(list)
    for message in told:
        rows[message.row].append(message)
    runs, drafted = (
        [_rounds(messages, needs, adapters, statics, drafts) for messages in rows.values()] for drafts in (False, True)
    )
    return Work(shape, lowest, runs, drafted)


def static_prefixes(told: Sequence[Told]) -> dict[str, tuple[int, ...]]:
    """What all prompts of a stage begin with, by stage.

    >>> two = [Told(0, "a", "s", (1, 2, 3), (), ()), Told(1, "a", "s", (1, 2, 4), (), ())]
    >>> static_prefixes(two)
    {'s': (1, 2)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for message in told:
        before = found.setdefault(message.stage, message.ids)
        found[message.stage] = before[: common(before, message.ids)]
    return found


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning.

    >>> common((1, 2, 3), (1, 2, 4, 5)), common((), (1,))
    (2, 0)
    """
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _rounds(
    messages: Sequence[Told],
    needs: Mapping[str, frozenset[str]],
    adapters: Mapping[str, Adapted],
    statics: Mapping[str, tuple[int, ...]],
    drafts: bool,
) -> list[Round]:
    ends: dict[str, int] = {}
    rounds: list[Round] = []
    seen: list[tuple[int, ...]] = list(statics.values())
    for message in _ordered(messages, needs):
        start = max((ends.get(before, 0) for before in needs[message.step]), default=0)
        ends[message.step] = start + min(len(message.decisions), 1 if drafts else len(message.decisions))
        rounds += [Round() for _ in range(ends[message.step] - len(rounds))]
        whole = message.ids + message.tokens
        done = len(statics[message.stage])
        known = max(common(whole, other) for other in seen)
        for index, place in enumerate(message.decisions):
            until = len(message.ids) + place
            part = rounds[start if drafts else start + index]
            part.upper += until - done
            part.lower += max(0, until - max(done, known))
            part.adapted += adapters[message.stage].weights * (until - done)
            part.decisions += 1
            part.attended += (until * (until + 1) - done * (done + 1)) // 2
            part.context += until
            done = until
        seen.append(whole[:done])
    return rounds


def _ordered(messages: Sequence[Told], needs: Mapping[str, frozenset[str]]) -> list[Told]:
    """The run's messages, each after those it needs; steps that were passed over have none."""
    left = {message.step: message for message in messages}
    found: list[Told] = []
    while left:
        ready = [step for step in left if not needs[step] & left.keys()]
        found += [left.pop(step) for step in ready]
    return found


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


__all__ = ["Adapted", "Rates", "Round", "Shape", "Told", "Work", "common", "static_prefixes", "work_of"]
