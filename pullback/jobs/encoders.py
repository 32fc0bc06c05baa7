"""A user's own encoder or decoder from ``FILE_OR_MODULE:FACTORY``, and its weights from a file."""

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..arguments import plain, usable_device
from ..maps import Map, Pick, as_map
from ..metrics import Encoder
from .factories import call_factory


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is made from, by each process that needs it.

    Attributes:
        factory: ``path/to/file.py:factory`` or ``package.module:factory``. The factory takes no
            arguments and returns a module or a map (see :func:`pullback.as_map`).
        returns, pick: as for :func:`pullback.as_map`.
        weights: a safetensors file, or one that ``torch.load(weights_only=True)`` reads; loaded
            into the module.
        seed: of PyTorch's random numbers, which a factory may draw.
    """

    factory: str
    returns: str | None = None
    weights: str | Path | None = None
    pick: Pick | None = None
    seed: int = 0

    def load(self) -> tuple[Map, dict[str, Any]]:
        """Call the factory, and load the weights.

        Returns:
            the map, and facts that identify it: the factory's name and a digest of its file.

        Raises:
            FileNotFoundError, TypeError, ValueError: what is wrong with which of the three.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder, module = _load(self.factory, "encoder", self.returns, self.weights, self.pick)
        source = Path(inspect.getfile(module)).read_bytes()
        name = self.factory.rpartition(":")[2]
        return encoder, {"factory": name, "source_sha256": hashlib.sha256(source).hexdigest()}


def make_encoder(
    encoder: Encoder | EncoderSpec, device: str, provenance: dict[str, Any]
) -> tuple[Map, torch.device, dict[str, Any]]:
    """The map, with all its modules on a device, and what is known of it beside ``provenance``.

    Raises:
        ValueError: PyTorch cannot use the device, after what the encoder's file has imported.
    """
    if isinstance(encoder, EncoderSpec):
        made, found = encoder.load()
        provenance = found | provenance
    else:
        made = as_map(encoder)
    target = usable_device(device)
    for module in made.modules():
        module.to(target)
    return made, target, provenance


def load_decoder(spec: str, weights: str | Path | None = None) -> Map:
    """A decoder, from a factory that returns a map, or a module that returns a tensor."""
    return _load(spec, "decoder", None, weights, None)[0]


def _load(
    spec: str, what: str, returns: str | None, weights: str | Path | None, pick: Pick | None
) -> tuple[Map, ModuleType]:
    made, module = call_factory(spec, what)
    if not callable(made):
        raise TypeError(f"{spec} must return a module or a map, got {type(made).__name__}")
    loaded = as_map(made, returns, pick=pick)
    if weights is not None:
        load_weights(loaded, Path(weights))
    return loaded, module


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
            "weights can be loaded into a module or a method of one; the factory returned a plain "
            "function (pb.as_map(fn, module=…) names the module that it calls)"
        )
    state = _with_tied(encoder.module, _read_state(path))
    problems = _mismatches(encoder.module, state)
    if problems:
        raise ValueError(f"the weights in {path} are of another architecture: {problems}")
    encoder.module.load_state_dict(state)


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
