"""What a map returned, read as (mean, std)."""

from typing import Any

from torch import Tensor

RETURNS = ("mean", "mean_std", "mean_var", "mean_logvar", "distribution")
CHOICES = ", ".join(f"{choice!r}" for choice in RETURNS)


def read_output(output: Any, returns: str | None) -> tuple[Tensor, Tensor | None]:
    """Mean and std of what a map returned; std is None for a deterministic map.

    Raises:
        TypeError: it is not what was declared, or could mean several things.
    """
    if returns in (None, "distribution") and _is_distribution(output):
        return output.mean, _spread(output)
    if returns in (None, "mean"):
        if isinstance(output, Tensor):
            return output, None
    elif returns != "distribution" and _is_pair(output):
        mean, spread = output
        return mean, _std(spread, returns)
    raise TypeError(_advice(output, returns))


def _std(spread: Tensor, returns: str) -> Tensor:
    if returns == "mean_var":
        return spread.sqrt()
    return spread if returns == "mean_std" else (0.5 * spread).exp()


def _advice(output: Any, returns: str | None) -> str:
    what = _describe(output)
    if returns is not None:
        pick = ".chunk(2, dim=1)" if isinstance(output, Tensor) else "[:2]"
        return (
            f"the map was declared returns={returns!r} but returned {what}; "
            f"the choices are {CHOICES}, and a function can pick from what the module "
            f"returns, e.g. pb.as_map(lambda x: module(x){pick}, returns='mean_logvar')"
        )
    return (
        f"the map returned {what}, which could mean several things; declare it with "
        f"pb.as_map(fn, returns=...), one of {CHOICES}, around a function that returns "
        "just that"
    )


def _is_pair(output: Any) -> bool:
    return (
        isinstance(output, tuple | list)
        and len(output) == 2
        and all(isinstance(item, Tensor) for item in output)
    )


def _is_distribution(output: Any) -> bool:
    # Tensors have methods of these names; some distributions have no mean in closed form.
    try:
        return isinstance(output.mean, Tensor) and isinstance(_spread(output), Tensor)
    except (AttributeError, NotImplementedError):
        return False


def _spread(output: Any) -> Any:
    return getattr(output, "stddev", getattr(output, "std", None))


def _describe(output: Any) -> str:
    if isinstance(output, tuple | list):
        inside = ", ".join(_describe(item) for item in output)
        return f"a {type(output).__name__} ({inside})"
    if isinstance(output, dict):
        return f"a dict with keys {list(output)}"
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"an object of type {type(output).__name__}"
