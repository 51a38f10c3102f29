"""precap's own HDF5 export: ids, one dataset per field, NAME_offsets, the spec as an attribute."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
from numpy.typing import NDArray

from precap.store.importers import h5
from precap.store.importers.columns import Columns, spec_of
from precap.store.importers.contract import Facts, Scan, reading
from precap.types import Features


class PrecapH5:
    """What ``precap store export --format hdf5`` writes."""

    summary: ClassVar[str] = "precap's HDF5 export: ids, a dataset per field, offsets, the spec"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._columns = Columns(source, _File(source))

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether ids and spec are there, and the fields of the spec beside them."""
        if not h5.is_file(source):
            return False
        with h5.open_file(source) as file:
            return h5.is_export(file) and all(
                field.name in file for field in spec_of(_spec(file)).fields
            )

    def index(self, scan: Scan) -> Facts:
        """The ids and offsets are read, and the shapes."""
        return self._columns.index(scan)

    def read(self, at: int) -> Features:
        """Every field of the store that was exported."""
        return self._columns.read(at)


class _File:
    def __init__(self, path: Path) -> None:
        self._path, self._file = path, h5.open_file(path)

    def spec(self) -> Any:
        return _spec(self._file)

    def ids(self) -> Sequence[str]:
        return h5.texts(self._file, "ids")

    def array(self, name: str) -> Any:
        return h5.dataset(self._file, name)

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        return h5.read_rows(h5.dataset(self._file, name), start, stop)

    def files(self) -> Sequence[Path]:
        return [self._path]


def _spec(file: h5py.File) -> Any:
    with reading("spec", (OSError, LookupError, ValueError, TypeError, RuntimeError)):
        return json.loads(file.attrs["spec"])
    raise AssertionError("unreachable")


PLUGIN = PrecapH5
