"""Images from disk: what a path holds, and how it is opened."""

from dataclasses import replace
from pathlib import Path

from .arrays import looks_like_idx, open_idx, open_numpy
from .datasets import open_dataset
from .folders import FolderOptions, open_folder
from .images import Images
from .pixels import Framing

FORMATS = (
    "a .npy or .npz array, an IDX file (.gz or not), a folder of images, or FILE_OR_MODULE:FACTORY "
    "that returns a data set of PyTorch"
)


def open_images(path: str | Path, options: FolderOptions | None = None) -> Images:
    """Open a data set without reading all of it.

    Args:
        path: a ``.npy`` array ``(n, *event)``; an ``.npz`` file with such an array, alone or named
            ``images`` or ``x``, and labels, if any, named ``labels`` or ``y``; an IDX file of
            images, whose labels are looked for beside it under the usual name; or a folder of
            images of one size, read in the natural order of their names; or
            ``FILE_OR_MODULE:FACTORY``, a callable without arguments that returns a map-style data
            set. Bytes are divided by 255, floating-point values are taken as they are.
        options: which images of a folder, and how they are cut and shrunk.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: the file is of another kind, damaged or empty, the images differ in shape, or
            there are options and no folder.
    """
    spec, path, options = str(path), Path(path), options or FolderOptions()
    if not path.exists() and spec.rpartition(":")[2].isidentifier() and ":" in spec:
        if replace(options, framing=Framing()) != FolderOptions():
            raise ValueError(f"{spec} is no folder: of the options of files, it takes crop, resize")
        return open_dataset(spec, options.framing)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}; give {FORMATS}")
    if path.is_dir():
        return open_folder(path, options)
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; give {FORMATS}")
    if options != FolderOptions():
        raise ValueError(
            f"{path} is an array; options of files (glob, crop, resize and the like) are for a "
            "folder of images"
        )
    if path.suffix in (".npy", ".npz"):
        return open_numpy(path)
    if path.name.endswith(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")) or looks_like_idx(path):
        return open_idx(path)
    raise ValueError(f"cannot tell what {path} is; give {FORMATS}")
