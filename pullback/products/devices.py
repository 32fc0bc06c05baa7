"""What products may take of a device, and how they are replayed there."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

# Columns are taken together as long as one product's vectors stay under this many numbers:
# enough to keep two cores busy, and less than one N×N matrix of an image worth the name.
MAX_BLOCK = 2**19
# On a GPU, where few kernels are worth more: a number for so many bytes of its memory, and the
# memory that is assumed where it is not known.
_BYTES, _ASSUMED = 2**10, 2**34
# Numbers in the inputs of a batch: on a GPU, 170 images of 64×64 pixels in colour.
_SMALL, _LAUNCH_BOUND = 2**16, 2**21

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


# By type of device.
RECORDERS: dict[str, Recorder] = {"cuda": cuda_graph}


@functools.cache
def max_block(device: torch.device) -> int:
    """Numbers in the vectors that a product takes at once, on this device."""
    if device.type == "cpu":
        return MAX_BLOCK
    known = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if known else _ASSUMED
    return max(MAX_BLOCK, memory // _BYTES)


def is_launch_bound(x: Tensor) -> bool:
    """Whether products at x, ``(B, N)``, are replayed, and take as long for fewer samples.

    A GPU is done with so small ones before their kernels could be launched one by one.
    """
    return x.device.type in RECORDERS and x.numel() <= small_batch(x.device)


def small_batch(device: torch.device) -> int:
    """Numbers in the inputs of a batch up to which products take as long for half of it."""
    return _LAUNCH_BOUND if device.type in RECORDERS else _SMALL
