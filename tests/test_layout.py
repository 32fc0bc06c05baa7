"""Imports go one way: studies → models → pullback, and down the list of pullback's modules."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each imports only from those before it.
ORDER = (
    "start",
    "version",
    "arguments",
    "sampling",
    "products",
    "maps",
    "indexing",
    "weights",
    "base_operator",
    "operators",
    "averages",
    "fisher",
    "metrics",
    "eigen",
    "traces",
    "scores",
    "attacks",
    "archive",
    "jobs",
    "report",
    "options",
    "terminal",
    "cli",
    "__main__",
)


def modules(package: str) -> dict[str, Path]:
    """The files of a package by the names of its modules."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """The modules that a module imports, here or within a function, by their full names."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            # What is imported from a package may be a module of it.
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


def imported_modules(package: str) -> dict[str, set[str]]:
    """For each module of a package, those of the same package that it names in an import."""
    files = modules(package)
    graph = {}
    for name, path in files.items():
        named = imports(name, path) & files.keys()
        # `from .solvers import dual` names the package, and is about its module.
        graph[name] = {n for n in named if not any(m.startswith(f"{n}.") for m in named)} - {name}
    return graph


def test_the_list_names_all_of_pullback():
    parts = {name.split(".")[1] for name in modules("pullback") if "." in name}
    assert parts <= set(ORDER), f"not in the list: {sorted(parts - set(ORDER))}"


@pytest.mark.parametrize("part", ORDER)
def test_imports_go_down_the_list(part):
    climbing = [
        f"{name} imports {other}"
        for name, others in imported_modules("pullback").items()
        for other in others
        if name.split(".")[1:2] == [part]
        and (other == "pullback" or ORDER.index(other.split(".")[1]) > ORDER.index(part))
    ]
    assert climbing == []


@pytest.mark.parametrize("package", ["pullback", "models", "studies"])
def test_there_is_no_circle(package):
    TopologicalSorter(imported_modules(package)).prepare()  # raises a CycleError


@pytest.mark.parametrize(
    ("package", "above"),
    [("pullback", {"models", "studies", "tests"}), ("models", {"studies", "tests"})],
)
def test_packages_import_one_way(package, above):
    for name, path in modules(package).items():
        assert not {other.split(".")[0] for other in imports(name, path)} & above, name
