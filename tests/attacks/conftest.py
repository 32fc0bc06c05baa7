"""Encoders whose best attacks are known, and what all attacks have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pullback as pb
from pullback.attacks import EigenAttack, GradientAttack, PGDAttack, RandomAttack

DTYPES = [torch.float32, torch.float64]
ATTACKS: dict[str, Callable[..., Any]] = {
    "random": RandomAttack,
    "eigenvector": EigenAttack,
    "gradient": GradientAttack,
    "pgd": PGDAttack,
    "pgd-eigenvector": lambda encoder, **options: PGDAttack(
        encoder, start="eigenvector", restarts=2, **options
    ),
}


def linear(dtype=torch.float64, inputs: int = 20, outputs: int = 6, ratio: float = 0.5):
    """x ↦ Ax with singular values √ratioⁱ, as a map, and A."""
    U = torch.linalg.qr(torch.randn(outputs, outputs, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(inputs, outputs, dtype=torch.float64))[0]
    sigma = ratio ** (torch.arange(outputs, dtype=torch.float64) / 2)
    A = ((U * sigma) @ V.mT).to(dtype)
    return pb.as_map(lambda x: x.flatten(1) @ A.mT), A


def curved(dtype=torch.float64, inputs: int = 16, outputs: int = 4) -> pb.Map:
    """A mean only, through one hidden layer of tanh that is far from linear over a unit step."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, outputs))
    for parameter in net.parameters():
        parameter.data.mul_(3)
    return pb.as_map(net.to(dtype))


def moved(encoder: pb.Map, x: Tensor, other: Tensor) -> Tensor:
    """‖μ(other) − μ(x)‖."""
    with torch.no_grad():
        return (encoder(other)[0] - encoder(x)[0]).flatten(1).norm(dim=1)
