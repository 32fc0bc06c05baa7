"""A claim and what became of it."""

from typing import NamedTuple

from .verdicts import Verdict

OURS = "extension"  # what the paper does not say


class Claim(NamedTuple):
    """A claim, what became of it, and the numbers that decide.

    Attributes:
        text: the claim.
        verdict: what became of it.
        evidence: the numbers.
        source: where the paper says so, or ``OURS``.
    """

    text: str
    verdict: Verdict
    evidence: str
    source: str
