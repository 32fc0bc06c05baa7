"""What fails on an emulated accelerator and says nothing of pullback, each with its reason.

A backend under PyTorch's PrivateUse1 that has CUDA's rules, without a GPU, can run these tests with
all their tensors on it. Where there is one, the tests below are expected to fail; one that passes
after all is a failure, so that this list stays true. What the backend does not know at all is told
by the message, or not run.
"""

import sys
from typing import Any

import pytest
import torch

# Parts of a test's name → why it fails.
ARTEFACTS = {
    ("test_products_against_the_dense_jacobian", "lstm"): (
        "PyTorch takes fused recurrent kernels, of which a CPU has no backward pass"
    ),
    ("test_products_against_the_dense_jacobian", "gru"): (
        "PyTorch takes fused recurrent kernels, of which a CPU has no backward pass"
    ),
    ("test_recurrent_layers_are_differentiated_without_cudnn", "LSTM"): (
        "PyTorch takes fused recurrent kernels, of which a CPU has no backward pass"
    ),
    ("test_recurrent_layers_are_differentiated_without_cudnn", "GRU"): (
        "PyTorch takes fused recurrent kernels, of which a CPU has no backward pass"
    ),
    ("test_gradients_of_attacks_are_taken_without_cudnn",): (
        "PyTorch takes fused recurrent kernels, of which a CPU has no backward pass"
    ),
    ("test_products_by_size_and_layout[tokens to images",): (
        "group_norm views an input of this kind of device; one of CUDA is made contiguous before"
    ),
    ("test_products_by_size_and_layout[channels_last, in place",): (
        "group_norm views an input of this kind of device; one of CUDA is made contiguous before"
    ),
    ("test_the_next_score_is_that_of_the_new_weights", "NumPy"): (
        "NumPy has no view of a device's memory: it changes a copy, and nothing is to be seen"
    ),
    ("test_other_processes_score_after_this_one", "spawn"): (
        "the other process does not have the device; on the CPU, last bits differ"
    ),
}
# Parts of an error's message → why it is raised.
MESSAGES = {
    "arguments from the 'Sparse": "sparse tensors are not emulated",
    "only strided tensors": "sparse tensors are not emulated",
    "got builtin_function_or_method": (
        "PyTorch compiles formulas from their source, which a replaced torch.zeros has not"
    ),
    "unexpected keyword argument 'dtype'": "a replaced Tensor.__array__ takes no dtype",
}
# Parts of a test's name → why it ends the process.
FATAL = {
    "test_products_of_a_metric_follow_tensors_that_are_no_floats": (
        "complex tensors are not emulated"
    ),
}


def is_emulated() -> bool:
    """Whether a backend under PyTorch's PrivateUse1 is at work."""
    return torch._C._get_privateuse1_backend_name() != "privateuseone"


def emulator() -> Any:
    """The module of the backend, which is called like the device."""
    return sys.modules[torch._C._get_privateuse1_backend_name()]


def expect_artefacts(items: list[pytest.Item]) -> None:
    """Mark the tests that fail by no fault of pullback's."""
    for item in items:
        for parts, reason in ARTEFACTS.items():
            if all(part in item.name for part in parts):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
        for part, reason in FATAL.items():
            if part in item.name:
                item.add_marker(pytest.mark.skip(reason=reason))


def reason_of(error: BaseException) -> str | None:
    """Why an error says nothing of pullback, if it does not."""
    return next((reason for part, reason in MESSAGES.items() if part in str(error)), None)
