"""What torch finds on this machine, for ``fslm doctor``."""

from __future__ import annotations

from importlib.util import find_spec

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU capabilities with which bfloat16 is not emulated. Without them a product takes up to eight times longer."""


def describe() -> dict[str, str]:
    """Return torch's build, devices, threads and what its kernels use; empty where torch is not installed.

    ``build`` is ``cpu``, ``cuda N.N`` or ``rocm N.N``: what torch was built for, whether there is such a device or not.

    Raises:
        Exception: whatever a broken installation raises when it is imported.
    """
    if find_spec("torch") is None:
        return {}
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(count)]
    able = torch.cpu.get_capabilities()
    fast = [name for name in FAST_BFLOAT16 if able.get(name)]
    return {
        "build": _build(torch.version.cuda, getattr(torch.version, "hip", None)),
        "device": ", ".join(["cpu", *gpus]),
        "threads": f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between",
        "kernels use": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": f"in hardware ({', '.join(fast)})" if fast else "emulated: precision auto computes in float32",
    }


def _build(cuda: str | None, hip: str | None) -> str:
    return f"rocm {hip}" if hip else f"cuda {cuda}" if cuda else "cpu"


__all__ = ["FAST_BFLOAT16", "describe"]
