"""NaN and infinite values, named by the sample that holds them."""

from torch import Tensor


def require_finite(values: Tensor, problem: str, first: int = 0) -> None:
    """Raise a ValueError that names the samples of ``(B, *rest)`` which are not all finite.

    Samples are counted from ``first``.
    """
    bad = (~values.detach().flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(first + i) for i in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise ValueError(f"{problem} in sample {shown}")
