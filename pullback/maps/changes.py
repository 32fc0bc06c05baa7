"""What a call of a map changes in the map's own tensors: found, and put back."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..products.checksums import checksums


class Snapshot:
    """Tensors as they are now.

    Args:
        modules: those of which buffers may be replaced by others.
        tensors: those of which numbers may change, with names.
    """

    def __init__(self, modules: Iterable[nn.Module], tensors: Iterable[tuple[str, Tensor]]) -> None:
        parts = (part for module in modules for part in module.named_modules())
        self._buffers = [(prefix, part, dict(part._buffers)) for prefix, part in parts]
        self._copies = [(name, tensor, tensor.detach().clone()) for name, tensor in tensors]

    def restore(self) -> set[str]:
        """Put back what has changed since; the names of that."""
        changed = set()
        for prefix, part, buffers in self._buffers:
            for name, buffer in buffers.items():
                if part._buffers.get(name) is not buffer:
                    part._buffers[name] = buffer
                    changed.add(f"{prefix}.{name}".lstrip("."))
        before = checksums([copy for _, _, copy in self._copies])
        now = checksums([tensor for _, tensor, _ in self._copies])
        for (name, tensor, copy), one, other in zip(self._copies, before, now, strict=True):
            if one != other:
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.data.copy_(copy)
                changed.add(name)
        return changed
