"""A score against β as a smooth curve with noise: a Gaussian process over log β.

Trainings scatter, each around a curve that they share. The process learns how smooth that curve is
and how large the scatter, from one training for each of many β as well as from several for a few.
"""

from dataclasses import dataclass

import gpytorch
import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import LinearKernel, MaternKernel, ScaleKernel
from gpytorch.means import ConstantMean
from numpy.typing import NDArray
from scipy.stats import norm, t

from .statistics import Interval

FEWEST = 4  # different β from which a curve says something
SCATTERS = 8  # different β from which it says how far trainings lie from it
THRESHOLD = 1.0  # of ρ: under it, no small step moves the code further than the image
STEPS = 50
_LENGTHS = (0.3, 1.5)
# In deviations of log β; three neighbours of 50 β. A curve that bends faster passes through every
# training, so that none seems to scatter.
_SHORTEST = 0.2
_SIDE = norm.ppf(0.975)


@dataclass(frozen=True)
class Curve:
    """A posterior, at β evenly spaced in the logarithm.

    Attributes:
        beta: ``(n,)``, ascending.
        mean: ``(n,)``, of the curve, in the units that it was fitted in (logarithms, if so).
        covariance: ``(n, n)``, of the curve.
        noise: variance of a training around the curve.
        freedom: degrees of freedom with which that is known: trainings less what the curve takes
            to follow them; near 0 if it passes through every one.
        logarithmic: whether the logarithm of the values was fitted.
    """

    beta: NDArray
    mean: NDArray
    covariance: NDArray
    noise: float
    freedom: float
    logarithmic: bool

    @property
    def middle(self) -> NDArray:
        """The curve in the units of the values: a median, if logarithms were fitted."""
        return self._back(self.mean)

    def band(self) -> tuple[NDArray, NDArray]:
        """Where 95 % of further trainings lie, ``(n,)`` each."""
        side = t.ppf(0.975, self.freedom) * np.sqrt(self.covariance.diagonal() + self.noise)
        return self._back(self.mean - side), self._back(self.mean + side)

    def slope(self) -> tuple[Interval, float]:
        """Mean slope over the range, and the probability that it is negative.

        It is the change from the smallest β to the largest, over the change of log β: for
        logarithms the mean exponent of a power law.
        """
        extent = np.log(self.beta[-1] / self.beta[0])
        ends = self.covariance[np.ix_([0, -1], [0, -1])]
        value = (self.mean[-1] - self.mean[0]) / extent
        deviation = np.sqrt(max(0.0, ends[0, 0] + ends[1, 1] - 2 * ends[0, 1])) / extent
        side = _SIDE * deviation
        negative = norm.cdf(0, value, deviation) if deviation > 0 else float(value < 0)
        return Interval(value, value - side, value + side), float(negative)

    def first_below(self, threshold: float) -> float | None:
        """The smallest β from which on a training is below a threshold with probability 95 %.

        None if that is so at no β of the range, or the scatter is not known.
        """
        if not self.knows_scatter:
            return None
        level = np.log(threshold) if self.logarithmic else threshold
        deviation = np.sqrt(self.covariance.diagonal() + self.noise)
        sure = t.cdf((level - self.mean) / deviation, self.freedom) >= 0.95
        # The last β decides: from which on nothing is unsure.
        unsure = np.flatnonzero(~sure)
        first = 0 if len(unsure) == 0 else int(unsure[-1]) + 1
        return float(self.beta[first]) if first < len(self.beta) else None

    @property
    def knows_scatter(self) -> bool:
        """Whether there are trainings that the curve does not pass through."""
        return self.freedom >= 1

    def scatter(self) -> float:
        """Standard deviation of a training around the curve: relative, if of logarithms."""
        return float(np.sqrt(self.noise))

    def _back(self, values: NDArray) -> NDArray:
        return np.exp(values) if self.logarithmic else values


