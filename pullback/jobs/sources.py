"""Images from disk: what a path holds, and how it is opened."""

from pathlib import Path

from .arrays import looks_like_idx, open_idx, open_numpy
from .folders import open_folder
from .images import Images

FORMATS = "a .npy or .npz array, an IDX file (.gz or not) or a folder of images"


def open_images(path: str | Path) -> Images:
    """Open a data set without reading all of it.

    Args:
        path: a ``.npy`` array ``(n, *event)``; an ``.npz`` file with such an array, alone or named
            ``images`` or ``x``, and labels, if any, named ``labels`` or ``y``; an IDX file of
            images, whose labels are looked for beside it under the usual name; or a folder of
            images of one size, read in the order of their names, subfolders included. Bytes are
            divided by 255, floating-point values are taken as they are.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: the file is of another kind, damaged or empty, or the images differ in shape.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}; give {FORMATS}")
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; give {FORMATS}")
    if path.suffix in (".npy", ".npz"):
        return open_numpy(path)
    if path.name.endswith(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")) or looks_like_idx(path):
        return open_idx(path)
    raise ValueError(f"cannot tell what {path} is; give {FORMATS}")
