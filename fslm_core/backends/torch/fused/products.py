"""Products with a weight matrix, one class for each number format.

Every product takes and gives float32; the formats differ in how the weight is kept and how the sums are done:

- ``float32``: as it says.
- ``bfloat16``: inputs and weights in bfloat16, sums in float32 (oneDNN). Quick where the CPU or GPU multiplies it.
- ``float16``: weights packed in float16, inputs and sums in float32 (FBGEMM). A bfloat16 checkpoint loses nothing
  that matters: float16 has three more bits of mantissa, and a weight below 6e-8 is as good as none.
- ``int8``: weights by output channel and inputs by row in 255 steps each, sums in int32 (FBGEMM); in 181 steps on CPUs
  without VNNI, which add two products in 16 bits, and full ranges would overflow those without a word.
- ``int4``: weights in 4 bits by group of 32 inputs, with scale and zero point; inputs and sums in float32.
"""

from __future__ import annotations

import math
import platform
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ....errors import BackendError
from ..machine import FAST_BFLOAT16

Format = Literal["float32", "bfloat16", "float16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("float32", "bfloat16", "float16", "int8", "int4")
INT4_GROUP = 32
REACHES = (127, 90)
"""In int8, weights lie between minus and plus this, inputs too but for an offset that makes them positive. At 90 two
products come to 2 * 90 * 181 = 32,580 at most, and 16 bits hold 32,767."""
_SPREAD = 32


class Product(Protocol):
    """A packed weight."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        ...


class Plain:
    """float32 or bfloat16, on any device."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype).contiguous()
        self._bias = None if bias is None else bias.to(dtype)
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        return functional.linear(x.to(self._dtype), self._weight, self._bias).float()


class Blocked:
    """bfloat16 on a CPU that multiplies it, the weight laid out once in the blocks that oneDNN reads.

    :class:`Plain` has it laid out anew for every product, and gave the same to the bit where both were tried.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous())
        self._bias = None if bias is None else bias.bfloat16()
        self._multiply: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        return self._multiply(x.bfloat16(), self._packed, self._bias, "none", [], "").float()


class Half:
    """float16 weights, float32 sums (FBGEMM)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
        self._multiply: Callable[..., Tensor] = torch.ops.quantized.linear_dynamic_fp16.default

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        return self._multiply(x, self._packed)


class Int8:
    """Whole numbers for weights by output channel and for inputs by row (FBGEMM).

    Inputs and weights are turned alike first, by a Hadamard matrix over every 32 neighbouring inputs, which changes no
    product but spreads the few great inputs that would leave no steps for the others (QuaRot: Ashkboos et al. 2024,
    arXiv 2404.00456). Each row is then divided by its own greatest magnitude, so that one scale serves all of them
    and a row's result does not depend on its neighbours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, reach: int) -> None:
        self._width = math.gcd(weight.shape[1], _SPREAD)
        self._turn = _hadamard(self._width)
        weight = self._turned(weight.float()).div_(self._width)
        scales = (weight.abs().amax(1) / reach).clamp_min(torch.finfo(torch.float32).tiny).double()
        whole = (weight / scales[:, None].float()).round().clamp(-reach, reach).to(torch.int8)
        self._multiply = _multiplication(whole, scales, reach)
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        x = self._turned(x)
        largest = x.abs().amax(1, keepdim=True).clamp_min_(1e-30)
        y = self._multiply(x.div_(largest)).mul_(largest)
        return y if self._bias is None else y.add_(self._bias)

    def _turned(self, x: Tensor) -> Tensor:
        """Turn each piece of the inputs; what is turned twice is ``width`` times itself."""
        return (x.reshape(-1, self._width) @ self._turn).view_as(x)


def _multiplication(whole: Tensor, scales: Tensor, reach: int) -> Callable[[Tensor], Tensor]:
    """FBGEMM's product of an int8 weight [out, in], float64 scales [out], and inputs between -1 and 1, float32."""
    zeros = torch.zeros(len(whole), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these tensors go some day; this one is gone at once
        quantised = torch._make_per_channel_quantized_tensor(whole, scales, zeros, 0)
    packed = torch.ops.quantized.linear_prepack(quantised, None)
    multiply: Callable[..., Tensor] = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return lambda x: multiply(x, 1 / reach, reach + 1, packed)


@cache
def int8_reach() -> int:
    """The most of :data:`REACHES` with which FBGEMM's sums are exact on this CPU, seen by summing the greatest."""
    size, highest = 64, REACHES[0]
    whole = torch.full((16, size), highest, dtype=torch.int8)
    multiply = _multiplication(whole, torch.ones(16, dtype=torch.double), highest)
    found = [multiply(torch.ones(rows, size)) for rows in (1, 7, 64)]
    return highest if all(bool((y == size * highest).all()) for y in found) else REACHES[1]


def _hadamard(size: int) -> Tensor:
    """Sylvester's Hadamard matrix of ones and minus ones, float32 [size, size]; the size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


class Int4:
    """4-bit weights by group of 32 inputs. The kernel wants multiples of 32 inputs and of 16 outputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        rows, columns = weight.shape
        if columns % INT4_GROUP or rows % 16:
            raise BackendError(
                "a weight matrix of this shape has no int4 form",
                where="setting torch.precision",
                found=f"{rows} by {columns}",
                expected=f"multiples of 16 and of {INT4_GROUP}",
                hint='choose another torch.precision, such as "int8"',
            )
        groups = weight.float().reshape(rows, -1, INT4_GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp_min(1e-8)
        codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.reshape(rows, columns), 1)
        middle = low + 8 * scale  # the kernel computes (code - 8) * scale + zero
        self._scales = torch.stack([scale.T, middle.T], 2).contiguous()
        self._bias = None if bias is None else bias.float()
        self._multiply: Callable[..., Tensor] = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        y = self._multiply(x, self._packed, INT4_GROUP, self._scales)
        return y if self._bias is None else y.add_(self._bias)


def pack(
    weight: Tensor, bias: Tensor | None, number_format: Format, device: torch.device, *, kept: bool = False
) -> Product:
    """Pack a weight [out, in] with its bias [out] or None.

    Args:
        kept: the weight is kept elsewhere anyway, so formats that can multiply by it as it is shall share it.

    Raises:
        BackendError: the shape has no such form.
    """
    match number_format:
        case "bfloat16" if not kept and _has_blocks(device):
            return Blocked(weight, bias)
        case "float32" | "bfloat16":
            dtype = torch.float32 if number_format == "float32" else torch.bfloat16
            return Plain(weight.to(device), None if bias is None else bias.to(device), dtype)
        case "float16":
            return Half(weight, bias)
        case "int8":
            return Int8(weight, bias, int8_reach())
        case "int4":
            return Int4(weight, bias)


def _has_blocks(device: torch.device) -> bool:
    """Whether oneDNN is there and this CPU has what its bfloat16 kernels need."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def choose(precision: str, stored: torch.dtype | None, device: torch.device) -> Format:
    """Return the number format for a setting.

    ``auto`` loses nothing that the checkpoint holds: float32 for one of float32; for others bfloat16 where it is
    multiplied in hardware, else float16 where FBGEMM is, else float32.

    Args:
        stored: the checkpoint's own type; None where it does not say.

    Raises:
        BackendError: this device or build of torch has no kernels for the format.
    """
    has_fbgemm = device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    if precision == "auto":
        able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        if stored not in (torch.bfloat16, torch.float16):
            return "float32"
        if device.type != "cpu" or any(able.get(name) for name in FAST_BFLOAT16):
            return "bfloat16"
        return "float16" if has_fbgemm else "float32"
    for number_format in FORMATS:
        if number_format == precision:
            break
    else:
        raise AssertionError(precision)
    if (number_format in ("float16", "int8") and not has_fbgemm) or (number_format == "int4" and device.type != "cpu"):
        raise BackendError(
            f"there are no {precision} kernels here",
            where="setting torch.precision",
            found=f"{device.type}, {platform.machine()}, torch {torch.__version__}",
            expected='"auto", "float32" or "bfloat16"',
            hint='set torch.precision to "auto"',
        )
    return number_format


__all__ = ["FORMATS", "REACHES", "Format", "Int8", "Product", "choose", "int8_reach", "pack"]
