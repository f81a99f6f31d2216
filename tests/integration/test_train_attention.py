"""Attention for training equals torch's own, in its values and in all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fslm_core.train.attention import attend

pytestmark = pytest.mark.torch


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 3), group=st.integers(1, 3), own=st.integers(1, 2),
    tokens=st.integers(1, 6), before=st.integers(0, 4), given_mask=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_and_its_gradients_equal_torch(
    rows: int, group: int, own: int, tokens: int, before: int, given_mask: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    seen = tokens + before
    shapes = [(rows, own * group, tokens, 4), (rows, own, seen, 4), (rows, own, seen, 4)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    hidden = torch.ones(tokens, seen, dtype=torch.bool).triu(before + 1)
    mine = attend(q, k, v, hidden if given_mask else None)
    wide = [t.repeat_interleave(group, 1) for t in (k, v)]
    theirs = scaled_dot_product_attention(q, *wide, attn_mask=~hidden)
    assert torch.allclose(mine, theirs)
    toward = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(mine, (q, k, v), toward), torch.autograd.grad(theirs, (q, k, v), toward), strict=True
    ):
        assert torch.allclose(a, b)
