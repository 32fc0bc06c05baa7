"""What a map returned, read as (mean, std)."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
)

from ..arguments import require_choice

RETURNS = ("mean", "mean_std", "mean_var", "mean_logvar", "distribution")
CHOICES = ", ".join(f"{choice!r}" for choice in RETURNS)
_OF_PAIRS = ("mean_std", "mean_var", "mean_logvar")

# A key, an attribute or an index of what a map returns, or a pair of them.
Name = str | int
Pick = Name | tuple[Name, Name]


class Signature(NamedTuple):
    """What a map returns for one sample.

    Attributes:
        mean_shape: the shape of the mean's event.
        std_shape: that of the standard deviation: the same for independent noise, with one more
            dimension for the factor L of correlated noise z = μ + Lε; None for no noise.
    """

    mean_shape: torch.Size
    std_shape: torch.Size | None

    @property
    def num_outputs(self) -> int:
        """Length of the stacked output [μ; σ], of [μ; vec L], or of μ alone."""
        return self.mean_shape.numel() + (0 if self.std_shape is None else self.std_shape.numel())

    @property
    def num_noises(self) -> int:
        """How many standard normal numbers a sample of the code takes."""
        if self.std_shape is None:
            return 0
        if len(self.std_shape) == len(self.mean_shape):
            return self.std_shape.numel()
        return self.mean_shape[:-1].numel() * self.std_shape[-1]


def require_declaration(returns: str | None, pick: Any) -> Pick | None:
    """The names to pick, with a pair as a tuple.

    Raises:
        TypeError: ``pick`` is of another type.
        ValueError: ``returns`` is none of the five, or does not go with ``pick``.
    """
    if returns is not None:
        require_choice("returns", returns, RETURNS)
    if pick is None or _is_name(pick):
        return pick
    if isinstance(pick, tuple | list) and len(pick) == 2 and all(map(_is_name, pick)):
        if returns not in _OF_PAIRS:
            raise ValueError(
                f"pick={tuple(pick)!r} names a pair, which is read by returns='mean_std', "
                f"'mean_var' or 'mean_logvar', not by returns={returns!r}"
            )
        return pick[0], pick[1]
    raise TypeError(
        f"pick={pick!r} must be a key, an attribute or an index of what the map returns, "
        "or a pair of them"
    )


def read_output(
    output: Any, returns: str | None, pick: Pick | None = None
) -> tuple[Tensor, Tensor | None]:
    """Mean and std of what a map returned; std is None for a deterministic map.

    For correlated noise z = μ + Lε, the second is L, with one dimension more than the mean.

    Raises:
        TypeError: it is not what was declared, or could mean several things.
        ValueError: there is nothing of the name to pick, or mean and std have different shapes.
    """
    if isinstance(pick, tuple):
        output = take(output, pick[0]), take(output, pick[1])
    elif pick is not None:
        output = take(output, pick)
    if returns in (None, "distribution") and (moments := _read_distribution(output)) is not None:
        return moments
    if returns in (None, "mean"):
        if isinstance(output, Tensor):
            return output, None
    elif returns != "distribution" and _is_pair(output):
        mean, spread = output
        return _matching(mean, _std(spread, returns))
    raise TypeError(_advice(output, returns, pick))


def take(output: Any, name: Name) -> Any:
    """What stands under a key, an index or an attribute; a ValueError says what there is."""
    if isinstance(output, Mapping) and name in output:
        return output[name]
    if isinstance(name, int) and not isinstance(output, Tensor) and hasattr(output, "__getitem__"):
        try:
            return output[name]
        except (IndexError, KeyError, TypeError):
            pass
    if isinstance(name, str) and not isinstance(output, Tensor):
        value = getattr(output, name, None)
        if value is not None and not inspect.isroutine(value):
            return value
    raise ValueError(f"pick={name!r} names nothing in what the map returned, {describe(output)}")


def stack(mean: Tensor, std: Tensor | None) -> Tensor:
    """F = [μ; σ] of a batch, ``(B, M)``; [μ; vec L] with the columns of L one after another.

    A negative σ is NaN.
    """
    if std is None:
        return mean.flatten(1)
    columns = _valid(std) if std.ndim == mean.ndim else std.movedim(-1, 1)
    return torch.cat([mean.flatten(1), columns.flatten(1)], dim=1)


def combine_noise(mean: Tensor, std: Tensor | None, noise: Tensor) -> Tensor:
    """The code z = μ + ε⊙σ, or μ + Lε, ``(B, d)``, for noise ε ``(B, R)``."""
    if std is None:
        return mean.flatten(1)
    if std.ndim == mean.ndim:
        return mean.flatten(1) + noise * _valid(std).flatten(1)
    noise = noise.reshape(*std.shape[:-2], 1, std.shape[-1])
    return (mean + (std * noise).sum(-1)).flatten(1)


def _valid(std: Tensor) -> Tensor:
    """NaN where it is negative, as its root is; that takes no operation in the derivative."""
    return std + 0 * std.detach().sqrt()


def describe(output: Any) -> str:
    """What an output is, with its parts, in a few words."""
    if isinstance(output, Mapping):
        return f"{_type(output)} with keys {list(output)}"
    if isinstance(output, tuple | list):
        inside = ", ".join(describe(item) for item in output)
        return f"{_type(output)} ({inside})"
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Independent):
        return f"{describe(output.base_dist)} (in {_type(output)})"
    names = [] if isinstance(output, Distribution) else _attributes(output)
    kind = type(output).__name__
    return f"an object of type {kind}" + (f" with {', '.join(names)}" if names else "")


def _read_distribution(output: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and std, or mean and L; None if it is no distribution."""
    base = output
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, MultivariateNormal):
        return _with_factor(base, base.scale_tril)
    if isinstance(base, LowRankMultivariateNormal):
        diagonal = base.cov_diag.sqrt().diag_embed()
        return _with_factor(base, torch.cat([base.cov_factor, diagonal], dim=-1))
    if _is_correlated(base):
        raise TypeError(
            f"the map returned {describe(output)}, whose numbers are correlated in a way that "
            "mean and std do not tell; of such distributions, MultivariateNormal and "
            "LowRankMultivariateNormal have a metric"
        )
    # Tensors have methods of these names; some distributions have no mean in closed form.
    try:
        mean, std = output.mean, getattr(output, "stddev", getattr(output, "std", None))
    except (AttributeError, NotImplementedError):
        mean = std = None
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        return _matching(mean, std)
    if isinstance(base, Distribution):
        raise TypeError(
            f"the map returned {describe(output)}, whose mean and standard deviation are not "
            "known in closed form; return the two as tensors, and declare returns='mean_std'"
        )
    return None


