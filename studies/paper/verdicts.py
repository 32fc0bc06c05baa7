"""The rules by which numbers become verdicts on the paper's claims: all of them, in one place."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .statistics import Correlation, Interval, median

CONFIRMED, REFUTED = "confirmed", "refuted"
UNDECIDED, CONDITIONAL = "undecided", "conditional"
FEWEST = 8  # different β without which there is no trend: with 4, chance alone makes one often
LEVEL = 0.01  # probability by chance above which a trend is none
STRONG = 0.9  # rank correlation from which a trend is called one without exceptions
_MOST = 6  # cases that are named one by one
COLLAPSED = 0.85  # share of the pixels' variance from which the error says that the code is unused
BROKEN = 0.01  # rise of the mean squared error at which reconstructions count as broken
COST = 1.05  # ratio of errors of reconstruction up to which something is said to cost nothing
HOLDS = 0.99  # share of the best displacement from which a step counts as the best

# Of a case of several: its word, and an interval, by among how many cases the error is shared.
Case = Callable[[int], str]
Shared = Callable[[int], Interval]

RULES = f"""\
- **confirmed**: the numbers show it; **refuted**: they show the opposite; **undecided**: they show
  neither.
- **conditional**: it holds with exceptions, or in some cases while the opposite holds in others,
  which are named.
- A *trend* over β needs at least {FEWEST} different β and a permutation test with p < {LEVEL:g}.
  It is confirmed if the rank correlation has the claimed sign and at least the size {STRONG},
  conditional if it has the sign but is weaker, refuted if it has the other sign.
- A *ratio* is confirmed to be below (above) a bound if its whole 95 % interval is, and refuted if
  the whole interval is on the other side. It is undecided where one training of each was measured
  and the scatter of trainings is not known. That something *costs nothing* means a ratio below
  {COST:g}: the upper end of the interval decides.
- Reconstructions *break*, or differ significantly, where their mean squared error has risen by
  {BROKEN:g}.
- A step is *the best* if, for the median image, it moves the code by more than {HOLDS:g} of what
  the best other step does: again the whole 95 % interval.
