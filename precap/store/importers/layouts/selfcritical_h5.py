"""self-critical's HDF5 dumps: NAME_att.h5, NAME_fc.h5, NAME_box.h5, each with one array per id."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
from numpy.typing import NDArray

from precap.store.importers import h5, idkeys
from precap.store.importers.contract import Facts, Scan
from precap.store.importers.keyed import Keyed, candidates, choose
from precap.types import Features


class SelfCriticalH5:
    """Give NAME_att.h5 or the folder with it; NAME_fc.h5 and NAME_box.h5 beside it are read too."""

    summary: ClassVar[str] = "self-critical HDF5: one file per kind, one array per id"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keyed = Keyed(choose(source, _holds, "HDF5 file"), _File)

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one HDF5 file with an array of two or three axes per plain id."""
        return len(candidates(source, _holds)) == 1

    def index(self, scan: Scan) -> Facts:
        """One walk over the names; one image is read to learn the shapes."""
        return self._keyed.index(scan)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,) and boxes (n, 4) where there are such."""
        return self._keyed.read(at)


class _File:
    def __init__(self, path: Path) -> None:
        self._path, self._file = path, h5.open_file(path)

    def ids(self) -> Iterable[str]:
        return h5.names(self._file)

    def files(self) -> Sequence[Path]:
        return [self._path]

    def read(self, key: str) -> NDArray[Any]:
        return h5.read(self._file, key)


def _holds(path: Path) -> bool:
    """Whether the first array has two or more axes and its name no suffix of another layout."""
    if not h5.is_file(path):
        return False
    with h5.open_file(path) as file:
        name = None if h5.is_export(file) else next(h5.names(file), None)
        if name is None or name.endswith(tuple(f"_{s}" for s in idkeys.SUFFIXES)):
            return False
        item = file.get(name)
        return "image_ids" not in file and isinstance(item, h5py.Dataset) and item.ndim in (2, 3)


PLUGIN = SelfCriticalH5