def _with_factor(normal: Distribution, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and L of vectors; those of matrices have an order that is their own."""
    if factor.shape[:-1] != normal.mean.shape:
        raise ValueError(
            f"the map returned {describe(normal)}, whose mean has shape "
            f"{tuple(normal.mean.shape)} and the factor of its covariance {tuple(factor.shape)}; "
            "they must match but for the last dimension, as in a MultivariateNormal of vectors"
        )
    return normal.mean, factor


def _is_correlated(thing: Any) -> bool:
    if isinstance(thing, Distribution):
        return bool(thing.event_shape)
    return isinstance(getattr(thing, "covariance_matrix", None), Tensor)


def _matching(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    if std.shape != mean.shape:
        raise ValueError(
            f"the map's mean has shape {tuple(mean.shape)} and its std {tuple(std.shape)}; "
            "they must match"
        )
    return mean, std


def _std(spread: Tensor, returns: str) -> Tensor:
    if returns == "mean_var":
        return spread.sqrt()
    return spread if returns == "mean_std" else (0.5 * spread).exp()


def _advice(output: Any, returns: str | None, pick: Pick | None) -> str:
    what = describe(output)
    picked = "" if pick is None else f", picked by pick={pick!r}"
    if returns is None:
        problem = f"the map returned {what}{picked}, which could mean several things; declare it"
    else:
        problem = (
            f"the map was declared returns={returns!r} but returned {what}{picked}; declare it"
        )
    advice = f"{problem} with returns=, one of {CHOICES}"
    return advice if picked else f"{advice}, {_way_to_take(output, returns)}"


def _way_to_take(output: Any, returns: str | None) -> str:
    """How to take what is meant from an output, as an end of a sentence."""
    if isinstance(output, Tensor):
        return (
            "and split it in a function if it holds both, e.g. pb.as_map(lambda x: "
            "module(x).chunk(2, dim=1), returns='mean_logvar', module=module)"
        )
    parts = _parts(output)
    if not parts:
        return "in pb.as_map(fn, returns=…) of a function that returns just that"
    distributions = [name for name, part in parts.items() if _may_be_distribution(part)]
    if distributions:
        example = f"pb.as_map(fn, 'distribution', pick={distributions[0]!r})"
    elif len(parts) >= 2 and returns != "mean":
        pair = tuple(parts)[:2]
        example = f"pb.as_map(fn, {returns if returns in _OF_PAIRS else 'mean_logvar'!r}, "
        example += f"pick={pair!r})"
    else:
        example = f"pb.as_map(fn, {returns or 'mean'!r}, pick={next(iter(parts))!r})"
    return f"and name what to take with pick=, e.g. {example}"


def _parts(output: Any) -> dict[Name, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, Sequence):
        return dict(enumerate(output))
    return {name: getattr(output, name) for name in _attributes(output)}


def _attributes(output: Any) -> list[str]:
    return [name for name in getattr(output, "__dict__", {}) if not name.startswith("_")]


def _may_be_distribution(part: Any) -> bool:
    try:
        return _read_distribution(part) is not None
    except (TypeError, ValueError):
        return False


def _is_name(name: Any) -> bool:
    return isinstance(name, str | int) and not isinstance(name, bool)


def _is_pair(output: Any) -> bool:
    return (
        isinstance(output, tuple | list)
        and len(output) == 2
        and all(isinstance(item, Tensor) for item in output)
    )


def _type(thing: Any) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
