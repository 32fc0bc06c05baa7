"""What a map must do to have a pullback metric, seen by its behaviour on three samples.

The samples stand at three places of a batch. A sample has to give the same result there in another
call, at another place, and alone; and the result of one sample must not change with another one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..arguments import NotFiniteError, plain
from ..products.double_backward import double_backward_settings
from ..products.fallback import MIXES, are_adjoint, require_same_alone, rounding_tolerance
from .outputs import stack

Outputs = tuple[Tensor, Tensor | None]
Call = Callable[[Tensor, Sequence[Tensor]], Outputs]

PLACES = 3
_MIDDLE = 1

_TWICE = "the map cannot be differentiated twice by autograd, as Jacobian-vector products need"
_RANDOM = (
    "the map returned two different results for the same input; call .eval() and take out "
    "what is random (dropout, sampling)"
)
_DEPENDS_ON_PLACE = (
    "the map gives a sample another result at another place of the batch; take out what mixes "
    "samples (sequences without batch_first), and hand over what belongs to each as given=(…,)"
)


def validate(call: Call, x: Tensor, given: Sequence[Tensor]) -> Outputs:
    """Mean and std of a map for one sample, once it has behaved in a few calls.

    Samples have to be independent, results repeatable and finite, shapes to match, std > 0, and
    the mean has to depend on x through autograd, twice differentiably.

    Args:
        call: the map, as a function of samples and what is given with them.
        x: ``(B, *event)``.
        given: ``(B, …)`` each.

    Raises:
        TypeError, ValueError: one sentence with what is wrong.
    """
    with double_backward_settings():
        batch, given, first = _first_outputs(call, x, given)
        # Results that the map keeps for equal inputs would be those of the first call.
        again = batch.detach().clone().requires_grad_()
        repeated = _Agreement(call, batch, given, first).check(again)
        _check_derivatives(stack(*repeated), again)
    mean, std = first
    return mean[:1], None if std is None else std[:1]


def validate_size(call: Callable[..., Outputs], x: Tensor, given: Sequence[Tensor]) -> None:
    """See that a map gives a few samples of a batch of this size the same results alone.

    Args:
        call: the map, as a function of samples and of what is given with them.
        x, given: see :func:`validate`.

    Raises:
        ValueError: it does not, or cannot be applied to a batch of this size.
    """

    def stacked(x: Tensor, *given: Tensor) -> Tensor:
        return stack(*call(x, *given))

    with double_backward_settings(), torch.no_grad():
        try:
            outputs = stacked(x, *given)
        except Exception as error:
            message = f"the map takes a batch of {PLACES} but not this one of {len(x)}: {error}"
            raise ValueError(message) from error
        require_same_alone(stacked, x, given, outputs)


def _first_outputs(
    call: Call, x: Tensor, given: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], Outputs]:
    """Three samples, what is given with them, and what the map makes of them.

    Samples that are equal are varied, unless the map cannot take the variants: a logarithm may
    be defined for the pixels of an image in their own places only.
    """
    some = torch.arange(PLACES, device=x.device) % len(x)
    own, given_own = x[some].contiguous(), [tensor[some] for tensor in given]
    varied = _vary(own)
    if not torch.equal(varied, own):
        try:
            outputs = call(varied.requires_grad_(), given_own)
            _check_outputs(outputs, varied)
        except (TypeError, ValueError):
            pass  # what is wrong with the map itself is wrong without variants too
        else:
            return varied, given_own, outputs
    try:
        outputs = call(own.requires_grad_(), given_own)
    except ValueError as error:
        call(x.clone().requires_grad_(), given)  # its message is about the samples as they came
        raise _wrong_size(len(x), PLACES, error) from error
    _check_outputs(outputs, own)
    return own, given_own, outputs


def _vary(samples: Tensor) -> Tensor:
    """The samples, but no two equal, and within the range of their values where that is a range.

    Values change their places and move towards the middle of the range, so that neither an order
    nor a mean or a maximum stays what it was; values that are all equal are scaled or shifted.
    """
    distinct: list[Tensor] = []
    for sample in samples:
        middle = (sample.min() + sample.max()) / 2
        moved = sample.flatten().roll(1).view_as(sample), sample.flatten().flip(0).view_as(sample)
        inward = (0.9 * moved[0] + 0.1 * middle, 0.8 * moved[1] + 0.2 * middle)
        other = 0.9 * sample, 0.8 * sample, sample + 0.1, sample + 0.2
        variants = (v for v in (sample, *inward, *other) if not any(map(v.equal, distinct)))
        distinct.append(next(variants, sample))
    return torch.stack(distinct)


class _Agreement:
    """Whether samples give the same results in other calls.

    Args:
        call, given: see :func:`validate`.
        batch: ``(3, *event)``.
        first: what the map returned for the batch.
    """

    def __init__(self, call: Call, batch: Tensor, given: Sequence[Tensor], first: Outputs) -> None:
        self._call, self._batch, self._given, self._first = call, batch, given, first
        self._eps = torch.finfo(batch.dtype).eps

    def check(self, again: Tensor) -> Outputs:
        """Refuse a map whose result for a sample depends on anything but the sample.

        Returns:
            What it returns for ``again``, the batch once more.
        """
        same = torch.arange(PLACES, device=self._batch.device)
        # An accelerator may choose a kernel of less precision for another size.
        loose = rounding_tolerance(self._batch.dtype) * (
            1 if self._batch.device.type == "cpu" else 10
        )
        repeated = self._repeat(again, same)
        self._compare(repeated, same, 100 * self._eps, _RANDOM, amplifies=False)
        for samples, problem in (
            (same.roll(1), _DEPENDS_ON_PLACE),
            *((place, MIXES.format("result")) for place in same.split(1)),
        ):
            self._compare(self._repeat(self._batch, samples), samples, loose, problem)
        return repeated

    def _compare(
        self,
        others: Outputs,
        samples: Tensor,
        tolerance: float,
        problem: str,
        amplifies: bool = True,
    ) -> None:
        """See that what the map returned for some of the samples, in this order, is the same.

        Where it differs by more than the tolerance, what rounding errors make of it counts as
        well, if the map ``amplifies`` them: its samples may be independent all the same.
        """
        for a, b in zip(self._first, others, strict=True):
            if a is None or b is None:
                continue
            scale = a.detach().abs().max().clamp(min=torch.finfo(a.dtype).tiny)
            difference = (a[samples] - b).detach().abs().max()
            agree = difference <= tolerance * scale  # never if one is NaN
            if not agree and not (amplifies and difference <= self._rounding()):
                raise ValueError(problem)

    def _repeat(self, batch: Tensor, samples: Tensor) -> Outputs:
        try:
            outputs = self._call(batch[samples], [tensor[samples] for tensor in self._given])
        except ValueError as error:
            raise _wrong_size(PLACES, len(samples), error) from error
        _check_shapes(outputs, batch[samples])
        if [a is None or a.shape[1:] for a in outputs] != [
            a is None or a.shape[1:] for a in self._first
        ]:
            shapes = [tuple(a.shape[1:]) for a in (self._first[0], outputs[0])]
            raise ValueError(
                f"the map's mean has shape {shapes[0]} for a sample in a batch of {PLACES}, and "
                f"{shapes[1]} in one of {len(samples)}"
            )
        return outputs

    def _rounding(self) -> float:
        """How much rounding errors may change a result, judged by what a few of them in x do."""
        every = torch.arange(PLACES, device=self._batch.device)
        nearly = self._repeat(self._batch * (1 - 4 * self._eps), every)
        changes = [
            (a - b).detach().abs().max().item()
            for a, b in zip(self._first, nearly, strict=True)
            if a is not None and b is not None
        ]
        return 10 * max(changes)


def _check_derivatives(outputs: Tensor, x: Tensor) -> None:
    """See that Jᵀu and J v can be had, that they agree, uᵀ(J v) = (Jᵀu)ᵀv, and mix no samples.

    u is 0 but for one sample, so Jᵀu has to be 0 for the others.
    """
    one = torch.linspace(0.5, 1.5, outputs[0].numel(), device="cpu").to(outputs)
    u = torch.zeros_like(outputs)
    u[_MIDDLE] = one
    u.requires_grad_()
    v = torch.linspace(-1.0, 1.5, x.numel(), device="cpu").view_as(x).to(x)
    transposed = pushed = None
    try:
        if outputs.requires_grad:
            (transposed,) = torch.autograd.grad(outputs, x, u, create_graph=True, allow_unused=True)
        if transposed is not None and transposed.requires_grad:
            (pushed,) = torch.autograd.grad(transposed, u, v, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(f"{_TWICE}: {str(error).splitlines()[0]}") from error
    if transposed is None:
        raise ValueError(
            "the map does not depend on x through autograd; take out torch.no_grad, .detach() "
            "or .item(), and results that are kept from earlier calls"
        )
    pushed = torch.zeros_like(outputs) if pushed is None else pushed
    # Where u is 0, some backward formulas have no derivative.
    if not are_adjoint(x, outputs, one, v, pushed[_MIDDLE], transposed):
        raise ValueError(f"{_TWICE}: its Jacobian-vector and vector-Jacobian products disagree")
    others = torch.arange(PLACES, device=x.device) != _MIDDLE
    if transposed[others].abs().max() > rounding_tolerance(x.dtype) * transposed.abs().max():
        raise ValueError(MIXES.format("derivative"))


def _check_outputs(outputs: Outputs, x: Tensor) -> None:
    _check_shapes(outputs, x)
    mean, std = outputs
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        if value.dtype != x.dtype:
            raise TypeError(
                f"the map's {name} is {plain(value.dtype)} for {plain(x.dtype)} inputs; "
                "it must keep the dtype"
            )
        if value.device != x.device:
            raise TypeError(
                f"the map's {name} is on {value.device} for inputs on {x.device}; make it there, "
                "as with device=x.device"
            )
        if not value.isfinite().all():
            message = f"the map's {name} holds NaN or infinite values for a finite input"
            raise NotFiniteError(message)
    if std is not None and std.ndim == mean.ndim and not (std > 0).all():
        raise ValueError(
            f"the map's std must be positive, got {std.min().item():.4g}; "
            "is it declared with the right `returns`?"
        )


def _check_shapes(outputs: Outputs, x: Tensor) -> None:
    mean, std = outputs
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        if value.ndim < 2 or len(value) != len(x) or value.numel() == 0:
            raise ValueError(
                f"the map's {name} has shape {tuple(value.shape)} for a batch of {len(x)}; "
                "it must be (B, *event) for every B, 1 included (squeeze() without a dimension "
                "takes that away)"
            )


def _wrong_size(works: int, fails: int, error: Exception) -> ValueError:
    return ValueError(
        f"the map takes a batch of {works} but not one of {fails}, and must take any size: {error}"
    )
