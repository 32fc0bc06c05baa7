"""Arrays with named dimensions in one HDF5 file, written whole or not at all; xarray opens it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pullback.archive.atomic import move_into_place, temporary_name
from pullback.archive.configuration import list_differences
from pullback.archive.hdf5 import open_to_read

TEXT = h5py.string_dtype()  # of any length: xarray reads these as text, and others as bytes
_LARGE = 1000


@dataclass(frozen=True)
class Variable:
    """What an array of a file is: its dimensions and a line of explanation; none has a unit.

    An array whose only dimension has its own name is the coordinate of that dimension; every
    dimension has one.
    """

    dimensions: tuple[str, ...]
    long_name: str


Layout = Mapping[str, Variable]


def write(
    path: Path, layout: Layout, arrays: Mapping[str, Any], configuration: dict[str, Any]
) -> None:
    """Write the arrays that ``layout`` names, coordinates before what they belong to.

    Args:
        path: the file; its folder exists.
        layout: the variables by name.
        arrays: arrays by the same names; a tuple of strings is text.
        configuration: all that the numbers depend on, kept as JSON.
    """
    temporary = temporary_name(path)
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["Conventions"] = "CF-1.11"
            file.attrs["configuration"] = json.dumps(configuration)
            for name, variable in layout.items():
                _write_one(file, name, variable, arrays[name])
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_one(file: h5py.File, name: str, variable: Variable, array: Any) -> None:
    values = np.array(array, TEXT if isinstance(array, tuple) else None)
    large: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    data = file.create_dataset(name, data=values, **(large if values.size > _LARGE else {}))
    data.attrs.update(units="1", long_name=variable.long_name)
    if variable.dimensions == (name,):
        data.make_scale(name)
        return
    for axis, dimension in enumerate(variable.dimensions):
        data.dims[axis].attach_scale(file[dimension])


def read(
    path: Path, layout: Layout, may_lack: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a file and its configuration; text comes as tuples of strings.

    Args:
        path: the file.
        layout: what it holds.
        may_lack: what files of an earlier version do not have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path} to read")
    with open_to_read(path) as file:
        arrays: dict[str, Any] = {name: file[name][...] for name in layout if name in file}
        configuration = json.loads(file.attrs["configuration"])
    lacking = sorted(layout.keys() - arrays.keys() - set(may_lack))
    if lacking:
        raise ValueError(f"{path} has no {', '.join(lacking)}: it is a file of something else")
    for name, array in arrays.items():
        if array.dtype == object:
            arrays[name] = tuple(text.decode() for text in array)
    return arrays, configuration


def holds(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a file is there, with this configuration.

    Raises:
        FileExistsError: it is there with another one; says what differs.
        ValueError: it is damaged.
    """
    if not path.exists():
        return False
    differences = list_differences(_configuration(path), wanted)
    if differences:
        raise FileExistsError(
            f"{path} holds other numbers: {'; '.join(differences)}; give another folder, or "
            "--redraw to see what it holds"
        )
    return True


def _configuration(path: Path) -> dict[str, Any]:
    with open_to_read(path) as file:
        return json.loads(file.attrs["configuration"])
