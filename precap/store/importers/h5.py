"""Reads foreign HDF5 without following it out of its file and without trusting its sizes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from precap.atomic import explained
from precap.errors import DataError, ImageError, ResourceError
from precap.store.importers.contract import MAX_ARRAY, reading

#: What h5py raises for a dataset whose bytes are damaged.
_BROKEN = (OSError, KeyError, ValueError, RuntimeError, TypeError, ArithmeticError)


def open_file(path: Path) -> h5py.File:
    """The file, read-only and unlocked; DataError when it is no HDF5 or cut short."""
    try:
        with explained(path, "read"):
            return h5py.File(path, "r", locking=False)
    except ResourceError:
        raise
    except OSError as error:
        raise DataError(
            f"{path} is no HDF5 file that can be opened ({error}). Compare its size with that of "
            f"its origin: a broken download is the usual cause."
        ) from error


def is_file(path: Path) -> bool:
    """Whether the first bytes say HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def names(file: h5py.File) -> Iterator[str]:
    """The names at the root of a file, one at a time; DataError when its directory is damaged."""
    try:
        for name in file:
            yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    except _BROKEN as error:
        raise _torn(file, error) from error


def is_export(file: h5py.File) -> bool:
    """Whether precap wrote the file: names at its root are then fields, not ids."""
    try:
        return "ids" in file and "spec" in file.attrs
    except _BROKEN as error:
        raise _torn(file, error) from error


def _torn(file: h5py.File, error: Exception) -> DataError:
    return DataError(
        f"The directory of {file.filename} is damaged ({error}). Fetch the file again."
    )


def has(file: h5py.File, name: str) -> bool:
    """Whether there is anything of this name; ImageError when the directory is damaged."""
    with reading(name, _BROKEN):
        return file.get(name, getlink=True) is not None
    raise AssertionError("unreachable")


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this very file and holds numbers; ImageError for any other thing."""
    with reading(name, _BROKEN):
        return _dataset(file, name)
    raise AssertionError("unreachable")


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    link = file.get(name, getlink=True)
    if link is None:
        raise ImageError("missing-array", name[:100])
    if not isinstance(link, h5py.HardLink):
        raise ImageError("foreign-link", f"{name} points elsewhere")
    item = file[name]
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise ImageError("not-an-array", name[:100])
    if item.is_virtual or item.external:
        raise ImageError("foreign-link", f"{name} keeps its numbers in another file")
    if item.dtype.kind not in "fiub":
        raise ImageError("not-numbers", f"{name} holds {item.dtype}")
    return item


def read(file: h5py.File, name: str) -> NDArray[Any]:
    """The whole array ``name``, at most MAX_ARRAY bytes."""
    return _fetch(dataset(file, name), (), name)


def read_row(item: h5py.Dataset, row: int) -> NDArray[Any]:
    """Row ``row`` of a dataset whose first axis counts images."""
    return _fetch(item, (row,), f"{item.name}[{row}]")


def read_rows(item: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to ``stop`` of a dataset."""
    return _fetch(item, (slice(start, stop),), f"{item.name}[{start}:{stop}]", stop - start)


def texts(file: h5py.File, name: str) -> list[str]:
    """A list of strings; ImageError when there is none."""
    with reading(name, _BROKEN):
        own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        item = file[name] if own else None
        if isinstance(item, h5py.Dataset) and item.ndim == 1 and not item.is_virtual:
            return [bytes(text).decode("utf-8", "backslashreplace") for text in item[...].tolist()]
    raise ImageError("not-an-array", f"{name} is no list of texts")


def _fetch(
    item: h5py.Dataset, at: tuple[int | slice, ...], where: str, count: int = 1
) -> NDArray[Any]:
    size = item.dtype.itemsize * count
    for side in item.shape[len(at) :]:
        size *= int(side)
    if size > MAX_ARRAY:
        raise ImageError("too-large", f"{where} would take {size} bytes")
    with reading(where, _BROKEN):
        return np.asarray(item[at])
    raise AssertionError("unreachable")
