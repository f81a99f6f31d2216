"""One checkpoint in memory, under the executor that suits it and each of its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ...errors import BackendError, CheckpointError
from ...settings import TorchSettings
from ..protocol import ModelRef
from . import adapters
from .encoding import Ids
from .fused import lora
from .fused.flight import Flight
from .fused.products import Format, choose
from .fused.shape import Shape, unsupported
from .generic import Generic, OnForward, likelihood
from .models import Resident
from .row import Row


class Executor(Protocol):
    """What moves rows: :class:`.generic.Generic` or :class:`.fused.flight.Flight`, beside how a row is admitted."""

    @property
    def rows(self) -> Sequence[Row]:
        """The rows in flight."""
        ...

    def tick(self) -> None:
        """Run one forward, and let the rows that were fed to their end choose."""
        ...

    def drop(self) -> list[Row]:
        """Take out the rows that are finished, failed or no longer wanted, and return them."""
        ...

    def clear(self) -> list[Row]:
        """Take out every row, after a failure."""
        ...


@dataclass(slots=True)
class Hosted:
    """A checkpoint folder. The fused executor runs what it can; the generic one is loaded when it is needed."""

    path: Path
    settings: TorchSettings
    device: torch.device
    on_forward: OnForward | None = None
    _config: Any = None
    _why_not: str | None = None
    _flight: Flight | None = None
    _generic: Generic | None = None
    _resident: Resident | None = None
    _tuned: dict[tuple[Path, str | None], lora.Tuned | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the configuration, which says who may run it."""
        from transformers import AutoConfig

        try:
            self._config = AutoConfig.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises nearly anything on a broken file
            raise CheckpointError(
                f"the configuration cannot be read: {type(error).__name__}: {error}",
                where=str(self.path),
                hint="fetch the checkpoint again: `fslm models pull`, then `fslm models verify`",
            ) from None
        if self.settings.executor == "generic":
            self._why_not = "setting torch.executor"
        else:
            self._why_not = unsupported(self._config)
        if self._why_not is not None:
            self._refuse(self._why_not)

    def _refuse(self, why: str) -> None:
        if self.settings.executor == "fused":
            raise BackendError(
                "the fused executor cannot run this model",
                where="setting torch.executor",
                found=f"{why}, {self.path}",
                expected="a Llama, Mistral, Qwen2 or Qwen3 decoder with full attention, and LoRA on its layers",
                hint='set torch.executor to "auto" or "generic"',
            )
        if self.settings.precision not in ("auto", "bfloat16", "float32"):
            raise BackendError(
                f"only the fused executor computes in {self.settings.precision}",
                where="setting torch.precision",
                found=f"{why}, {self.path}",
                expected='"auto", "float32" or "bfloat16"',
                hint='set torch.precision to "auto"',
            )

    @property
    def executors(self) -> list[Executor]:
        """Those that are loaded."""
        return [e for e in (self._flight, self._generic) if e is not None]

    def admit(self, row: Row, ref: ModelRef) -> bool:
        """Take a row into flight, or return False while there is no place for it.

        Raises:
            AdapterError: the adapter does not fit.
            CheckpointError: the weights do not load.
        """
        adapter = self._adapter(ref)
        if isinstance(adapter, str):
            return self._reference().admit(row, ref)
        return self._fused().admit(row, adapter)

    def runs(self, ref: ModelRef) -> str:
        """Load what ``ref`` needs, run one token through it, and say where, how and in which number format."""
        adapter = self._adapter(ref)
        if not isinstance(adapter, str):
            self._fused().likelihoods((0,), [(0,)], adapter)
            return f"{self.device.type} {self._format} fused"
        self._reference()
        resident = self._resident
        assert resident is not None
        resident.use(ref)
        likelihood(resident, (0,), (0,))
        return f"{self.device.type} {str(resident.model.dtype).removeprefix('torch.')} generic"

    def likelihoods(self, prompt: Ids, continuations: Sequence[Ids], ref: ModelRef) -> list[float]:
        """The natural-log likelihood of each continuation after ``prompt``."""
        adapter = self._adapter(ref)
        if not isinstance(adapter, str):
            return self._fused().likelihoods(prompt, continuations, adapter)
        self._reference()
        assert self._resident is not None
        self._resident.use(ref)
        return [likelihood(self._resident, prompt, continuation) for continuation in continuations]

    @property
    def _format(self) -> Format:
        return choose(self.settings.precision, self._config.dtype, self.device)

    def _fused(self) -> Flight:
        if self._flight is None:
            self._flight = Flight(
                self.path,
                self._config,
                self._format,
                self.device,
                most=self.settings.max_batch,
                budget=self.settings.cache_mb << 20,
                on_forward=self.on_forward,
            )
        return self._flight

    def _reference(self) -> Generic:
        if self._generic is None or self._resident is None or self._resident.broken:
            self._resident = Resident(self.path, self.device, self.settings.precision)
            self._generic = Generic(self._resident, self.settings.max_batch, self.on_forward)
        return self._generic

    def _adapter(self, ref: ModelRef) -> lora.Tuned | str | None:
        """The adapter as the fused executor adds it, or why only the generic one can run this."""
        if self._why_not is not None:
            return self._why_not
        if ref.adapter is None:
            return None
        key = (ref.adapter, ref.adapter_sha256)
        if key not in self._tuned:
            found = adapters.read(
                ref.adapter, sha256=ref.adapter_sha256, checkpoint=ref.checkpoint, config=self._config
            )
            if (why := lora.unsupported(found)) is not None:
                self._refuse(why)
                self._tuned[key] = why
            else:
                tuned = lora.prepare(found, Shape.of(self._config), self.device)
                self._fused().know(tuned)
                self._tuned[key] = tuned
        return self._tuned[key]


__all__ = ["Executor", "Hosted"]
