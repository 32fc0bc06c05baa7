"""The paper's claims, put to the test on the archives of a data set."""

from functools import partial

import numpy as np

from . import claims_beta, claims_mixup, gp
from .archives import Archives
from .claim import OURS, Claim
from .combined import radii
from .displacements import Displacements
from .optimality_report import EIGEN, PGDS
from .records import Record
from .seeds import widen
from .statistics import median, ratio, trend
from .verdicts import HOLDS, Verdict, best, collapsed, lying_above, of_all, of_trend


@np.errstate(divide="ignore", invalid="ignore")
def claims(archives: Archives) -> list[Claim]:
    """All claims that the archives can decide.

    What has no value, such as a ratio of zeros, is NaN, and leaves a claim undecided.
    """
    found: list[Claim] = []
    if archives.distance is not None:
        found += claims_beta.of_distances(archives.distance, archives.beta, archives.variance)
    if archives.beta is not None:
        found += claims_beta.of_scores(archives.beta, archives.variance)
        found += claims_beta.of_attacks(archives.beta)
        found += claims_beta.of_damage(archives.beta, archives.variance)
    found += claims_mixup.of_mixup(archives)
    if archives.combined is not None and archives.beta is not None:
        found += _combined(archives.combined, archives.beta, archives.variance)
    if archives.optimality is not None:
        found += _optimality(archives.optimality[0])
    return found


def _combined(record: Record, flat: Record, variance: float | None) -> list[Claim]:
    """Figure 10 and Appendix B."""
    beta = record["beta"]
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), variance)
    pairs = radii(record, flat)
    factors = np.divide(*(part.mean(1, dtype=float) for part in pairs))
    scatter = gp.scatter(beta[~gone], factors[~gone])
    kept = [
        (partial(widen, ratio(combined, plain), scatter), b)
        for combined, plain, b, out in zip(*pairs, beta, gone, strict=True)
        if not out
    ]
    if not kept:
        return []
    cases = {f"at β = {b:.3g}": lying_above(interval) for interval, b in kept}
    ratios = [(interval(), b) for interval, b in kept]
    least, most = min(ratios), max(ratios)
    evidence = "ratio of means over the same images of the same VAE"
    evidence += (
        ", the scatter of trainings around their curve added"
        if scatter[1]
        else ", of one training each, whose scatter is not known"
    )
    evidence += f": least {least[0]} at β = {least[1]:.3g}, most {most[0]} at β = {most[1]:.3g}"
    if gone.any():
        evidence += f"; the code of {gone.sum()} of {len(gone)} VAEs has collapsed, left out"
    text = "the combined metric has a larger ρ than the flat one"
    found = [Claim(text, of_all(cases), evidence, "App. B")]
    for name, values in (("ρ", record.radius), ("S of λ/Σλ", record["entropy"])):
        fall = trend(values.mean(1, dtype=float), beta)
        text = f"{name} falls as β grows, with the combined metric"
        found.append(Claim(text, of_trend(fall, -1), f"rank correlation {fall}", "Fig. 10"))
    return [*found, *claims_beta.of_attacks(record, ", with the combined metric", "Fig. 10")]


def _optimality(found: Displacements) -> list[Claim]:
    claims = []
    for clipping, ratio_ in zip(found.clipping, found.ratio(EIGEN, PGDS), strict=True):
        held = int((np.median(ratio_, axis=1) >= HOLDS).cumprod().sum())
        shown = ", ".join(f"{value:.4f}" for value in np.quantile(ratio_[0], (0.025, 0.975)))
        middle = median(ratio_[0])
        where = (
            f"the median stays at {HOLDS} or more up to ‖η‖ = {found.eps[held - 1]:.3g}"
            if held
            else f"the median is under {HOLDS} already there"
        )
        text = "the step along the eigenvector is the best ℓ₂ attack for small ‖η‖"
        is_papers = clipping == "unclipped"
        claims.append(
            Claim(
                text if is_papers else f"the same if images are {clipping} to [0, 1]",
                Verdict(best(ratio_[0])),
                f"displacement over the best PGD's at ‖η‖ = {found.eps[0]:.3g}: median "
                f"{middle.value:.4f} [{middle.low:.4f}, {middle.high:.4f}], 95 % of images in "
                f"[{shown}]; {where}",
                "Thm 3.2" if is_papers else OURS,
            )
        )
    return claims
