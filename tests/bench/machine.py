"""What the benchmark ran on, and what that machine can do: memory bandwidth and arithmetic rates."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import ROOT
from .limit import Rates

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("fslm-core", "torch", "transformers", "peft", "llguidance", "tokenizers", "numpy", "pydantic")
ARRAY = 256 << 20
"""Bytes that are read or copied: far more than any cache holds."""
SHAPES = ((256, 576, 1536), (512, 1536, 576), (1024, 1024, 1024))
"""Rows, inner and outer dimension of the products that are tried."""


def facts() -> dict[str, Any]:
    """The processor, its instructions that matter here, memory, Python and the packages' versions."""
    import psutil

    lines = _cpuinfo()
    flags = set(lines.get("flags", "").split())
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "flags": [name for name in FLAGS if name in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def rates(cores: Sequence[int]) -> Rates:
    """Measure in a process of its own, pinned to the cores, that then ends."""
    command = [sys.executable, "-m", "tests.bench", "rates", ",".join(map(str, cores))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    return Rates(**json.loads(done.stdout.splitlines()[-1]))


def best(several: Iterable[Rates]) -> Rates:
    """The greatest of each rate: what was once done can be done.

    >>> best([Rates(1, 2, 3, 4), Rates(4, 3, 2, 1)])
    Rates(bandwidth=4, float32=3, bfloat16=3, int8=4)
    """
    rows = [(r.bandwidth, r.float32, r.bfloat16, r.int8) for r in several]
    return Rates(*map(max, zip(*rows, strict=True)))


def measure_here(cores: Sequence[int]) -> None:
    """Measure in this process and print the rates as a line of JSON."""
    os.sched_setaffinity(0, cores)
    import torch

    torch.set_num_threads(len(cores))
    warnings.simplefilter("ignore")  # quantised tensors are deprecated; their kernels are what is measured
    with torch.inference_mode():
        found = {
            "bandwidth": _bandwidth(),
            "float32": max(_product(shape, torch.float32) for shape in SHAPES),
            "bfloat16": max(_product(shape, torch.bfloat16) for shape in SHAPES[:2]),
            "int8": max(_quantized(shape) for shape in SHAPES),
        }
    print(json.dumps(found))


def _fastest(work: Callable[[], object], seconds: float = 0.5) -> float:
    """The shortest of as many tries as fit in the time, at least three."""
    work()
    tries: list[float] = []
    while len(tries) < 3 or sum(tries) < seconds:
        began = time.perf_counter()
        work()
        tries.append(time.perf_counter() - began)
    return min(tries)


def _bandwidth() -> float:
    """Bytes a second: reading an array whole, or copying it (read and written)."""
    import torch

    array = torch.ones(ARRAY // 4, dtype=torch.float32)
    other = torch.empty_like(array)
    return max(ARRAY / _fastest(array.sum), 2 * ARRAY / _fastest(lambda: other.copy_(array)))


def _product(shape: tuple[int, int, int], dtype: Any) -> float:
    """Operations a second of a dense product [m, k] by [k, n]."""
    import torch

    m, k, n = shape
    left, right = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    return 2 * m * k * n / _fastest(lambda: torch.nn.functional.linear(left, right), 0.2)


def _quantized(shape: tuple[int, int, int]) -> float:
    """Operations a second of a linear map with 8-bit weights, activations quantised on the way; 0without one."""
    import torch

    m, k, n = shape
    ops: Any = torch.ops.quantized
    try:
        weight = torch.quantize_per_tensor(torch.randn(n, k), 0.05, 0, torch.qint8)
        packed = ops.linear_prepack(weight, None)
        left = torch.randn(m, k)
        return 2 * m * k * n / _fastest(lambda: ops.linear_dynamic(left, packed, True), 0.2)
    except RuntimeError:
        return 0.0


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


__all__ = ["best", "facts", "measure_here", "rates"]
