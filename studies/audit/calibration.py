"""How often the truth is within one and two standard errors of an estimate, for every estimator."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from linear_operator.operators import DiagLinearOperator
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb
from pullback.traces import (
    EXP,
    INVERSE,
    LOG,
    SQRT,
    XLOGX,
    Integrand,
    QuadratureWarning,
    trace_of_function,
)

TABLE = Path(__file__).parent / "calibration.md"
# Eigenvalues of each spectrum, and the least share within two errors that is called calibrated.
SIZE, ENOUGH = 100, 0.9
# A metric's spectrum is that of a J with so many columns.
COLUMNS = 120


def _steps(*counts: int) -> Tensor:
    """So many eigenvalues 1, so many 0.1, …; the rest are 0.001."""
    eigenvalues = torch.full((SIZE,), 1e-3, dtype=torch.float64)
    for level, count in reversed(list(enumerate(counts))):
        eigenvalues[: sum(counts[:level]) + count] = 0.1**level
    return eigenvalues


_index = torch.arange(SIZE, dtype=torch.float64)
SPECTRA = {
    "0.5ⁱ": 0.5**_index,
    "0.9ⁱ": 0.9**_index,
    "0.99ⁱ": 0.99**_index,
    "1/i": 1 / (1 + _index),
    "1e-6 to 1": 1e-6 ** (_index / (SIZE - 1)),
    "5 of 1": _steps(5),
    "3 of 1, 15 of 0.1": _steps(3, 15),
    "rank 3": torch.where(_index < 3, 3 - _index, 0.0),
}


@dataclass(frozen=True)
class Row:
    """One estimator on one spectrum.

    Attributes:
        estimator, spectrum: their names.
        one, two: the share of seeds within one and two standard errors.
        error: the median standard error, relative to the truth (absolute where that is 0).
        actual: the root mean square of the actual error, likewise.
        unknown: the share of seeds whose error is infinite, which count as within.
    """

    estimator: str
    spectrum: str
    one: float
    two: float
    error: float
    actual: float
    unknown: float


@dataclass(frozen=True)
class Case:
    """Estimates of some numbers for each sample of a batch, and those numbers.

    Attributes:
        estimate: of an operator: a diagonal one, or a pullback metric.
        truths: of eigenvalues, by name, in the order of the estimates.
        of_metrics: whether it works on metrics alone.
    """

    estimate: Callable[[Any, torch.Generator], Sequence[pb.Estimate]]
    truths: dict[str, Callable[[Tensor], Tensor]]
    of_metrics: bool = False


def entropy_of(normalization: str) -> Callable[[Tensor], Tensor]:
    """−Σ p log p by definition."""

    def truth(eigenvalues: Tensor) -> Tensor:
        one = torch.ones((), dtype=eigenvalues.dtype)
        scales = {"none": one, "trace": eigenvalues.sum(), "max": eigenvalues.max()}
        p = eigenvalues / scales[normalization]
        return -torch.xlogy(p, p).sum()

    return truth


def cases() -> list[Case]:
    """All estimators, those that take probes with few of them and with as many as by default."""
    found = [
        _of_trace(method, probes)
        for method in ("hutchinson", "hutch++", "xtrace")
        for probes in (6, 10, 30)
    ]
    found.append(Case(lambda metric, g: [pb.trace(metric, g)], {"trace auto": torch.sum}, True))
    normalizations = pb.traces.NORMALIZATIONS
    truths = {f"score, entropy {name}": entropy_of(name) for name in normalizations}
    found.append(Case(_entropies, {"score, trace": torch.sum, **truths}, True))
    found += [_of_entropy(name) for name in normalizations]
    integrands = {"x log x": XLOGX, "√x": SQRT, "log x": LOG, "1/x": INVERSE, "exp x": EXP}
    return [*found, *(_of_function(f"tr f, {name}", f) for name, f in integrands.items())]


def _of_trace(method: str, probes: int) -> Case:
    return Case(
        lambda operator, g: [pb.trace(operator, g, method, probes)],
        {f"trace {method}, {probes} probes": torch.sum},
    )


def _of_entropy(normalization: str) -> Case:
    return Case(
        lambda metric, g: [pb.entropy(metric, normalization, g, "slq")],
        {f"entropy slq, {normalization}": entropy_of(normalization)},
        of_metrics=True,
    )


def _of_function(name: str, f: Integrand) -> Case:
    return Case(
        lambda operator, g: [trace_of_function(operator, f, generator=g)],
        {name: lambda eigenvalues: f(eigenvalues).sum()},
    )


def _entropies(metric: pb.PullbackMetric, generator: torch.Generator) -> list[pb.Estimate]:
    """The trace and the three entropies from one run, as :func:`pullback.score` has them."""
    fn, x = metric.jacobian.fn, metric.jacobian.x
    # "auto" takes the exact method for most spectra as small as these.
    scores = pb.score(fn, x, generator=generator, method="golub-kahan")
    return [
        pb.Estimate(scores.trace, scores.trace_error),
        pb.Estimate(scores.entropy_none, scores.entropy_none_error),
        pb.Estimate(scores.entropy, scores.entropy_error),
        pb.Estimate(scores.entropy_max, scores.entropy_max_error),
    ]


def calibrate(seeds: int = 300, seed: int = 0) -> list[Row]:
    """Every estimator on every spectrum where its truth is finite, each with so many seeds."""
    rows = []
    for case in tqdm(cases(), unit="estimator"):
        for spectrum, eigenvalues in SPECTRA.items():
            if not all(truth(eigenvalues).isfinite() for truth in case.truths.values()):
                continue
            estimates = _estimate(case, eigenvalues, seeds, seed)
            for (name, truth), estimate in zip(case.truths.items(), estimates, strict=True):
                rows.append(_row(name, spectrum, estimate, truth(eigenvalues)))
    return rows


def _estimate(case: Case, eigenvalues: Tensor, seeds: int, seed: int) -> Sequence[pb.Estimate]:
    """Of a batch of one operator, repeated: each sample has a seed of its own."""
    operator: object = DiagLinearOperator(eigenvalues.expand(seeds, SIZE))
    if case.of_metrics:
        J = torch.nn.functional.pad(eigenvalues.sqrt().diag(), (0, COLUMNS - SIZE))
        x = torch.ones(seeds, COLUMNS, dtype=torch.float64)
        operator = pb.expected_metric(pb.as_map(lambda x: x @ J.mT), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuadratureWarning)
        warnings.simplefilter("ignore", pb.RankWarning)
        return case.estimate(operator, torch.Generator().manual_seed(seed))


def _row(name: str, spectrum: str, estimate: pb.Estimate, truth: Tensor) -> Row:
    errors = (estimate.value - truth).abs()
    size = truth.abs() if truth != 0 else torch.ones(())
    rounding = 1e-9 * size
    one, two = (
        (errors <= width * estimate.std_error + rounding).double().mean().item() for width in (1, 2)
    )
    return Row(
        name,
        spectrum,
        one,
        two,
        (estimate.std_error.median() / size).item(),
        (errors.square().mean().sqrt() / size).item(),
        estimate.std_error.isinf().double().mean().item(),
    )


def table(rows: Sequence[Row], seeds: int) -> str:
    """The rows as Markdown, with those that are not calibrated first."""
    poor = [row for row in rows if row.two < ENOUGH]
    named = "; ".join(f"{row.estimator} on {row.spectrum} ({row.two:.0%})" for row in poor)
    lines = [
        "# Calibration of every estimator",
        "",
        f"Share of {seeds} seeds within one and two standard errors of the truth, in percent, on "
        f"spectra of {SIZE} eigenvalues, in float64. 68 and 95 are those of a normal error; "
        f"{ENOUGH:.0%} at two are asked for. A star: the error is infinite for some seeds, as no "
        "rule bounds the quadrature and it has not settled. `score` is that with "
        '`method="golub-kahan"`; a spectrum of which it needs every step is exact.',
        "",
        f"Below {ENOUGH:.0%} at two: {named or 'none'}.",
        "",
        "| estimator | " + " | ".join(SPECTRA) + " |",
        "|---" * (len(SPECTRA) + 1) + "|",
    ]
    found = {(row.estimator, row.spectrum): row for row in rows}
    for name in dict.fromkeys(row.estimator for row in rows):
        cells = [_cell(found.get((name, spectrum))) for spectrum in SPECTRA]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += ["", "Median standard error and root mean square of the error, relative to the truth:"]
    lines += ["", *lines[6:8]]
    for name in dict.fromkeys(row.estimator for row in rows):
        cells = [_sizes(found.get((name, spectrum))) for spectrum in SPECTRA]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.one:.0%} {row.two:.0%}".replace("%", "") + _star(row)


def _sizes(row: Row | None) -> str:
    return "" if row is None else f"{row.error:.0e} {row.actual:.0e}"


def _star(row: Row) -> str:
    return "*" if row.unknown else ""


def main(seeds: int = 300, seed: int = 0) -> None:
    """Calibrate, and write the table beside this file."""
    rows = calibrate(seeds, seed)
    TABLE.write_text(table(rows, seeds), encoding="utf-8")
    logging.getLogger(__name__).info("%s", TABLE)


if __name__ == "__main__":
    main()
