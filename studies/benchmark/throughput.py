"""How many images a GPU scores, how near to its limits that is, and what takes the time."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import pullback as pb
from models.vae import VAE

from .comparison import K, encoder_of
from .counting import count
from .timing import clock

MANY = 19_962  # as many as CelebA's test set has, of its shape
BATCH = 256
MATRIX = 8192  # rows of the matrix product that tells a device's float32 rate
LISTED = 5


def throughput(vae: VAE, images: torch.Tensor, many: int = MANY) -> dict[str, str]:
    """Seconds for so many images, the share of the device's rate of matrix products, and of what.

    Args:
        vae: on the device.
        images: some, there, which are repeated.
        many: how many to score.
    """
    encoder = encoder_of(vae)
    batch = images[torch.arange(BATCH) % len(images)]

    def score() -> pb.Scores:
        return pb.score(encoder, batch, K)

    asked = count(score, images.device)
    runs = -(-many // BATCH)
    seconds, _ = clock(lambda: [score() for _ in range(runs)])
    a = torch.randn(MATRIX, MATRIX, device=images.device)
    clock(lambda: a @ a)
    peak = 2 * MATRIX**3 / clock(lambda: a @ a)[0]
    rate = asked.operations * runs / seconds
    busy, kernels = what_dominates(score)
    listed = ", ".join(f"{name} {share:.0%}" for name, share in kernels[:LISTED])
    return {
        "throughput": f"{runs * BATCH} images (crops repeated, batches of {BATCH}) in "
        f"{seconds:.1f} s; {rate / 1e12:.1f} TFLOP/s, {rate / peak:.0%} of what a large float32 "
        "matrix product reaches",
        "a batch": f"{asked.launched} kernels one by one, {asked.replays} graphs with "
        f"{asked.replayed}, {asked.waits} waits",
        "what dominates": f"the device computes for {busy:.0%} of a score: {listed}",
    }


def what_dominates(job: Callable[[], Any]) -> tuple[float, list[tuple[str, float]]]:
    """The share of a job's time in which the device computes, and kernels with theirs of that."""
    there = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if there else ProfilerActivity.CPU]) as seen:
        seconds, _ = clock(job)
    name = "self_device_time_total" if there else "self_cpu_time_total"
    spent = {event.key: 1e-6 * getattr(event, name) for event in seen.key_averages()}
    busy = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda pair: -pair[1])
    return busy / seconds, [(kernel, time / busy) for kernel, time in ordered]
