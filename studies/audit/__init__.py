"""Whether what the solvers call converged is so: on random problems, and at their margins."""

from pathlib import Path

from .problems import directed, fuzzed
from .solvers import audit_solvers

HEADER = """# Audit of the solvers

`python -m studies audit` solves random problems by every method, with tol = 1e-4, and compares
what is said to have converged with dense float64. A problem is one operator. It counts as false if
a pair that is marked converged has a value off by more than 2·tol·λ and rounding (an eigenvalue
missed, mostly), or a residual over tol·λ, rounding and what is reported. Fuzzed problems vary
shape, size, spectrum, dtype, weight and k; directed ones have copies of eigenvalues at a small
distance from the last one wanted. Golub–Kahan and Nyström certify by probes, and Lanczos by another
random start: these overlook a copy with a probability of 1e-3 when they are asked.
"""


def audit(
    out: str = "studies/audit", seed: int = 0, problems: int = 10_000, quick: bool = False
) -> None:
    """Solve random problems by every method; write how many are falsely called converged.

    Args:
        out: folder for table.md.
        seed: of the problems.
        problems: how many of each part, all methods together.
        quick: a few hundred problems, in under a minute; no table is written.
    """
    count = 200 if quick else problems
    rows = [
        row
        for part, draw in (("fuzzed", fuzzed), ("directed", directed))
        for row in audit_solvers(part, draw, count, seed)
    ]
    table = _markdown(rows)
    print(table, end="")
    if not quick:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(f"{HEADER}\nSeed {seed}.\n\n{table}")


def _markdown(rows: list[dict[str, str | int]]) -> str:
    lines = [[*map(str, row.values())] for row in rows]
    lines = [[*rows[0]], ["---"] * len(rows[0]), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
