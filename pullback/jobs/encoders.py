"""A user's own encoder from ``FILE_OR_MODULE:FACTORY``, and its weights from a file."""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..arguments import plain
from ..maps import Map, Pick, as_map


def load_encoder(
    spec: str,
    returns: str | None = None,
    weights: str | Path | None = None,
    pick: Pick | None = None,
) -> tuple[Map, dict[str, Any]]:
    """Call a factory, and load weights into the module that it returns.

    Args:
        spec: ``path/to/file.py:factory`` or ``package.module:factory``. The factory takes no
            arguments and returns a module or a map (see :func:`pullback.as_map`).
        returns: as for :func:`pullback.as_map`.
        weights: a safetensors file, or one that ``torch.load(weights_only=True)`` reads.
        pick: as for :func:`pullback.as_map`.

    Returns:
        the map, and facts that identify it: the spec and a digest of the factory's file.

    Raises:
        FileNotFoundError, TypeError, ValueError: what is wrong with which of the three.
    """
    location, separator, name = spec.rpartition(":")
    if not separator or not location or not name:
        raise ValueError(f"encoder {spec!r} does not have the form FILE_OR_MODULE:FACTORY")
    module = _import(location)
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [
            n for n, v in vars(module).items() if callable(v) and v.__module__ == module.__name__
        ]
        raise ValueError(
            f"{location} has no callable {name!r}; it has {', '.join(public) or 'none'}"
        )
    encoder = as_map(_call(factory, spec), returns, pick=pick)
    if weights is not None:
        load_weights(encoder, Path(weights))
    source = Path(inspect.getfile(module)).read_bytes()
    return encoder, {"factory": name, "source_sha256": hashlib.sha256(source).hexdigest()}


def load_weights(encoder: Map, path: Path) -> None:
    """Load a state dictionary into the module behind a map; every name and shape has to fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no weights, or those of another architecture; or the map is a
            plain function.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; weights are read from one")
    if encoder.module is None:
        raise ValueError(
            "weights can be loaded into a module or a method of one; the encoder's factory "
            "returned a plain function (pb.as_map(fn, module=…) names the module that it calls)"
        )
    state = _with_tied(encoder.module, _read_state(path))
    problems = _mismatches(encoder.module, state)
    if problems:
        raise ValueError(f"the weights in {path} are of another architecture: {problems}")
    encoder.module.load_state_dict(state)


def _import(location: str) -> ModuleType:
    path = Path(location)
    is_file = path.suffix == ".py"
    if is_file and not path.exists():
        raise FileNotFoundError(f"no file {path} to take the encoder from")
    # As Python does for a script: what lies beside it can be imported, now and later.
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _run_file(path) if is_file else importlib.import_module(location)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and not is_file and f"{location}.".startswith(f"{absent}."):
            raise ValueError(f"there is no module {absent!r} to import") from error
        raise ValueError(f"{location} cannot be imported: {_where(error)}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"_encoder_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Registered, so that what it defines can be pickled.
    sys.modules[name] = module
    SourceFileLoader(name, str(path)).exec_module(module)
    return module


def _call(factory: Callable[[], Any], spec: str) -> Any:
    try:
        made = factory()
    except Exception as error:
        raise ValueError(f"calling {spec} failed: {_where(error)}") from error
    if not callable(made):
        raise TypeError(f"{spec} must return a module or a map, got {type(made).__name__}")
    return made


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any kind makes the unpickler fail in any way
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0] or type(error).__name__
        raise ValueError(
            f"{path} holds no weights that can be loaded safely ({reason}); save them with "
            "safetensors or torch.save(module.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    for prefix in ("module.", "_orig_mod."):  # of DataParallel and torch.compile
        if isinstance(state, dict) and all(str(name).startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path} holds a {type(state).__name__} that is not a dictionary of tensors; "
            "save module.state_dict()"
        )
    return state


def _with_tied(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state, with names added that share their memory with one that is there."""
    own = module.state_dict()
    by_memory = {own[name].data_ptr(): name for name in state if name in own}
    tied = {
        name: state[by_memory[tensor.data_ptr()]]
        for name, tensor in own.items()
        if name not in state and tensor.data_ptr() in by_memory
    }
    return state | tied


def _mismatches(module: nn.Module, state: dict[str, Tensor]) -> str:
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    differing = [n for n in own if n in state and own[n].shape != state[n].shape]
    found = []
    if missing:
        found.append(f"{len(missing)} tensors are missing (first: {missing[0]!r})")
    if extra:
        found.append(f"{len(extra)} are unknown to the module (first: {extra[0]!r})")
    kinds = [n for n in own if n in state and _kind(own[n]) != _kind(state[n])]
    if kinds:
        name = kinds[0]
        dtypes = f"{plain(state[name].dtype)} for {plain(own[name].dtype)}"
        found.append(f"{len(kinds)} hold numbers of another kind (first: {name!r}, {dtypes})")
    if differing:
        name = differing[0]
        shapes = f"{tuple(state[name].shape)} for {tuple(own[name].shape)}"
        found.append(f"{len(differing)} differ in shape (first: {name!r}, {shapes})")
    return "; ".join(found)


def _kind(tensor: Tensor) -> str:
    """What PyTorch would convert without a word, although the numbers are then others."""
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "integer"
