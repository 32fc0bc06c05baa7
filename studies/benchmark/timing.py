"""Clocks and gauges: seconds, forward-equivalents, tensor sizes, peak memory, the machine."""

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORWARDS = 5  # before and after each timed job

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Timed:
    """What jobs took, and the plain forwards run in between.

    Attributes:
        results: of the jobs, in order.
        seconds: of each job.
        forward: seconds of one forward, the median of all in between.
    """

    results: list[Any]
    seconds: list[float]
    forward: float

    @property
    def median(self) -> float:
        """A job in forward-equivalents: the median."""
        return statistics.median(self.seconds) / self.forward

    @property
    def mean(self) -> float:
        """The same with the first job's set-up shared out among all jobs."""
        return statistics.fmean(self.seconds) / self.forward


def timed(
    job: Callable[[Tensor], Any], inputs: Iterable[Tensor], forward: Callable[[], Any]
) -> Timed:
    """Run a job on each input, with plain forwards before and after each."""
    results, seconds, forwards = [], [], []
    for x in inputs:
        forwards += [clock(forward)[0] for _ in range(FORWARDS)]
        taken, result = clock(partial(job, x))
        seconds.append(taken)
        results.append(result)
        forwards += [clock(forward)[0] for _ in range(FORWARDS)]
    return Timed(results, seconds, statistics.median(forwards))


def clock(job: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that a job takes, everything that it asked of a GPU included; and its result."""
    _wait()
    start = time.perf_counter()
    result = job()
    _wait()
    return time.perf_counter() - start, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def time_in(owner: Any, *names: str) -> Iterator[list[float]]:
    """While it lasts, calls of these functions of a class or module add their seconds to a list."""
    spent: list[float] = []

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seconds, result = clock(lambda: function(*args, **kwargs))
            spent.append(seconds)
            return result

        return call

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name))))
        yield spent


class _Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that an operation returns."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def largest_tensor(job: Callable[[], Any]) -> int:
    """Numbers in the largest tensor that an operation returns while the job runs."""
    with _Largest() as largest:
        job()
    return largest.numel


def in_new_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function of a module in a Python started for it, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_memory() -> int:
    """Bytes of resident memory that this process has had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a new process starts at what its parent had
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine(device: torch.device) -> str:
    """The machine in words: processor or GPU, threads, versions."""
    python = f"Python {platform.python_version()}, torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {python}"
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {python}"
