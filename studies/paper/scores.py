"""What VAEs with mixup and without are compared by, for every image."""

from collections.abc import Callable, Mapping

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray]
SCORES: dict[str, Callable[[Arrays], NDArray]] = {
    "ρ": lambda arrays: arrays["eigenvalues"][..., 0],
    "S": lambda arrays: arrays["entropy"],
    "S max": lambda arrays: arrays["entropy_max"],
    "λ₁/Σλ": lambda arrays: arrays["eigenvalues"][..., 0] / arrays["trace"],
    "MSE": lambda arrays: arrays["reconstruction_error"],
}


def marked_labels(arrays: Arrays) -> list[str]:
    """What the steps are called whose errors are kept for every image."""
    marked = arrays["marked"]
    pairs = zip(arrays["delta"][marked], arrays["power"][marked], strict=True)
    return [f"error at {'δ =' if power == 1 else 'norm'} {delta:.3g}" for delta, power in pairs]


def by_name(arrays: Arrays) -> dict[str, NDArray]:
    """Every score, ``(..., sample)``, the errors after the marked steps among them."""
    found = {name: score(arrays).astype(float) for name, score in SCORES.items()}
    labels = marked_labels(arrays)
    return found | {
        label: arrays["attack_error"][..., k].astype(float) for k, label in enumerate(labels)
    }
