"""Text files that name images: lists of files, splits and labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import as_labels

_SHOWN = 10


def read_list(path: Path) -> list[Path]:
    """The files that a list names, one a line, relative to the folder of the list.

    Raises:
        ValueError: it names none, or is no text.
    """
    lines = [line.strip() for line in _read_text(path).splitlines()]
    files = [path.parent / line for line in lines if line]
    if not files:
        raise ValueError(f"{path} names no files")
    return files


def choose_split(split: str, folder: Path, files: Sequence[Path]) -> list[int]:
    """Which of the files belong to a split, by their indices.

    Args:
        split: ``FILE:NUMBER``, such as ``list_eval_partition.txt:2`` of CelebA. A line of the file
            is a name and a number.
        folder: what names are relative to; a name without a folder is looked for in all.
        files: those of the folder.

    Raises:
        ValueError: there is no such split, or files that it names are absent.
    """
    name, _, number = split.rpartition(":")
    if not name or not number.removeprefix("-").isdecimal():
        raise ValueError(f"split {split!r} must be FILE:NUMBER, such as list_eval_partition.txt:2")
    path = _find(name, folder)
    table = _read_numbers(path)
    wanted = {name for name, value in table.items() if value == int(number)}
    if not wanted:
        there = sorted(set(table.values()))[:_SHOWN]
        raise ValueError(f"{path} has no split {number}; it has {', '.join(map(str, there))}")
    called = [_name_in(wanted, folder, file) for file in files]
    found = _places(called, files, path)
    absent = sorted(wanted - found.keys())
    if absent:
        raise ValueError(
            f"{len(absent)} of the {len(wanted)} images of split {number} in {path} are not in "
            f"{folder} (the first is {absent[0]})"
        )
    return sorted(found.values())


def read_labels(labels: str, folder: Path, files: Sequence[Path]) -> NDArray[np.int64]:
    """The label of each file from a text file with a name and a number a line.

    Args:
        labels: such a file, or ``FILE:COLUMN``, such as ``list_attr_celeba.txt:Smiling`` of CelebA:
            a table with several numbers a line, and a line above that has their names.
        folder, files: as for :func:`choose_split`.

    Raises:
        ValueError: a file has none, or there is no such column.
    """
    name, separator, column = labels.rpartition(":")
    if separator and not Path(labels).exists():
        path = _find(name, folder)
        table = _read_column(path, column)
    else:
        path = _find(labels, folder)
        table = _read_numbers(path)
    names = [_name_in(table, folder, file) for file in files]
    if None in names:
        raise ValueError(f"{path} has no label for {files[names.index(None)]}")
    _places(names, files, path)
    return as_labels([table[name] for name in names if name is not None], path)


def _places(called: Sequence[str | None], files: Sequence[Path], path: Path) -> dict[str, int]:
    """Where the file of each name stands; two of one name would be taken for each other."""
    found: dict[str, int] = {}
    for i, name in enumerate(called):
        if name is not None and files[found.setdefault(name, i)] != files[i]:
            raise ValueError(f"{path} names {name}, which is {files[found[name]]} and {files[i]}")
    return found


def _name_in(names: dict[str, int] | set[str], folder: Path, file: Path) -> str | None:
    """What a file is called there: by its place in the folder, or by its name alone."""
    if file.is_relative_to(folder) and (relative := file.relative_to(folder).as_posix()) in names:
        return relative
    return file.name if file.name in names else None


def _find(name: str, folder: Path) -> Path:
    """A text file as given, or in the folder of the images, or beside that."""
    places = [Path(name), folder / name, folder.resolve().parent / name]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"there is no {' or '.join(map(str, dict.fromkeys(places)))}")


def _read_numbers(path: Path) -> dict[str, int]:
    """A name and an integer a line, as in CelebA's lists."""
    table: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        match line.rsplit(maxsplit=1):
            case [name, value] if value.removeprefix("-").isdecimal():
                _add(table, name, int(value), path, number)
            case []:
                pass
            case _:
                raise ValueError(
                    f"line {number} of {path} is {line[:80]!r}; a file name and an integer are "
                    "needed"
                )
    return table


def _read_column(path: Path, column: str) -> dict[str, int]:
    """One column of a table in text; what stands above its header does not matter."""
    lines = [line.split() for line in _read_text(path).splitlines()]
    start = next((i for i, words in enumerate(lines) if column in words), None)
    if start is None or not column:
        raise ValueError(f"{path} has no line with a name of a column that is {column!r}")
    header = lines[start]
    table: dict[str, int] = {}
    place = header.index(column) - len(header)
    for number, words in enumerate(lines[start + 1 :], start=start + 2):
        # Files are named by what is left of the numbers.
        name = " ".join(words[: -len(header)])
        if words and (not name or not words[place].removeprefix("-").isdecimal()):
            raise ValueError(f"line {number} of {path} has no file name and {len(header)} integers")
        if name:
            _add(table, name, int(words[place]), path, number)
    return table


def _add(table: dict[str, int], name: str, value: int, path: Path, line: int) -> None:
    if table.setdefault(name, value) != value:
        raise ValueError(f"line {line} of {path} names {name} a second time")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # without the mark that some editors put first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
