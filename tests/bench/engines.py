"""Who takes part: our engines by executor and precision, and the arms of the peers.

>>> [engine.name for engine in chosen("naive,fused-int*")]
['naive', 'fused-int8', 'fused-int4']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from .problems import BenchError

Kind = Literal["naive", "torch", "peer", "replay", "replay-peer"]
Precision = Literal["float32", "16-bit", "int8", "int4", "auto"]
CLASSES: Mapping[str, Precision] = {
    "float32": "float32",
    "bfloat16": "16-bit",
    "float16": "16-bit",
    "int8": "int8",
    "int4": "int4",
    "auto": "auto",
}
"""A number format to its class: what an engine is compared with at equal precision."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine as it is measured.

    Attributes:
        kind: which backend its worker opens.
        precision: its class; ``auto`` may be of several.
        torch: settings of the torch backend, by name.
        peer: the peer's name and arm, for other engines.
    """

    name: str
    kind: Kind
    precision: Precision
    torch: Mapping[str, Any] = field(default_factory=dict)
    peer: tuple[str, str] | None = None

    @property
    def ours(self) -> bool:
        """Whether it is fslm itself; the naive loop and the peers are not."""
        return self.kind == "torch"

    def plain(self) -> dict[str, Any]:
        """As JSON data; :meth:`of` reads it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> EngineSpec:
        """The engine of :meth:`plain`."""
        peer = plain["peer"]
        return cls(**{**plain, "peer": None if peer is None else (peer[0], peer[1])})


def _torch(executor: str, precision: str, name: str | None = None) -> EngineSpec:
    name = name or f"{executor}-{precision}"
    return EngineSpec(name, "torch", CLASSES[precision], {"executor": executor, "precision": precision})


REFERENCE = _torch("generic", "float32", "generic")
"""What every other engine's scores and messages are held against."""
OURS: Sequence[EngineSpec] = (
    EngineSpec("naive", "naive", "float32"),
    REFERENCE,
    _torch("generic", "bfloat16"),
    *(_torch("fused", precision) for precision in ("float32", "bfloat16", "float16", "int8", "int4", "auto")),
)
USUAL = "naive,generic,fused-*"
"""``generic-bfloat16`` is slow where bfloat16 is emulated: it runs if it is named."""


def peer_engines() -> list[EngineSpec]:
    """Every arm of every peer in the registry, as ``peer:arm``."""
    from .peers import PEERS

    return [
        EngineSpec(f"{name}:{arm}", "peer", _class_of(arm), peer=(name, arm))
        for name, peer in PEERS.items()
        for arm in peer.arms
    ]


SIGNS: Mapping[str, Precision] = {
    "int4": "int4", "4bit": "int4", "q4": "int4", "int8": "int8", "8bit": "int8", "q8": "int8",
    "bf16": "16-bit", "f16": "16-bit", "fp16": "16-bit", "16bit": "16-bit", "bfloat16": "16-bit", "float16": "16-bit",
    "f32": "float32", "fp32": "float32", "32bit": "float32", "float32": "float32",
}  # fmt: skip


def _class_of(arm: str) -> Precision:
    """The precision class that an arm's name says.

    >>> _class_of("q4_1-adapters"), _class_of("merged-fp16"), _class_of("merged")
    ('int4', '16-bit', 'auto')
    """
    words = arm.lower().replace("_", "-").split("-")
    return next((SIGNS[word] for word in words if word in SIGNS), "auto")


def chosen(names: str | None, *, peers: bool = False) -> list[EngineSpec]:
    """The engines that ``names`` asks for, in the registry's order.

    Args:
        names: names and patterns with a ``*``, joined by commas; None for the usual ones of ours, and every arm of
            every peer if ``peers``.
        peers: whether to look at the peers at all.

    Raises:
        BenchError: one of the names is no engine's.
    """
    every = [*OURS, *(peer_engines() if peers else ())]
    patterns = (names or (f"{USUAL},*:*" if peers else USUAL)).split(",")
    found = [engine for engine in every if any(fnmatchcase(engine.name, pattern) for pattern in patterns)]
    unknown = [pattern for pattern in patterns if not any(fnmatchcase(engine.name, pattern) for engine in every)]
    if unknown and names is not None:
        listed = ", ".join(engine.name for engine in every)
        raise BenchError(f"no engine is called {', '.join(unknown)}; there are {listed}")
    return found


__all__ = ["CLASSES", "OURS", "REFERENCE", "USUAL", "EngineSpec", "Precision", "chosen", "peer_engines"]
