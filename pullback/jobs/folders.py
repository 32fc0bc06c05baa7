"""Folders of images: listed at once, opened one by one when they are read."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .images import BadImageError, Images, Stamp, find_first, require_unchanged
from .lists import choose_split, read_labels, read_list
from .pixels import EXTENSIONS, Format, Framing, opened


class _Listed(NamedTuple):
    """A file: where it is, what it is called within the folder, and its state when it was listed.

    Of a million files, it takes a while to split names again and again.
    """

    path: Path
    name: str
    stamp: Stamp


@dataclass(frozen=True)
class FolderOptions:
    """Which images of a folder are read, and how.

    Attributes:
        framing: how each is cut and shrunk.
        glob: which, by a pattern of their names within the folder, such as ``"*_front.png"``; all
            by default.
        recursive: whether those in subfolders count as well.
        split: ``FILE:NUMBER`` takes those to which a text file gives this number, subfolders
            included; a line of it is a name and a number, as in CelebA's
            ``list_eval_partition.txt``.
        labels: a text file of the same kind, with a label for each image, or ``FILE:COLUMN`` of one
            with several, such as ``list_attr_celeba.txt:Smiling``.
        skip_bad: whether images that are damaged, or unlike the first, are noted as failed.
    """

    framing: Framing = field(default_factory=Framing)
    glob: str | None = None
    recursive: bool = False
    split: str | None = None
    labels: str | None = None
    skip_bad: bool = False


def open_folder(path: Path, options: FolderOptions | None = None) -> Images:
    """The images of a folder in the natural order of their names: ``2.png`` before ``10.png``.

    They are listed only; each is opened when it is read.

    Raises:
        ValueError: there are none, or the first is no image.
    """
    options = options or FolderOptions()
    files = sorted(_choose(path, options), key=lambda file: _natural(file.name))
    if not files:
        raise ValueError(f"no images in {path}{_hint(path, options)}")
    if options.split is not None:
        chosen = choose_split(options.split, path, [file.path for file in files])
        files = [files[i] for i in chosen]
    return _open_files(path, path, files, options)


def open_list(path: Path, options: FolderOptions) -> Images:
    """The images that a text file names, one a line, in its order.

    Raises:
        ValueError: it names none, one that is absent, or the first is no image.
    """
    files: list[_Listed] = []
    for file in read_list(path):
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}, which {path} names")
        if not file.is_file():
            raise ValueError(f"{file} is no regular file")
        name = os.path.relpath(file, path.parent)
        files.append(_Listed(file, name, Stamp.of(file.stat())))
    return _open_files(path, path.parent, files, options)


def _open_files(path: Path, folder: Path, files: list[_Listed], options: FolderOptions) -> Images:
    """Image files in this order, called by their place in the folder."""
    framing = options.framing
    paths = [file.path for file in files]
    one, first = find_first(
        paths,
        lambda file: _format_of(file, framing),
        f"{len(paths)} images of {path}",
        skip_bad=options.skip_bad,
    )

    def read(start: int, stop: int) -> NDArray[np.uint8]:
        return np.stack([_read_one(file, framing, one, first) for file in files[start:stop]])

    # A name that is no UTF-8 is kept with escapes, as it cannot be stored otherwise.
    names = [file.name.encode("utf-8", "backslashreplace").decode() for file in files]
    facts = {
        "listing": _hash_lines(
            f"{name} {file.stamp.bytes}" for name, file in zip(names, files, strict=True)
        ),
        "modified": _hash_lines(str(file.stamp.modified) for file in files),
        **framing.facts,
    }
    labels = None
    if options.labels is not None:
        labels = read_labels(options.labels, folder, paths)
        facts["labels"] = _hash_lines(map(str, labels.tolist()))
    return Images(path, len(paths), first.event_shape, read, labels, names, facts, options.skip_bad)


def _choose(folder: Path, options: FolderOptions) -> Iterator[_Listed]:
    for file in _list_files(folder, options.recursive or options.split is not None):
        if options.glob is None or fnmatchcase(file.name, options.glob):
            yield file


def _list_files(folder: Path, recursive: bool, within: str = "") -> Iterator[_Listed]:
    """What may be an image by its name, hidden files and folders left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = within + entry.name
            if entry.is_dir():
                if recursive and not entry.is_symlink():  # which could lead in a circle
                    yield from _list_files(Path(entry.path), recursive, f"{name}/")
            elif name.lower().endswith(EXTENSIONS):
                if not entry.is_file():
                    raise ValueError(f"{entry.path} is no regular file")
                yield _Listed(Path(entry.path), name, Stamp.of(entry.stat()))


def _natural(name: str) -> list[tuple[list[tuple[int, str]], str]]:
    """A key by which numbers in names count as numbers."""
    return [
        ([(int(d or 0), text) for d, text in re.findall(r"([0-9]+)|([^0-9]+)", part)], part)
        for part in name.split("/")
    ]


def _hint(path: Path, options: FolderOptions) -> str:
    which = "" if options.glob is None else f" that match {options.glob!r}"
    idx = sorted(path.glob("*images-idx3-ubyte*"))
    if idx and not which:
        return f"; for its IDX file give {idx[0]}"
    inside = next(_choose(path, replace(options, recursive=True)), None)
    return f"{which}, but in its subfolders; ask for them (--recursive)" if inside else which


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _format_of(file: Path, framing: Framing) -> Format:
    """What all images must be, by the header of one."""
    with opened(file) as image:
        header = image
    return framing.format_of(header, file)


def _read_one(file: _Listed, framing: Framing, other: Path, first: Format) -> NDArray[np.uint8]:
    """``(C, h, w)`` of a file that must be as it was listed, and like the first."""
    with opened(file.path) as image:
        image.load()
    require_unchanged(file.path, file.stamp)
    found = framing.format_of(image, file.path)
    if found != first:
        raise BadImageError(
            f"{file.path} is {found} but {other.name} is {first}; all images must have one size "
            "and number of channels"
        )
    return framing.pixels_of(image)
