"""The rotation of queries and keys by their position (RoPE: Su et al. 2021, arXiv 2104.09864), in place.

Checkpoints turn component i of a head with i + head / 2. In float32 they are packed as neighbours, so that each pair
is one complex number (:func:`interleaved`). In bfloat16 they stay where they are, and every step is rounded as
transformers rounds it: another order of a head's components would change the sums of their products.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rotation:
    """By the angles of some tokens.

    Args:
        angles: float32 [tokens, 1, head / 2].
        stretch: what cosine and sine are multiplied by.
        carried: the type of what is to be turned.
    """

    def __init__(self, angles: Tensor, stretch: float, carried: torch.dtype) -> None:
        self._turns: Tensor | None = None
        if carried == torch.float32:
            self._turns = torch.polar(torch.full_like(angles, stretch), angles)
        else:
            cosines, sines = ((part * stretch).to(carried) for part in (angles.cos(), angles.sin()))
            self._cosines, self._sines = torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1)

    def turn(self, heads: Tensor) -> None:
        """Turn queries or keys, [tokens, any heads, head], in place."""
        half = heads.shape[-1] // 2
        if self._turns is not None:
            torch.view_as_complex(heads.view(*heads.shape[:-1], half, 2)).mul_(self._turns)
        else:
            across = torch.cat((heads[..., half:], heads[..., :half]), -1).mul_(self._sines)
            heads.mul_(self._cosines).add_(across)


def interleaved(weight: Tensor, head: int) -> Tensor:
    """Reorder the rows of a query or key matrix [heads * head, …] so that each pair that is turned lies together.

    Products of queries and keys do not change when both are reordered alike.
    """
    pairs: Tensor = weight.unflatten(0, (-1, 2, head // 2))
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()


__all__ = ["Rotation", "interleaved"]
