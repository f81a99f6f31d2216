"""Training by several processes, as ``torchrun`` and ``accelerate launch`` start them.

Each has the whole plan, takes its share of every batch's rows, and adds its gradients to those of the others; so a step
is what it is with one process. The main one alone writes, judges and tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import TrainError
from ..settings import TorchSettings

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""Others wait while the main process judges an epoch."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all; by default there is no other."""

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    def share(self, rows: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch; empty where the batch has fewer rows than there are processes.

        >>> Processes(1, 2).share([4, 5, 6])
        [5]
        """
        return rows[self.index :: self.count]

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes of it; the others wait for that."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[Any] = [make() if self.main else None]
        with self._together():
            broadcast_object_list(made)
        found: T = made[0]
        return found

    def wait(self) -> None:
        """Go on when all are here."""
        self.any(False)

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        from accelerate.utils import gather_object

        with self._together():
            said = gather_object([flags])
        return [any(each) for each in zip(*said, strict=True)]

    def add_up(self, tensors: Iterable[Any]) -> None:
        """Set each tensor to its sum over all processes."""
        if self.count == 1:
            return
        import torch
        from accelerate.utils import reduce

        own = list(tensors)
        with self._together():
            whole = reduce(torch.cat([tensor.flatten() for tensor in own]), reduction="sum")
        for tensor, part in zip(own, whole.split([tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(part.view_as(tensor))

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say it plainly where another process is gone; it has told its own reason."""
        try:
            yield
        except RuntimeError:  # of which torch's errors of this kind are
            raise TrainError(
                "another of the processes has ended",
                where=f"process {self.index + 1} of {self.count}",
                hint="see what that one told; then run the same command again, with --resume to go on",
            ) from None


ALONE = Processes()


def join(settings: TorchSettings) -> Processes:
    """Find the other processes, if whoever started this one started others beside it."""
    if (count := _count()) <= 1:
        return ALONE
    import torch
    from accelerate import PartialState

    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())
    state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    if state.num_processes != count:
        refuse_several(f"training on {settings.device}")
    return Processes(state.process_index, state.num_processes)


def leave(processes: Processes) -> None:
    """Say goodbye to the others."""
    if processes.count > 1:
        import torch

        torch.distributed.destroy_process_group()


def is_main() -> bool:
    """Whether this process is the only one, or the main one of several."""
    return _count() <= 1 or os.environ.get("RANK", "0") == "0"


def refuse_several(what: str) -> None:
    """Make sure that there is one process where only one can do it.

    Raises:
        TrainError: there are several.
    """
    if (count := _count()) > 1:
        raise TrainError(
            f"{what} is done by one process",
            where="WORLD_SIZE, which torchrun and accelerate launch set",
            found=f"{count} processes",
            hint="start the same command without a launcher; several processes can train one stage by `fslm train`",
        )


def _count() -> int:
    given = os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdecimal() else 1


__all__ = ["ALONE", "Processes", "is_main", "join", "leave", "refuse_several"]
