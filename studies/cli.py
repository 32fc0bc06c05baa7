"""``python -m studies NAME``: the studies by name, ``--help`` for their options."""

import logging
import sys
from collections.abc import Callable
from inspect import signature

from jsonargparse import auto_cli

from .audit import audit
from .benchmark import benchmark
from .benchmark.cuda_check import cuda_check
from .benchmark.estimate import cuda_estimate
from .benchmark.tf32 import tf32
from .digits import digits
from .paper.beta import beta
from .paper.combined import combined
from .paper.distance import distance
from .paper.gallery import gallery
from .paper.mixup import mixup
from .paper.optimality import optimality
from .paper.passes import passes
from .paper.report import report
from .paper.seeds import seeds
from .paper.vaes import Vaes
from .sweep import sweep
from .train import train
from .zoo import zoo

# What shows what; `python -m studies` lists them.
FIGURES: dict[Callable[..., None], str] = {
    gallery: "Figures 2 and 4, and 8 and 9 with --combined: attacked images",
    distance: "Figure 3: latent distance against δ",
    beta: "Figure 5: scores and attacks against β",
    mixup: "Figures 6 and 7: training with latent mixup",
    seeds: "Figure 6 with several trainings of each β, with mixup and without",
    combined: "Figure 10: scores and attacks with the metric of Eq. 11",
    optimality: "Theorem 3.2: the top eigenvector beside other attacks",
    passes: "Theorem 3.2: what the displacement of a small step costs",
}
OTHERS: dict[Callable[..., None], str] = {
    audit: "whether what solvers call converged is so, on random problems",
    benchmark: "what scores cost, beside other ways to compute them",
    cuda_check: "on a GPU: the tests that need one, and the benchmark",
    cuda_estimate: "what CelebA's test set should take on a GPU, from counts",
    tf32: "whether Krylov steps with products in TF32 would pay on a GPU",
    report: "which of the paper's claims hold, from the archives",
    digits: "the main job on embedded data",
    zoo: "encoders of other packages: captured or not, and the glue they need",
    sweep: "one VAE for each of many β",
    train: "one VAE",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a study; returns the exit status (0 done, 1 refused, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(listing())
        return 0
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        auto_cli(
            [*FIGURES, *OTHERS],
            args=with_values(arguments),
            prog="python -m studies",
            as_positional=False,
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ArithmeticError) as error:
        print(f"python -m studies: {error}", file=sys.stderr)
        return 1
    return 0


def with_values(arguments: list[str]) -> list[str]:
    """Arguments as the parser wants them: ``--skip-bad`` means ``--skip_bad true``."""
    name, *options = arguments
    if not name.startswith("-"):  # a study is called as its function is, but for dashes
        arguments = [name.replace("-", "_"), *options]
    takers: list[Callable[..., object]] = [*FIGURES, *OTHERS, Vaes]
    flags = {
        name
        for takes in takers
        for name, parameter in signature(takes).parameters.items()
        if parameter.default is False
    }
    found = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        option, *value = argument.split("=", 1)
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        found.append("=".join([option, *value]))
        if option[2:] in flags and not value and following.startswith("-"):
            found.append("true")
    return found


def _name(study: Callable[..., None]) -> str:
    return study.__name__.replace("_", "-")


def listing() -> str:
    """The studies, those of the paper's figures first."""
    lines = []
    for title, studies in (("The paper's figures:", FIGURES), ("Others:", OTHERS)):
        lines += [title, *(f"  {_name(study):<14}{text}" for study, text in studies.items()), ""]
    return "\n".join([*lines, "python -m studies NAME --help says more."])
