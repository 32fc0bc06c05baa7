"""An operator has at any index what the dense matrix has there, or refuses what that refuses."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_operator import LinearOperator, to_dense
from torch import Tensor

import pullback as pb
from tests.conftest import SmoothEncoder

# linear_operator gathers rows with sparse matrices, whose checks it leaves unset.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

KINDS = ("jacobian", "transposed", "metric", "sampled", "combined")
BATCHES = ((), (2,), (2, 3))


@functools.cache
def operator_and_dense(kind: str, batch: tuple[int, ...]) -> tuple[LinearOperator, Tensor]:
    torch.manual_seed(0)
    encoder = pb.as_map(SmoothEncoder(5, 2, dtype=torch.float64), "mean_logvar")
    decoder = pb.as_map(SmoothEncoder(2, 3, dtype=torch.float64), "mean_logvar")
    x = torch.rand(*batch, 5, dtype=torch.float64)
    dims = len(batch)
    if kind in ("jacobian", "transposed"):
        J = pb.jacobian(encoder, x, batch_dims=dims)
        operator: LinearOperator = J if kind == "jacobian" else J.mT
    elif kind == "sampled":
        operator = pb.sampled_metric(encoder, x, batch_dims=dims)
    else:
        operator = pb.expected_metric(
            encoder, x, decoder if kind == "combined" else None, batch_dims=dims
        )
    with torch.no_grad():
        return operator, operator.to_dense()


def compare(kind: str, batch: tuple[int, ...], index: Any) -> None:
    operator, dense = operator_and_dense(kind, batch)
    with torch.no_grad():
        try:
            expected = dense[index]
        except IndexError:
            with pytest.raises(IndexError):
                operator[index]
            return
        found = operator[index]
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        torch.testing.assert_close(to_dense(found), expected)


def slices(size: int) -> st.SearchStrategy[slice]:
    ends = st.none() | st.integers(-size - 2, size + 2)
    return st.builds(slice, ends, ends, st.none() | st.integers(1, 3))


def tensors(size: int, shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    count = int(np.prod(shape))
    places = st.lists(st.integers(-size, size - 1), min_size=count, max_size=count)
    return places.map(lambda values: torch.tensor(values, dtype=torch.long).reshape(shape))


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    count = int(np.prod(shape))
    values = st.lists(st.booleans(), min_size=count, max_size=count)
    return values.map(lambda values: torch.tensor(values).reshape(shape))


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple:
    """Parts for some of the first and, behind an ellipsis, of the last dimensions."""
    first = draw(st.integers(0, len(shape)))
    last = draw(st.integers(first, len(shape)))
    tensor_shape = draw(st.sampled_from([(2,), (3,), (0,), (1,), (2, 2), (2, 1)]))
    sides: list[list] = []
    for sizes in (shape[:first], shape[last:]):
        side: list = []
        while sizes:
            size, *_ = sizes
            kind = draw(st.sampled_from(("int", "slice", "slice", "tensor", "mask")))
            taken = draw(st.integers(1, len(sizes))) if kind == "mask" else 1
            strategy = {
                "int": st.integers(-size, size - 1),
                "slice": slices(size),
                "tensor": tensors(size, tensor_shape) | tensors(size, (1,)),
                "mask": masks(sizes[:taken]),
            }[kind]
            side.append(draw(strategy))
            sizes = sizes[taken:]
        sides.append(side)
    return (*sides[0], ..., *sides[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", BATCHES)
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_index(kind, batch, data):
    operator, _ = operator_and_dense(kind, batch)
    compare(kind, batch, data.draw(indices(tuple(operator.shape))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "index",
    [
        (..., torch.tensor([-1, 0]), torch.tensor([0, -2])),
        (..., -1, slice(None)),
        (..., slice(None), -2),
        (-1, -1, -1),
        (..., slice(2, 2), slice(None)),
        (slice(0, 0),),
        (..., slice(4, None, 2), slice(-3, -1)),
        (..., torch.tensor([True, False, True, False]), slice(0, 3)),
        (torch.tensor([False, True]), ..., [-1, 0]),
        (slice(None), torch.tensor([[0, 1], [2, 0]]), slice(None)),
        (torch.tensor(1), np.array([0, -1]), np.int64(2)),
        (..., torch.tensor([], dtype=torch.long), slice(None)),
        torch.tensor([1, 1, 0]),
        -1,
        ...,
        (),
    ],
)
def test_kinds_of_indices(kind, index):
    compare(kind, (2,), index)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (2, "index 2 is out of range for dimension 0 of size 2"),
        ((..., -7, slice(None)), "index -7 is out of range for dimension 1"),
        ((..., 0, torch.tensor([0, 9])), "index 9 is out of range for dimension 2"),
        ((0, 0, 0, 0), r"\[0, 0, 0, 0\] is no index for an operator of shape \(2, "),
        ((..., 0, ...), r"\[\.\.\., 0, \.\.\.\] is no index"),
        (None, "indexed with integers, slices, an ellipsis, and tensors .* got None"),
        (True, "got True"),
        (torch.tensor([0.5]), "got tensor"),
        (torch.tensor([True, True, True]), r"a mask of shape \(3,\) does not fit dimension 0"),
    ],
)
def test_what_is_no_index(kind, index, message):
    operator, _ = operator_and_dense(kind, (2,))
    with pytest.raises(IndexError, match=message):
        operator[index]
    with pytest.raises(ValueError, match="a slice must go forwards"):
        operator[..., ::-1, :]


def test_parts_of_sums_count_from_the_end_as_well():
    metric, dense = operator_and_dense("metric", (2,))
    rows, columns = torch.tensor([-1, 0]), torch.tensor([0, -2])
    torch.testing.assert_close((metric * 2)[..., rows, columns], 2 * dense[..., rows, columns])


def test_a_part_has_the_products_of_the_dense_part():
    metric, dense = operator_and_dense("metric", (2,))
    v = torch.rand(2, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(metric[..., 1:4, -2:] @ v, dense[..., 1:4, -2:] @ v)
    assert (metric[..., 2:2, -2:] @ v).shape == (2, 0, 3)
