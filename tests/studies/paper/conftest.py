"""VAEs for which everything that is measured is known, and studies with hardly any training."""

from types import SimpleNamespace

import pytest
import torch

from studies.paper import gp, measurement, mixup, optimality, passes, vaes
from tests.studies.shell import run

INPUTS, LATENT = 6, 6
STUDIES = (
    *("beta", "distance", "mixup", "seeds", "combined", "gallery", "optimality"),
    "passes",
)


@pytest.fixture
def linear_vae():
    """Codes A x with σ = 1, decoded by the inverse of A: reconstructions are exact."""
    a = torch.randn(LATENT, INPUTS, generator=torch.Generator().manual_seed(4)).double()
    inverse = torch.linalg.inv(a)

    def encode(x):
        mean = x.flatten(1) @ a.T
        return mean, torch.zeros_like(mean)

    return SimpleNamespace(
        encode=encode,
        decode=lambda z: (z @ inverse.T).unflatten(1, (1, 2, 3)),
        matrix=a,
        config={"learned_variance": False},
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with what all studies of the paper leave for digits, quickly."""
    root = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        for name in STUDIES:
            assert run(name, "--quick", "true", "--out", root / "digits") == 0
    return root


@pytest.fixture
def fast(monkeypatch):
    """Little training and few images."""
    hurry(monkeypatch)


@pytest.fixture
def quick_curves(monkeypatch):
    """Curves over β that are fitted in a few steps."""
    monkeypatch.setattr(gp, "STEPS", 10)


def hurry(patch):
    patch.setattr(vaes, "EPOCHS", 2)
    patch.setattr(measurement, "QUICK_IMAGES", 12)
    patch.setattr(mixup, "SHOWN", 3)
    patch.setattr(gp, "STEPS", 20)
    patch.setattr(passes, "QUICK_IMAGES", 5)
    patch.setattr(optimality, "QUICK", optimality.Effort(eps=(0.1, 1.0), steps=2, restarts=1))
