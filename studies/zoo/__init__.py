"""Which encoders of other packages are captured, and what it takes to declare them."""

import torch

import pullback as pb
from pullback.products.captured import CapturedLinearization


def is_captured(encoder: pb.Map, x: torch.Tensor) -> bool:
    """Whether the map's products at x come from captured graphs."""
    return isinstance(pb.jacobian(encoder, x)._linearization(), CapturedLinearization)
