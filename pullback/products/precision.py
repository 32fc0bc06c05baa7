"""What float32 means to the libraries that compute products."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_FULL = ("ieee", "none")


@contextmanager
def float32_proper(device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products in float32 proper on that device, whatever the settings.

    cuDNN computes convolutions in TF32 unless told, with an error of 1e-3, and users allow more of
    the kind to make training faster. Krylov methods would find eigenpairs of something else.
    """
    backends: Any = torch.backends
    places = {
        "cpu": (backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn),
        "cuda": (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul),
    }.get(device.type, ())
    lowered = [(place, place.fp32_precision) for place in places]
    lowered = [(place, setting) for place, setting in lowered if setting not in _FULL]
    try:
        for place, _ in lowered:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, setting in lowered:
            place.fp32_precision = setting
