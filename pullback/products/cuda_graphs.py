"""Products replayed on a GPU, as CUDA graphs.

A product is some dozens of small kernels. Launching them one by one takes longer than they do.
"""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from .fallback import first_line, is_close, logger

# The product of a batch that is recorded: smaller parts of a batch come and go.
_RECORD_AT = 4
# Graphs kept, each with the memory of one product.
_MOST_GRAPHS = 4


class Intermediates(list):
    """What products need of a batch: tensors, and sizes that depend on the number of samples.

    Attributes:
        products: how many were taken.
    """

    products = 0


# (intermediates, vectors (C, B, n)) → (C, B, m).
Product = Callable[[Intermediates, Tensor], Tensor]
# Makes of work that returns a tensor what does the same work again, into the same tensor.
Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


def cuda_graph(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Work on the current GPU, recorded as a CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # libraries choose algorithms in their first call, which cannot be recorded
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


RECORDERS: dict[str, Recorder] = {"cuda": cuda_graph}


def record_products(product: Product, device_type: str) -> Product:
    """The product, recorded and replayed where there is a recorder for that type of device."""
    recorder = RECORDERS.get(device_type)
    return product if recorder is None else ReplayedProduct(product, recorder)


class ReplayedProduct:
    """A product that is recorded when a batch takes several, and replayed from then on.

    Before it is relied upon, a replay is compared with the product itself. If they differ, or it
    cannot be recorded, the product goes on as it is, and the log says so.

    Args:
        product: on tensors of one GPU.
        record: how it is recorded.
    """

    def __init__(self, product: Product, record: Recorder = cuda_graph) -> None:
        self._product, self._record = product, record
        self._replays: dict[Hashable, _Replay] = {}
        self._lock = threading.Lock()

    def __call__(self, intermediates: Intermediates, vectors: Tensor) -> Tensor:
        """The product; the result is the caller's own."""
        key = _place(vectors), *map(_kind_of, (*intermediates, vectors))
        # What is copied to in inference mode could not be copied to outside of it.
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            if key in self._replays:
                replay = self._replays[key] = self._replays.pop(key)  # now the latest
                return replay(intermediates, vectors)
            result = self._product(intermediates, vectors)
            intermediates.products += 1
            if intermediates.products == _RECORD_AT:
                self._try(key, intermediates, vectors, result)
            return result

    def _try(
        self, key: Hashable, intermediates: Intermediates, vectors: Tensor, expected: Tensor
    ) -> None:
        try:
            with torch.cuda.device_of(vectors):
                replay = _Replay(self._product, self._record, intermediates, vectors)
            if not is_close(replay(intermediates, vectors), expected):
                raise RuntimeError("a replay differs from the product itself")
        # Whatever recording trips over, the product can still be had as it is.
        except Exception as error:
            reason = first_line(error)
            logger.info("the map's products are not replayed as CUDA graphs: %s", reason)
            return
        self._replays[key] = replay
        if len(self._replays) > _MOST_GRAPHS:
            del self._replays[next(iter(self._replays))]


class _Replay:
    """A recorded product, and the tensors that it reads; others are copied there first."""

    def __init__(
        self, product: Product, record: Recorder, intermediates: Intermediates, vectors: Tensor
    ) -> None:
        self._intermediates = Intermediates(
            x.clone() if isinstance(x, Tensor) else x for x in intermediates
        )
        self._vectors = vectors.clone()
        self._copied = weakref.ref(intermediates)
        self._replay = record(lambda: product(self._intermediates, self._vectors))

    def __call__(self, intermediates: Intermediates, vectors: Tensor) -> Tensor:
        if self._copied() is not intermediates:
            for own, new in zip(self._intermediates, intermediates, strict=True):
                if isinstance(own, Tensor):
                    own.copy_(new)
            self._copied = weakref.ref(intermediates)
        self._vectors.copy_(vectors)
        return self._replay().clone()


def _kind_of(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value


def _place(vectors: Tensor) -> int:
    """Where work is queued: what is replayed elsewhere must not write to the same tensors."""
    return torch.cuda.current_stream(vectors.device).cuda_stream if vectors.is_cuda else 0
