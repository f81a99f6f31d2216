"""What torch finds on this machine, for ``fslm doctor``."""

from __future__ import annotations

from importlib.util import find_spec


def describe() -> dict[str, str]:
    """Return devices, threads and the instruction set torch's kernels use; empty where torch is not installed.

    Raises:
        Exception: whatever a broken installation raises when it is imported.
    """
    if find_spec("torch") is None:
        return {}
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(count)]
    return {
        "device": ", ".join(["cpu", *gpus]),
        "threads": f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between",
        "kernels use": torch.backends.cpu.get_cpu_capability(),
    }


__all__ = ["describe"]