def fit(beta: NDArray, values: NDArray, *, logarithmic: bool, points: int = 200) -> Curve:
    """The posterior for values ``(n,)`` of trainings with ``beta``, by largest evidence.

    A straight line over log β, with a wide prior on its slope, and a Matérn 5/2 process around it;
    the scale, length and noise are those that make the values most probable.

    Args:
        beta: positive, in any order, with repetitions or without.
        values: positive, if logarithmic.
        logarithmic: take the logarithms of the values.
        points: at how many β the posterior is computed.

    Raises:
        ValueError: fewer than ``FEWEST`` different β.
    """
    if len(np.unique(beta)) < FEWEST:
        raise ValueError(f"at least {FEWEST} different β are needed, got {len(np.unique(beta))}")
    y = np.log(values) if logarithmic else np.asarray(values, dtype=float)
    shift, scale = y.mean(), y.std() or 1.0
    grid = np.geomspace(np.min(beta), np.max(beta), points)
    centre, width = np.log(grid).mean(), np.log(grid).std() or 1.0
    x = torch.from_numpy((np.log(np.asarray(beta, dtype=float)) - centre) / width)
    standard = torch.from_numpy((y - shift) / scale)
    # The evidence can have two maxima: much noise around a smooth curve, or little around a rough
    # one. The search begins at either.
    models = [_Process(x, standard, length) for length in _LENGTHS]
    model = models[int(np.argmax([_maximise(one) for one in models]))].eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        posterior = model(torch.from_numpy((np.log(grid) - centre) / width))
        mean, covariance = posterior.mean.numpy(), posterior.covariance_matrix.numpy()
        noise, freedom = _around(model, x, standard)
    return Curve(
        grid, shift + scale * mean, scale**2 * covariance, scale**2 * noise, freedom, logarithmic
    )


def has_curve(values: NDArray, *, logarithmic: bool) -> bool:
    """Whether a curve can go through values ``(n,)``: all are finite, and have logarithms."""
    return bool(np.isfinite(values).all() and (not logarithmic or (values > 0).all()))


def scatter(beta: NDArray, values: NDArray) -> tuple[float, float]:
    """Variance of the logarithms of trainings around their curve, and its degrees of freedom.

    Returns:
        NaN and 0 if there is no curve: of too few β, or of values that are not all positive; or if
        it passes through every training.
    """
    if len(np.unique(beta)) < SCATTERS or not has_curve(values, logarithmic=True):
        return np.nan, 0
    curve = fit(beta, values, logarithmic=True)
    return (curve.noise, curve.freedom) if curve.knows_scatter else (np.nan, 0)


def _around(model: "_Process", x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Variance around the curve, and its degrees of freedom: of residuals, not by evidence.

    The residuals are s P y, with the learned noise s, P = A − A1(1ᵀA1)⁻¹1ᵀA and A = (K + s)⁻¹. That
    takes n − s tr P numbers to follow n, which the evidence does not count.
    """
    s = model.likelihood.noise.item()
    a = torch.linalg.inv(model.kernel(x).to_dense() + s * torch.eye(len(x), dtype=x.dtype))
    column = a.sum(1)
    p = a - torch.outer(column, column) / column.sum()
    freedom = s * p.trace().item()
    return float((s * p @ y).square().sum()) / freedom, freedom


class _Process(gpytorch.models.ExactGP):
    """y = constant + a straight line over x + a Matérn process + noise."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, length: float) -> None:
        likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=GreaterThan(1e-6))
        super().__init__(x, y, likelihood)
        matern = MaternKernel(nu=2.5, lengthscale_constraint=GreaterThan(_SHORTEST))
        self.mean, line, around = ConstantMean(), LinearKernel(), ScaleKernel(matern)
        self.kernel = line + around
        self.double()
        # Both are standardised, so that no slope is far beyond 1; one is learned from the values.
        line.variance = 4.0
        line.raw_variance.requires_grad_(False)
        # Where the search begins: a line, with smooth curves around it, that explains most.
        matern.lengthscale = length
        around.outputscale = 0.1
        self.likelihood.noise = 0.1

    def forward(self, x: torch.Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean(x), self.kernel(x))


def _maximise(model: _Process) -> float:
    """Climb the evidence by L-BFGS; what it was at last."""
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(learned, max_iter=STEPS, line_search_fn="strong_wolfe")
    model.train()

    def negative() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -evidence(model(model.train_inputs[0]), model.train_targets)
        loss.backward()
        return loss

    with gpytorch.settings.fast_computations(False, False, False):
        optimizer.step(negative)
        return -negative().item()
