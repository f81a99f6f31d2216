"""The divergences of distillation, against their definitions in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fslm_core.train.distill.divergence import _ROWS, Kind, divergence

pytestmark = pytest.mark.torch

KINDS: list[tuple[Kind, float]] = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1), ("jsd", 0.5), ("jsd", 0.9)]


def logits(rows: int, words: int, *, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, rows, words, generator=generator, dtype=torch.float64).mul(scale)
    return one, other


def by_definition(student: Tensor, teacher: Tensor, kind: Kind, beta: float, temperature: float) -> Tensor:
    """As it is written: probabilities, their quotients, sums."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    kl: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a * (a / b).log()).sum(-1)  # noqa: E731
    m = beta * p + (1 - beta) * q
    made = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m)}
    return made[kind] * temperature**2


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_and_its_gradient_are_those_of_the_definition(kind: Kind, beta: float, temperature: float) -> None:
    student, teacher = logits(_ROWS + 3, 11)
    weights = torch.arange(1.0, len(student) + 1, dtype=torch.float64)
    own, plain = (student.clone().requires_grad_() for _ in range(2))
    mine = divergence(own, teacher, kind, beta=beta, temperature=temperature)
    theirs = by_definition(plain, teacher, kind, beta, temperature)
    torch.testing.assert_close(mine, theirs)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(own.grad, plain.grad)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_its_gradient_is_the_slope(kind: Kind, beta: float) -> None:
    student, teacher = logits(3, 7)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: divergence(logits, teacher, kind, beta=beta, temperature=2.0), (student,)
    )


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_equal_logits_are_nothing_apart(kind: Kind, beta: float) -> None:
    student = logits(4, 9)[0].float().requires_grad_()
    apart = divergence(student, student.detach().clone(), kind, beta=beta, temperature=3.0)
    apart.sum().backward()
    assert student.grad is not None
    assert apart.abs().max() < 1e-5 and student.grad.abs().max() < 1e-6


def test_near_its_ends_jsd_goes_to_the_two_kls() -> None:
    """GKD, section 2: JSD divided by β goes to the forward KL for β → 0; by symmetry for the other end."""
    student, teacher = logits(6, 9, scale=1.0)
    for near, least, kind in ((1e-6, 1e-6, "forward_kl"), (1 - 1e-6, 1e-6, "reverse_kl")):
        own, plain = (student.clone().requires_grad_() for _ in range(2))
        apart = divergence(own, teacher, "jsd", beta=near) / least
        limit = by_definition(plain, teacher, kind, 0.5, 1.0)  # type: ignore[arg-type]
        torch.testing.assert_close(apart, limit, rtol=1e-4, atol=1e-6)
        apart.sum().backward()
        limit.sum().backward()
        torch.testing.assert_close(own.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_jsd_is_symmetric_at_a_half_and_at_most_log_2() -> None:
    student, teacher = logits(6, 9, scale=30.0)
    one = divergence(student, teacher, "jsd", beta=0.5)
    torch.testing.assert_close(one, divergence(teacher, student, "jsd", beta=0.5))
    assert one.max() <= torch.log(torch.tensor(2.0)) + 1e-9


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fewer_bits_cost_fewer_bits(kind: Kind, beta: float, dtype: torch.dtype) -> None:
    """Whatever the logits come in, it is computed in float32; probabilities that vanish do no harm."""
    student, teacher = (each.to(dtype) for each in logits(5, 50, scale=40.0))
    own, plain = student.clone().requires_grad_(), student.double().requires_grad_()
    mine = divergence(own, teacher, kind, beta=beta)
    p, q = teacher.double().log_softmax(-1), plain.log_softmax(-1)
    m = torch.logaddexp(p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())
    kl: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a.exp() * (a - b)).sum(-1)  # noqa: E731
    theirs = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m)}[kind]
    mine.sum().backward()
    theirs.sum().backward()
    assert mine.dtype == torch.float32 and own.grad is not None and own.grad.dtype == dtype
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)
    assert plain.grad is not None
    torch.testing.assert_close(own.grad.double(), plain.grad, rtol=1e-2, atol=1e-4)
