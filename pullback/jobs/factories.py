"""What a user's own ``FILE_OR_MODULE:FACTORY`` returns."""

import importlib
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any


def call_factory(spec: str, what: str) -> tuple[Any, ModuleType]:
    """Import what ``spec`` names, and call it without arguments.

    Args:
        spec: ``path/to/file.py:factory`` or ``package.module:factory``.
        what: what the factory makes, for messages.

    Returns:
        what it made, and the module that it stands in.

    Raises:
        FileNotFoundError, ValueError: there is no such factory, or it fails.
    """
    location, separator, name = spec.rpartition(":")
    if not separator or not location or not name:
        raise ValueError(f"{what} {spec!r} does not have the form FILE_OR_MODULE:FACTORY")
    module = _import(location, what)
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [
            n for n, v in vars(module).items() if callable(v) and v.__module__ == module.__name__
        ]
        raise ValueError(
            f"{location} has no callable {name!r}; it has {', '.join(public) or 'none'}"
        )
    try:
        return factory(), module
    except (Exception, SystemExit) as error:
        raise ValueError(f"calling {spec} failed: {_where(error)}") from error


def _import(location: str, what: str) -> ModuleType:
    path = Path(location)
    is_file = path.suffix == ".py"
    if is_file and not path.exists():
        raise FileNotFoundError(f"no file {path} to take the {what} from")
    # As Python does for a script: what lies beside it can be imported, now and later.
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _run_file(path) if is_file else importlib.import_module(location)
    except (Exception, SystemExit) as error:  # a script may end itself
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and not is_file and f"{location}.".startswith(f"{absent}."):
            raise ValueError(f"there is no module {absent!r} to import") from error
        raise ValueError(f"{location} cannot be imported: {_where(error)}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"_pullback_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Registered, so that what it defines can be pickled.
    sys.modules[name] = module
    SourceFileLoader(name, str(path)).exec_module(module)
    return module


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
