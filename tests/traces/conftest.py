"""What the tests of estimates share."""

from torch import Tensor

from pullback.traces import Estimate


def bounds(estimate: Estimate) -> tuple[Tensor, Tensor]:
    """The lower and the upper bound of an estimate that has both."""
    assert estimate.lower is not None
    assert estimate.upper is not None
    return estimate.lower, estimate.upper
