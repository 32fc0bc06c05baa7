"""Products replayed on a GPU, as CUDA graphs.

A product is some dozens of small kernels. Launching them one by one takes longer than they do.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from .devices import RECORDERS, Recorder, cuda_graph
from .fallback import first_line, is_close, logger

# A product is recorded when its kind comes for this time: some come once only.
_RECORD_AT = 2
# Graphs kept, each with the memory of one product, and kinds of products that are counted.
_MOST_GRAPHS, _MOST_COUNTED = 12, 256


class Intermediates(list):
    """What products need of a batch: tensors, and sizes that depend on the number of samples.

    Attributes:
        kind: what a recording depends on, which is asked before every product; None until then.
    """

    kind: Hashable = None


# (intermediates, vectors (C, B, n)) → (C, B, m).
Product = Callable[[Intermediates, Tensor], Tensor]


def record_products(product: Product, device_type: str, weights: Sequence[bool]) -> Product:
    """The product, recorded and replayed where there is a recorder for that type of device."""
    recorder = RECORDERS.get(device_type)
    return product if recorder is None else ReplayedProduct(product, weights, recorder)


class ReplayedProduct:
    """A product that is recorded when its kind comes often, and replayed from then on.

    Before it is relied upon, a replay is compared with the product itself. If they differ, or it
    cannot be recorded, the product goes on as it is for good, and the log says so.

    Args:
        product: on tensors of one GPU.
        weights: which of the intermediates are weights, the same for every batch: a recording reads
            them where they are. The others are copied to where it does.
        record: how it is recorded.
    """

    def __init__(
        self, product: Product, weights: Sequence[bool], record: Recorder = cuda_graph
    ) -> None:
        self._product, self._weights, self._record = product, weights, record
        self._counts: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, _Replay] = {}
        # What recordings for the same kind of batch read of it.
        self._copies: weakref.WeakValueDictionary[Hashable, _Copy] = weakref.WeakValueDictionary()
        self._refused = False
        self._lock = threading.Lock()

    def __call__(self, intermediates: Intermediates, vectors: Tensor) -> Tensor:
        """The product; the result is the caller's own."""
        # What is copied to in inference mode could not be copied to outside of it.
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            if self._refused:
                return self._product(intermediates, vectors)
            if intermediates.kind is None:
                pairs = zip(intermediates, self._weights, strict=True)
                intermediates.kind = tuple(_kind_of(*pair) for pair in pairs)
            batch = _place(vectors), intermediates.kind
            kind = batch, vectors.shape, vectors.dtype, vectors.device
            if kind in self._replays:
                replay = self._replays[kind] = self._replays.pop(kind)  # now the latest
                return replay(intermediates, vectors)
            result = self._product(intermediates, vectors)
            if self._is_frequent(kind):
                self._try(batch, kind, intermediates, vectors, result)
            return result

    def _is_frequent(self, kind: Hashable) -> bool:
        if len(self._counts) == _MOST_COUNTED:
            self._counts.clear()
        self._counts[kind] += 1
        return self._counts[kind] % _RECORD_AT == 0  # again, if its graph has not been kept

    def _try(
        self,
        batch: Hashable,
        kind: Hashable,
        intermediates: Intermediates,
        vectors: Tensor,
        expected: Tensor,
    ) -> None:
        try:
            copy = self._copies.get(batch) or _Copy(intermediates, self._weights)
            copy.fill(intermediates)
            with torch.cuda.device_of(vectors):
                replay = _Replay(self._product, self._record, copy, vectors)
            if not is_close(replay(intermediates, vectors), expected):
                raise RuntimeError("a replay differs from the product itself")
        # Whatever recording trips over, the product can still be had as it is.
        except Exception as error:
            self._refused = True
            self._replays.clear()
            reason = first_line(error)
            logger.info("the map's products are not replayed as CUDA graphs: %s", reason)
            return
        self._copies[batch], self._replays[kind] = copy, replay
        if len(self._replays) > _MOST_GRAPHS:
            del self._replays[next(iter(self._replays))]


class _Copy:
    """The tensors that recordings read of a batch: its weights, and copies of all others."""

    def __init__(self, intermediates: Intermediates, weights: Sequence[bool]) -> None:
        tensors = [isinstance(value, Tensor) for value in intermediates]
        self._copied = [i for i, weight in enumerate(weights) if tensors[i] and not weight]
        # Weights that are given other memory later must not lose this.
        self.own = Intermediates(
            value.detach() if tensor else value
            for value, tensor in zip(intermediates, tensors, strict=True)
        )
        for index in self._copied:
            self.own[index] = self.own[index].clone()
        self._filled_from = weakref.ref(intermediates)

    def fill(self, intermediates: Intermediates) -> None:
        """Copy what another batch has."""
        if self._filled_from() is not intermediates:
            for index in self._copied:
                self.own[index].copy_(intermediates[index])
            self._filled_from = weakref.ref(intermediates)


class _Replay:
    """A recorded product, of what is copied to the tensors that it reads."""

    def __init__(self, product: Product, record: Recorder, copy: _Copy, vectors: Tensor) -> None:
        self._copy = copy
        self._vectors = own = vectors.clone(memory_format=torch.contiguous_format)
        # The memory is free as soon as this object is: the recording does not refer to it.
        self._replay = record(lambda: product(copy.own, own))

    def __call__(self, intermediates: Intermediates, vectors: Tensor) -> Tensor:
        self._copy.fill(intermediates)
        self._vectors.copy_(vectors)
        return self._replay().clone()


def _kind_of(value: Any, weight: bool) -> Hashable:
    """What a recording depends on: of a tensor its layout, and of weights where they are."""
    if not isinstance(value, Tensor):
        return value
    # How far apart the entries of a dimension are matters where there are several.
    pairs = zip(value.shape, value.stride(), strict=True)
    strides = tuple(stride for size, stride in pairs if size != 1)
    place = value.data_ptr() if weight else None
    return value.shape, strides, value.dtype, value.device, place


def _place(vectors: Tensor) -> int:
    """Where work is queued: what is replayed elsewhere must not write to the same tensors."""
    return torch.cuda.current_stream(vectors.device).cuda_stream if vectors.is_cuda else 0
