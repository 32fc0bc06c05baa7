"""Where the tests compute: what they make lies on one device, chosen once for the whole run.

That is the CPU; a CUDA device with ``pytest -m cuda``; an emulated accelerator where a backend is
registered under PyTorch's PrivateUse1 (``pytest -p NAME`` imports its module first). Tests make
tensors as if there were nothing but the CPU: functions such as ``torch.rand``, called from them,
put what they make there, with the numbers that it has on the CPU. The library's own calls are
left alone. Comparisons, and conversions to NumPy, are made on the host.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.emulation import emulator, is_emulated

# Tests of numbers; the others are about files, words, processes and pictures.
NUMERICAL = (
    *("attacks/", "eigen/", "maps/", "products/", "traces/"),
    *("test_devices.py", "test_given.py", "test_indexing.py", "test_operator_gradients.py"),
    *("test_operators.py", "test_sampling.py", "test_scores.py", "test_weights.py"),
)
_FACTORIES = (
    *("arange", "as_tensor", "empty", "empty_strided", "eye", "from_numpy", "full", "linspace"),
    *("logspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros"),
)
_TESTS = Path(__file__).parent
# Whose calls count as the tests' own: theirs, and those of what they are given to test.
_CALLERS = (str(_TESTS), str(_TESTS.parent / "models"))
_CALLING_PARTS = ("/linear_operator/test/", "/gpytorch/")
_TORCH = str(Path(torch.__file__).parent)


def choose_device(marks: str) -> torch.device:
    """The device of a run that selects tests by these marks (``pytest -m``)."""
    if is_emulated():
        emulator().as_cuda()
        return torch.device(torch._C._get_privateuse1_backend_name(), 0)
    if marks != "cuda":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise pytest.UsageError("pytest -m cuda needs a CUDA device, and PyTorch finds none here")
    return torch.device("cuda", 0)


def is_numerical(item: pytest.Item) -> bool:
    """Whether a test is one of those that run on every device."""
    return str(item.path.relative_to(_TESTS)).startswith(NUMERICAL)


def put_tensors(device: torch.device) -> None:
    """From now on, what tests make lies on this device."""
    # Factories that are wrapped are so by the plugin of a backend, which puts tensors itself.
    if device.type == "cpu" or hasattr(torch.rand, "__wrapped__"):
        return
    for name in _FACTORIES:
        setattr(torch, name, _placing(getattr(torch, name), device))
    close = torch.testing.assert_close
    setattr(  # noqa: B010  (mypy would not have it otherwise)
        torch.testing, "assert_close", lambda a, b, **how: close(_on_host(a), _on_host(b), **how)
    )
    for name in ("numpy", "__array__"):
        setattr(Tensor, name, _from_host(getattr(Tensor, name)))


def _placing(make: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    @functools.wraps(make)
    def placed(*args: Any, **kwargs: Any) -> Tensor:
        given = {"device", "out", "pin_memory"} & {k for k, v in kwargs.items() if v is not None}
        if given or not _is_called_by_tests(sys._getframe(1)):
            return make(*args, **kwargs)
        wants_gradient = kwargs.pop("requires_grad", False)
        made = make(*args, **kwargs)
        if made.device.type == "cpu":
            made = made.to(device)
        return made.requires_grad_() if wants_gradient else made

    return placed


def _from_host(convert: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(convert)
    def converted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if _is_called_by_tests(sys._getframe(1)):
            tensor = tensor.detach().cpu()
        return convert(tensor, *args, **kwargs)

    return converted


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(map(_on_host, value))
    if isinstance(value, dict):
        return {key: _on_host(entry) for key, entry in value.items()}
    return value


def _is_called_by_tests(frame: FrameType | None) -> bool:
    """Whether the nearest caller that is not PyTorch itself is a test."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, "<")) and name != __file__ and "/functools.py" not in name:
            return name.startswith(_CALLERS) or any(part in name for part in _CALLING_PARTS)
        frame = frame.f_back
    return False
