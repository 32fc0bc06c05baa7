"""The average of a metric over a data set, which is read again for each product."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .arguments import require_tensor
from .base_operator import OperatorOfProducts
from .operators import PullbackMetric
from .products import checksums, fresh_call, full_precision, max_block


class Batches:
    """A data set in batches, which is the same whenever it is read.

    Args:
        source: what can be iterated again and again: a list, a DataLoader. Its items are x
            ``(B, *event)``, or a tuple or list with x first; B may differ.
        given: places in such a tuple of the map's further arguments for each sample.
        device: where batches are moved; by default, they stay where they are.

    Raises:
        TypeError: it can be iterated once only, or not at all, or an item is something else.
        ValueError: it is empty.
    """

    def __init__(
        self, source: Any, given: Sequence[int] = (), device: torch.device | None = None
    ) -> None:
        if isinstance(source, Tensor | Mapping | str) or not hasattr(source, "__iter__"):
            hint = "; write [x] for a single batch x" if isinstance(source, Tensor) else ""
            raise TypeError(
                f"batches must be a list or a DataLoader of batches, got {_kind(source)}{hint}"
            )
        if isinstance(source, Iterator):
            raise TypeError(
                f"batches must be a list or a DataLoader, which can be read again for each "
                f"product, but this {_kind(source)} can be read only once; write list(batches)"
            )
        if not isinstance(given, Sequence) or not all(type(place) is int for place in given):
            kinds = (
                [_kind(place) for place in given] if isinstance(given, Sequence) else _kind(given)
            )
            raise TypeError(
                f"given must be a tuple of places in a batch, such as (1,) for labels, got {kinds}"
            )
        self.source, self.given, self.device = source, tuple(given), device
        # How many samples there are, and the sum of their checksums.
        self._seen: tuple[int, int] | None = None

    def first(self) -> tuple[Tensor, list[Tensor]]:
        """The first batch."""
        for item in self.source:
            return self._read(item)
        raise ValueError("batches must hold at least one batch, got none")

    def __iter__(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """x ``(B, *event)`` and the further arguments of each batch.

        Raises:
            ValueError: the samples are not those that they were.
        """
        count = total = 0
        for item in self.source:
            x, given = self._read(item)
            count += len(x)
            for tensor in (x, *given):  # whatever the order of the samples
                total += sum(map(hash, checksums(list(tensor.detach().unbind()))))
            yield x, given
        found = count, total % 2**64
        if self._seen is None:
            self._seen = found
        elif found != self._seen:
            before = self._seen[0]
            what = "others" if count == before else f"{count} samples, and {before}"
            raise ValueError(
                f"batches must hold the same samples whenever they are read, but gave {what} "
                "before; leave out random augmentation, and drop_last=True of a DataLoader that "
                "shuffles"
            )

    def _read(self, item: Any) -> tuple[Tensor, list[Tensor]]:
        parts = list(item) if isinstance(item, tuple | list) else [item]
        if not parts or len(parts) <= max(self.given, default=0):
            raise ValueError(
                f"a batch must hold x and what given={self.given!r} names, got {len(parts)} items"
            )
        chosen = [parts[0], *(parts[place] for place in self.given)]
        for tensor in chosen:
            require_tensor("a batch, or the first item of its tuple,", tensor)
        x, *given = (tensor.to(self.device or tensor.device) for tensor in chosen)
        return x, given


class MeanMetric(OperatorOfProducts):
    """The average of pullback metrics over the samples of a data set, ``(N, N)``.

    Made by :func:`pullback.mean_metric`. A product reads the whole data set, and keeps nothing of
    it: the more columns, the better.

    Args:
        like: an empty tensor ``(*batch, N, 0)`` in the dtype and on the device of the operator,
            which is the same for all of a batch.
        batches: the data set.
        metric_of: makes the metrics ``(B, N, N)`` of a batch.
        tensors: what the metrics depend on, and gradients are wanted by.
    """

    def __init__(
        self,
        like: Tensor,
        *,
        batches: Batches,
        metric_of: Callable[..., PullbackMetric],
        **tensors: Tensor,
    ) -> None:
        super().__init__(like, batches=batches, metric_of=metric_of, **tensors)
        self.like, self.batches, self.metric_of = like, batches, metric_of

    def to(self, *args: Any, **kwargs: Any) -> "MeanMetric":
        """Itself; its encoder and its data cannot be moved from here."""
        moved = self.like.to(*args, **kwargs)
        if moved.dtype != self.dtype or moved.device != self.device:
            raise ValueError(
                f"the average is of data in {self.dtype} and an encoder on {self.device}; make one "
                f"of those in {moved.dtype} on {moved.device}"
            )
        return self

    def _size(self) -> torch.Size:
        return torch.Size((*self.like.shape[:-1], self.like.shape[-2]))

    def _transpose_nonbatch(self) -> "MeanMetric":
        return self

    def _expand_batch(self, batch_shape: torch.Size) -> "MeanMetric":
        return self.__class__(self.like.expand(*batch_shape, *self.like.shape[-2:]), **self._kwargs)

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.ndim == 1:
            return self._matmul(rhs.unsqueeze(-1)).squeeze(-1)
        batch = torch.broadcast_shapes(self.batch_shape, rhs.shape[:-2])
        columns = rhs.expand(*batch, *rhs.shape[-2:]).movedim(-2, 0)  # all in one pass
        product = self._average(lambda metric: _sum_products(metric, columns.flatten(1)))
        return product.reshape(columns.shape).movedim(0, -2)

    def _diagonal(self) -> Tensor:
        diagonal = self._average(lambda metric: metric._diagonal().double().sum(0))
        return diagonal.expand(*self.batch_shape, -1)

    def trace(self) -> Tensor:
        """The exact trace, from all diagonals; :func:`pullback.trace` takes fewer products."""
        return self._diagonal().sum(-1)

    @full_precision()
    def _average(self, read: Callable[[PullbackMetric], Tensor]) -> Tensor:
        """The mean over all samples of what is read, as a sum, of the metrics of a batch."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for x, given in self.batches:
            with fresh_call():  # which holds no batch longer than it takes
                total = total + read(self.metric_of(x, given=given))
            count += len(x)
        return (total / count).to(self.dtype)

    def _parts(self) -> tuple[Sequence[Tensor], LinearOperator]:
        # The maps read their own tensors, and would not notice others in their place.
        return self.representation(), self


def _sum_products(metric: PullbackMetric, columns: Tensor) -> Tensor:
    """Σ G v over a batch of metrics, for columns ``(N, C)``, in float64."""
    width = max(1, max_block(metric.device) // (metric.batch_shape.numel() * metric.shape[-1]))
    parts = [metric._matmul(block).double().sum(0) for block in columns.split(width, dim=-1)]
    return torch.cat(parts, dim=-1)


def _kind(thing: Any) -> str:
    return type(thing).__name__
