"""Images from disk: what a path holds, and how it is opened."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .arrays import looks_like_idx, open_idx, open_numpy
from .datasets import open_dataset
from .folders import FolderOptions, open_folder, open_list
from .images import Images
from .pixels import Framing

FORMATS = (
    "a .npy or .npz array, an IDX file (.gz or not), a folder of images, a .txt file that names "
    "images, or FILE_OR_MODULE:FACTORY that returns a data set of PyTorch"
)


def open_images(path: str | Path, options: FolderOptions | None = None) -> Images:
    """Open a data set without reading all of it.

    Args:
        path: a ``.npy`` array ``(n, *event)``; an ``.npz`` file with such an array, alone or named
            ``images`` or ``x``, and labels, if any, named ``labels`` or ``y``; an IDX file of
            images, whose labels are looked for beside it under the usual name; or a folder of
            images of one size, read in the natural order of their names; a ``.txt`` file with the
            paths of such images, one a line, relative to its own folder; or
            ``FILE_OR_MODULE:FACTORY``, a callable without arguments that returns a map-style data
            set. Bytes are divided by 255, floating-point values are taken as they are.
        options: which images of a folder, and how they are cut and shrunk; and, of any data set,
            whether those that are damaged are noted as failed.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: the file is of another kind, damaged or empty, the images differ in shape, or
            there are options of folders and no folder.
    """
    options, state = options or FolderOptions(), torch.get_rng_state()
    images = replace(_open(path, options), skip_bad=options.skip_bad)
    return replace(images, source=partial(_open_again, state, path, options))


def _open_again(state: Tensor, path: str | Path, options: FolderOptions) -> Images:
    """In another process, where a factory shall draw the same random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        return open_images(path, options)


def _open(path: str | Path, options: FolderOptions) -> Images:
    if _names_factory(str(path)):
        _refuse(str(path), replace(options, framing=Framing()))
        return open_dataset(str(path), options.framing, skip_bad=options.skip_bad)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}; give {FORMATS}")
    if path.is_dir():
        return open_folder(path, options)
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; give {FORMATS}")
    if path.suffix == ".txt":
        _refuse(path, replace(options, framing=Framing(), labels=None))
        return open_list(path, options)
    _refuse(path, options)
    return _open_array(path)


def _names_factory(path: str) -> bool:
    location, separator, name = path.rpartition(":")
    return bool(location and separator) and name.isidentifier() and not Path(path).exists()


def _refuse(path: str | Path, options: FolderOptions) -> None:
    """Refuse those options that are not the usual ones."""
    given = vars(options.framing) | {k: v for k, v in vars(options).items() if k != "framing"}
    names = [n for n, value in given.items() if value not in (None, False) and n != "skip_bad"]
    if names:
        raise ValueError(f"{path} is no folder of images; it does not take {', '.join(names)}")


def _open_array(path: Path) -> Images:
    if path.suffix in (".npy", ".npz"):
        return open_numpy(path)
    if path.name.endswith(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")) or looks_like_idx(path):
        return open_idx(path)
    raise ValueError(f"cannot tell what {path} is; give {FORMATS}")
