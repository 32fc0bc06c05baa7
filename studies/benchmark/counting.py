"""What a job asks of a device: kernels, replays, waits, operations and bytes, counted without one.

Counted is what PyTorch is asked for, so the device may be an emulated one.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pullback.products.devices import RECORDERS

# Operations that launch nothing, and those that tell the host what is on the device.
_NOTHING = ("empty", "new_empty", "detach", "alias", "lift", "set_", "resize_", "_unsafe_view")
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal")


@dataclass
class Counts:
    """What was asked for.

    Attributes:
        launched: kernels launched one by one, each an operation of PyTorch; the device may need
            several for one.
        replays: graphs replayed.
        replayed: kernels in them.
        waits: times that the host waits for what the device computes.
        uploads: copies to the device that the host waits for.
        operations: in floating point, of matrix products and convolutions.
        bytes: read and written, as if nothing stayed in a cache.
    """

    launched: int = 0
    replays: int = 0
    replayed: int = 0
    waits: int = 0
    uploads: int = 0
    operations: int = 0
    bytes: int = 0

    def add_replay(self, recorded: "Counts") -> None:
        """Count a replay of what was counted when it was recorded."""
        self.replays += 1
        self.replayed += recorded.launched
        self.operations += recorded.operations
        self.bytes += recorded.bytes


def count(job: Callable[[], Any], device: torch.device, warm: int = 3) -> Counts:
    """What a job asks of the device, once it has run so many times, and graphs are recorded.

    What has been captured before is not seen to be recorded: a map must be new.
    """
    running: list[Counts] = []  # those that are being counted
    with _recordings_counted(device, running):
        for _ in range(warm):
            job()
        return _count_once(job, device, running)


def _count_once(job: Callable[[], Any], device: torch.device, running: list[Counts]) -> Counts:
    counts = Counts()
    running.append(counts)
    with _Counting(device, counts):
        job()
    running.remove(counts)
    return counts


@contextmanager
def _recordings_counted(device: torch.device, running: list[Counts]) -> Iterator[None]:
    """While it lasts, replays of what is recorded count as what was recorded."""
    record = RECORDERS.get(device.type)

    def counting(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        assert record is not None
        recorded, replay = _count_once(work, device, []), record(work)

        def counted() -> Tensor:
            for counts in running:
                counts.add_replay(recorded)
            return replay()

        return counted

    with ExitStack() as stack:
        if record is not None:
            stack.enter_context(patch.dict(RECORDERS, {device.type: counting}))
        yield


class _Counting(TorchDispatchMode):
    def __init__(self, device: torch.device, counts: Counts) -> None:
        super().__init__()
        self._type, self._counts = device.type, counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # what is made of others is these
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        at_leisure = kwargs.get("non_blocking", False) or any(a is True for a in args[2:3])
        if self._add(func, given, made, at_leisure) and formula is not None:
            self._counts.operations += formula(*args, **kwargs, out_val=result)
        return result

    def _add(
        self, func: Any, given: list[Tensor], made: list[Tensor], at_leisure: bool = False
    ) -> bool:
        """Whether the device has anything to do; copies ``at_leisure`` are not waited for."""
        counts, name = self._counts, func._schema.name.removeprefix("aten::")
        sources = given[-1:] if name == "copy_" else given
        from_there, to_there = (any(map(self._is_there, some)) for some in (sources, made))
        if name.startswith(_NOTHING) or not (from_there or to_there):
            return False
        chosen = name in ("index", "index_put", "index_put_", "_index_put_impl_")
        by_truth = chosen and any(tensor.dtype == torch.bool for tensor in given[1:])
        if name in _WAITING or by_truth or (made and not to_there):
            counts.waits += 1
        elif sources and not from_there:
            counts.uploads += not at_leisure
        elif _is_view(func, given, made):
            return False
        counts.launched += 1
        distinct = {tensor.data_ptr(): tensor.nbytes for tensor in (*given, *made)}
        counts.bytes += sum(distinct.values())
        return True

    def _is_there(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._type


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether an operation returns the numbers that it was given, perhaps in another shape."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    if not any(alias is not None and not alias.is_write for alias in aliases):
        return False
    places = {tensor.untyped_storage().data_ptr() for tensor in given}
    return all(tensor.untyped_storage().data_ptr() in places for tensor in made)