- A claim about several cases, such as values of β, is confirmed if all of them are. If some are
  refuted, it is conditional where others are confirmed or conditional, and else refuted. If none is
  refuted, it is undecided where one of them is, and else conditional. The cases share the chance of
  error (Holm's procedure): the surest of n has to be sure at an nth of the level, the next at an
  (n − 1)th, and so on. So a case can be one that cannot be told though its own interval leaves the
  bound out.
- A code is called *collapsed* if the error of reconstruction is at least {100 * COLLAPSED:.0f} %
  of the pixels' variance, which is what a constant image would do. Such VAEs are left out of
  verdicts on ratios, and marked; but errors of reconstruction count where mixup alone has made a
  code collapse.
"""


class Verdict(NamedTuple):
    """What became of a claim, and in which cases.

    Attributes:
        word: one of the four.
        which: where it holds and where not; empty if that needs no saying.
    """

    word: str
    which: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.which}" if self.which else self.word


def of_trend(found: Correlation, sign: int, cases: int = 1) -> Verdict:
    """Whether something rises (``sign`` 1) or falls (−1) with β, as one of several cases."""
    if found.betas < FEWEST:
        return Verdict(UNDECIDED, f"{found.betas} values of β are too few for a trend")
    if found.p >= LEVEL / cases:
        return Verdict(UNDECIDED, "no trend either way")
    if sign * found.value < 0:
        return Verdict(REFUTED, f"it {'falls' if sign > 0 else 'rises'} instead")
    if abs(found.value) < STRONG:
        return Verdict(CONDITIONAL, f"it {'rises' if sign > 0 else 'falls'}, but not throughout")
    return Verdict(CONFIRMED)


def below(interval: Interval, bound: float = 1.0) -> str:
    """Whether something is less than a bound."""
    return CONFIRMED if interval.high < bound else REFUTED if interval.low > bound else UNDECIDED


def above(interval: Interval, bound: float = 1.0) -> str:
    """Whether something is more than a bound."""
    return CONFIRMED if interval.low > bound else REFUTED if interval.high < bound else UNDECIDED


def best(share: NDArray) -> str:
    """Whether a step is the best, by its displacements ``(n,)`` over the best other ones."""
    return above(median(share), HOLDS)


def trending(found: Correlation, sign: int) -> Case:
    """A trend as one of several cases."""
    return lambda cases: of_trend(found, sign, cases).word


def lying_below(interval: Shared, bound: float = 1.0) -> Case:
    """Whether something is less than a bound, as one of several cases."""
    return lambda cases: below(interval(cases), bound)


def lying_above(interval: Shared, bound: float = 1.0) -> Case:
    """Whether something is more than a bound, as one of several cases."""
    return lambda cases: above(interval(cases), bound)


def of_all(cases: Mapping[str, Case], holds: str = "holds", fails: str = "does not") -> Verdict:
    """Of several cases that all have to hold.

    Args:
        cases: what decides each case, by where that is, such as ``"at β = 0.01"``.
        holds, fails: what is said of the cases where it is confirmed, and refuted.
    """
    decided = _together(cases)
    words = set(decided.values())
    if len(words) == 1 and CONDITIONAL not in words:
        return Verdict(*words)
    phrases = {
        CONFIRMED: holds,
        CONDITIONAL: "holds on the whole, not throughout,",
        REFUTED: fails,
        UNDECIDED: "cannot be told",
    }
    found = {word: [name for name, it in decided.items() if it == word] for word in phrases}
    which = "; ".join(
        f"{phrases[word]} {_listed(names, len(cases))}" for word, names in found.items() if names
    )
    if REFUTED in words:
        return Verdict(CONDITIONAL if words & {CONFIRMED, CONDITIONAL} else REFUTED, which)
    return Verdict(UNDECIDED if UNDECIDED in words or not words else CONDITIONAL, which)


def _together(cases: Mapping[str, Case]) -> dict[str, str]:
    """The words for cases of which none may be wrong by chance, by Holm's procedure."""
    words = dict.fromkeys(cases, UNDECIDED)
    left = dict(cases)
    while left:
        found = {name: case(len(left)) for name, case in left.items()}
        sure = {name: word for name, word in found.items() if word != UNDECIDED}
        if not sure:
            break
        # Those that are sure leave a larger share of the level to the others.
        words |= sure
        left = {name: case for name, case in left.items() if name not in sure}
    return words


def collapsed(error: NDArray, variance: float | None) -> NDArray[np.bool_]:
    """Which VAEs make nothing of their code, by their mean errors of reconstruction ``(n,)``.

    None of them, as far as one knows, if the pixels' variance is not known.
    """
    return error >= (np.inf if variance is None else COLLAPSED * variance)


def collapsed_where(beta: NDArray, gone: NDArray[np.bool_]) -> str:
    """The β ``(n,)`` of the VAEs that :func:`collapsed` names, at least one, in words."""
    first = beta[gone].min()
    if gone[beta >= first].all():
        return f"from β = {first:.3g} on"
    betas = np.unique(beta[gone])
    return _listed([f"at β = {value:.3g}" for value in betas], len(np.unique(beta)))


def _listed(names: Sequence[str], total: int) -> str:
    """Names as a sentence has them, a common beginning said once; of too many, their number."""
    if len(names) > _MOST:
        return f"in {len(names)} of {total} cases"
    if len(names) == 1:
        return names[0]
    starts = {name.rpartition(" ")[0] for name in names}
    if len(starts) == 1:
        (start,) = starts
        plural = "s" * start[-1:].isalpha()  # of "direction", not of "β ="
        last = [name.removeprefix(start).lstrip() for name in names]
        names = [f"{start}{plural} {last[0]}", *last[1:]]
    return f"{', '.join(names[:-1])} and {names[-1]}"
