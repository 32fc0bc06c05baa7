"""Checkpoints of trained VAEs, and the unfinished trainings that stand beside them.

Both are written under a temporary name and renamed when they are on disk: they are there whole or
not at all.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pullback.archive.atomic import move_into_place, temporary_name
from pullback.archive.configuration import list_differences

from .vae import MLPVAE, VAE, ConvVAE

_ARCHITECTURES: dict[str, type[VAE]] = {"MLPVAE": MLPVAE, "ConvVAE": ConvVAE}
_PARTIAL = ".partial"


def save(vae: VAE, path: Path, **facts: Any) -> None:
    """Weights as safetensors, with the architecture and how it was trained as metadata."""
    configuration = describe(vae, **facts)
    metadata = {
        "class": configuration["class"],
        "architecture": json.dumps(configuration["architecture"]),
        "training": json.dumps(configuration["training"]),
    }
    with _whole(path) as temporary:
        save_file(vae.state_dict(), temporary, metadata)


def load(path: Path) -> VAE:
    """The VAE of a checkpoint, or of an unfinished training (``.partial``), in eval mode.

    Raises:
        FileNotFoundError, ValueError: there is no checkpoint at ``path``, or its weights do not
            fit the architecture that it names.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == _PARTIAL:
        partial = _read_partial(path)
        return _build(path, partial["configuration"], partial["weights"])
    configuration = read_configuration(path)
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _build(path, configuration, weights)


def describe(vae: VAE, **facts: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: class, architecture and training, as JSON would have it."""
    configuration = {"class": type(vae).__name__, "architecture": vae.config, "training": facts}
    return json.loads(json.dumps(configuration))


def read_configuration(path: Path) -> dict[str, Any]:
    """What :func:`describe` gave when a checkpoint was saved.

    Raises:
        ValueError: the file is no checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if "architecture" not in metadata:
        raise ValueError(f"{path} does not say what architecture its weights are of")
    return {
        "class": metadata.get("class", "MLPVAE"),  # older checkpoints do not name it
        "architecture": json.loads(metadata["architecture"]),
        "training": json.loads(metadata.get("training", "{}")),
    }


def partial_path(path: Path) -> Path:
    """Where the unfinished training of a checkpoint is kept: ``NAME.partial`` beside it."""
    return path.with_name(path.name + _PARTIAL)


def save_partial(path: Path, configuration: dict[str, Any], state: dict[str, Any]) -> None:
    """Keep the state of a training, with its ``weights`` in it, until the checkpoint is there."""
    with _whole(partial_path(path)) as temporary:
        torch.save({"configuration": configuration, **state}, temporary)


def find_partial(path: Path, configuration: dict[str, Any]) -> dict[str, Any] | None:
    """The state of this very training if it was interrupted, else None.

    Raises:
        FileExistsError: something else stands in its place.
    """
    partial = partial_path(path)
    if not partial.exists():
        return None
    try:
        state = _read_partial(partial)
    except ValueError as error:
        raise FileExistsError(f"{error}; delete it, or give the checkpoint another name") from error
    _refuse_other(partial, state["configuration"], configuration)
    return state


def find_finished(path: Path, configuration: dict[str, Any]) -> VAE | None:
    """The VAE of this very training if it is finished, else None.

    Raises:
        FileExistsError: something else stands in its place.
    """
    if not path.exists():
        return None
    try:
        found = read_configuration(path)
        _refuse_other(path, found, configuration)
        return load(path)
    except ValueError as error:
        raise FileExistsError(f"{error}; give the checkpoint another name") from error


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name, which becomes ``path`` if all goes well."""
    temporary = temporary_name(Path(path))
    try:
        yield temporary
        move_into_place(temporary, Path(path))
    finally:
        temporary.unlink(missing_ok=True)


def _read_partial(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of whatever kind the unpickler trips over
        raise ValueError(f"{path} is no unfinished training: it cannot be read") from error
    if not isinstance(state, dict) or not {"configuration", "weights"} <= state.keys():
        raise ValueError(f"{path} is no unfinished training: it holds something else")
    return state


def _build(path: Path, configuration: dict[str, Any], weights: dict[str, Any]) -> VAE:
    name = configuration["class"]
    if name not in _ARCHITECTURES:
        raise ValueError(f"{path} holds a {name!r}, not one of {', '.join(_ARCHITECTURES)}")
    try:
        vae = _ARCHITECTURES[name](**configuration["architecture"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} describes a {name} that cannot be made: {error}") from error
    own = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    wrong = [key for key in own | found if own.get(key) != found.get(key)]
    if wrong:
        shapes = (shape.get(wrong[0], "absent") for shape in (found, own))
        raise ValueError(
            "the weights in {} are of another architecture than the {} that it names: {} of {} "
            "differ, the first being {}, {} and not {}".format(
                path, name, len(wrong), len(own | found), wrong[0], *shapes
            )
        )
    vae.load_state_dict(weights)
    return vae.eval()


def _refuse_other(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differences = list_differences(old, new)
    if differences:
        raise FileExistsError(
            f"{path} holds another training: {'; '.join(differences)}; repeat that training's "
            "settings, delete the file, or give the checkpoint another name"
        )
