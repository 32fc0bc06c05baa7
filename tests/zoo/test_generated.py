"""Random chains of layers: captured, by autograd and dense products agree to rounding."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pullback as pb
from pullback.products import AutogradLinearization
from tests.zoo.chains import Chain, chains

SIZES, COLUMNS = (1, 2, 3, 5), (1, 2, 5)
# How a batch lies in memory, cut out of more samples and more values.
INPUTS = {
    "contiguous": lambda x, size: x[:size, ..., ::2].contiguous(),
    "every second sample": lambda x, size: x[..., ::2].contiguous()[: 2 * size : 2],
    "every second value": lambda x, size: x[:size, ..., ::2],
    "one sample": lambda x, size: x[:1, ..., ::2].contiguous().expand(size, *[-1] * (x.ndim - 1)),
    "one value": lambda x, size: x[:size, ..., ::2][:, :1].expand(size, *_halved(x.shape)[1:]),
    "channels last": lambda x, size: _channels_last(x[:size, ..., ::2]),
}
# What PyTorch itself refuses: in place on what a layer keeps, and norms of one value.
REFUSED = "modified by an inplace operation", "Expected more than 1"
# In units of rounding, relative to the norm of the Jacobian.
SLACK = 100


def _halved(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] // 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def dense(net: nn.Module, x: Tensor) -> Tensor:
    """``(B, M, N)`` in one pass: a copy of each sample for each row, as samples do not meet."""
    try:
        rows = net(x.clone()).shape[1]
        copies = x.repeat_interleave(rows, 0).contiguous().requires_grad_()
        eye = torch.eye(rows, dtype=x.dtype).repeat(len(x), 1)
        # Of another copy: a layer may work in place.
        (jacobian,) = torch.autograd.grad(net(copies.clone()), copies, eye, materialize_grads=True)
    except (RuntimeError, ValueError) as error:
        if any(reason in str(error) for reason in REFUSED):
            reject()
        raise
    return jacobian.reshape(len(x), rows, -1)


def norm(x: Tensor) -> Tensor:
    """``(B,)``, of each sample's matrix."""
    return x.double().norm(dim=(1, 2))


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    chain=chains(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    size=st.sampled_from(SIZES),
    columns=st.sampled_from(COLUMNS),
    strided=st.booleans(),
    inputs=st.sampled_from(list(INPUTS)),
    channels_last=st.booleans(),
)
@pytest.mark.parametrize("by_autograd", [False, True], ids=["as chosen", "by autograd"])
def test_products_are_those_of_the_dense_jacobian(
    by_autograd: bool,
    chain: Chain,
    dtype: torch.dtype,
    size: int,
    columns: int,
    strided: bool,
    inputs: str,
    channels_last: bool,
) -> None:
    net = chain.module().to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net.to(memory_format=layout)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(2 * max(SIZES), *chain.form[:-1], 2 * chain.form[-1], generator=generator)
    x = INPUTS[inputs](some.to(dtype), size)
    before = x.clone()

    J = dense(chain.module().double(), x.double())
    rounding = norm(dense(chain.module(), x.float()) - J) / torch.finfo(torch.float32).eps
    # Norms of what does not vary, and kinks met on another side, leave no number to compare with.
    assume((norm(J) > 1e-6).all() and (rounding <= 1e4 * norm(J)).all())
    # The derivative of Hardsigmoid in PyTorch is the float32 next to 1/6, whatever the dtype.
    coarse = any(isinstance(layer, nn.Hardsigmoid) for layer in net.modules())
    eps = torch.finfo(torch.float32 if coarse else dtype).eps
    bound = eps * SLACK * (norm(J) + rounding)

    flat = x.reshape(size, -1)
    products: tuple[Callable[[Tensor], Tensor], ...]
    if by_autograd:
        linearization = AutogradLinearization(lambda flat: net(flat.clone().view(x.shape)), flat)
        products = linearization.jvp, linearization.vjp
    else:
        operator = pb.jacobian(pb.as_map(net), x)
        products = operator.matmul, operator.mT.matmul
    for product, matrix in zip(products, (J, J.mT), strict=True):
        rows = torch.randn(size, columns, matrix.shape[2], generator=generator).to(dtype)
        w = rows.mT if strided else rows.mT.contiguous()
        with torch.no_grad():  # else they are computed so that they can be differentiated
            found = product(w)
        assert (norm(found - matrix @ w.double()) <= bound * norm(w)).all()
    assert torch.equal(x, before), "the input was changed"
