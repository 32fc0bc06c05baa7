"""What each method costs, in Jacobian products of one sample, and so which one is the cheapest."""

METHODS = ("dual", "golub-kahan", "lanczos", "lobpcg", "nystrom")

# Numbers in the Jacobian of one sample up to which "auto" may write it down.
DENSE_JACOBIAN = 2**26


def expected_products(rows: int, columns: int, k: int) -> dict[str, int]:
    """Products with J or Jᵀ per sample for k eigenpairs and the entropies, J rows×columns.

    - ``"dual"``: min(M, N) + 2k, whatever the spectrum;
    - ``"golub-kahan"``: max(37, 9 + 5k), that is max(14, 5k/2) steps of two, two at the ends,
      six probes, one to certify;
    - ``"nystrom"``: 6k + 34, of which 2(2k + 14) for a random sketch, or
      2k + 38 with a warm one of 16; as many as golub-kahan more, where the sketch is not enough;
    - ``"lanczos"``: 11k + 6, ``"lobpcg"``: 17k + 6, on JJᵀ (two products each), the six for
      entropies that are hardly known.

    All but the first are read off scores of trained encoders (`python -m studies benchmark`), whose
    eigenvalues fall fast, and slower the further down. They grow with slower decay, up to several
    times min(M, N).
    """
    small = min(rows, columns)
    return {
        "dual": small + 2 * k,
        "golub-kahan": max(37, 9 + 5 * k),
        "lanczos": 11 * k + 6,
        "lobpcg": 17 * k + 6,
        "nystrom": 6 * k + 34,
    }


def choose_method(rows: int, columns: int, k: int, weighted: bool = False) -> str:
    """``"dual"`` or ``"golub-kahan"``, the two that always know the entropies in the end."""
    cost = expected_products(rows, columns, k)
    tall_and_weighted = weighted and rows > columns
    return "dual" if tall_and_weighted or cost["dual"] <= cost["golub-kahan"] else "golub-kahan"


def steps_before_dual(rows: int, columns: int) -> int | None:
    """Steps after which Golub–Kahan is given up for the exact method; None for never.

    A step, with its own arithmetic, costs about two of the exact method's products: whatever the
    spectrum, no sample costs more than about twice the cheaper method.
    """
    return min(rows, columns) // 2 if rows * columns <= DENSE_JACOBIAN else None
