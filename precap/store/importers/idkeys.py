"""HDF5 files whose datasets are named ID_features, ID_boxes ...: what M2 and HIN share."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import h5
from precap.store.importers.contract import Problem, Scan

SUFFIXES = ("features", "boxes", "size", "cls_prob", "global")
_NAME = re.compile(rf"(.+)_({'|'.join(SUFFIXES)})")


class IdKeys:
    """One file, opened once, and the datasets of each image in it."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, h5.open_file(path)

    def index(self, scan: Scan) -> Mapping[str, h5py.Dataset]:
        """Report every image; suffix -> dataset of the first image that has the most of them."""
        have: dict[str, set[str]] = {}
        for name in h5.names(self._file):
            match = _NAME.fullmatch(name)
            if match is None:
                scan.note(Problem(self.path.name, name[:200], "unknown-key"))
                continue
            have.setdefault(match[1], set()).add(match[2])
        usual = max(have.values(), key=len, default=set())
        for key, found in have.items():
            if "features" in found:
                scan.add(key, key, f"{self.path.name}/{key}_features")
            else:
                scan.damage(key, f"{self.path.name}/{key}", "missing-array", "no _features")
        return self._example(have, usual)

    def read(self, key: str, suffixes: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        """field -> array of one image; ``suffixes``: field -> suffix."""
        return {field: h5.read(self._file, f"{key}_{s}") for field, s in suffixes.items()}

    def _example(self, have: Mapping[str, set[str]], usual: set[str]) -> dict[str, h5py.Dataset]:
        """The datasets of the first readable image that has every usual suffix and some boxes."""
        for key, found in have.items():
            if found != usual:
                continue
            try:
                items = {s: h5.dataset(self._file, f"{key}_{s}") for s in sorted(found)}
            except ImageError:
                continue
            whole = all(item.shape and 0 not in item.shape for item in items.values())
            if whole and "features" in items and items["features"].ndim == 2:
                return items
        raise DataError(
            f"{self.path} has no image whose ID_features and companions can be read. Check that "
            f"the file is complete."
        )


def suffixes_of(path: Path) -> dict[str, int]:
    """Suffix -> rank for the first image of a file; empty when it is of another layout."""
    if not h5.is_file(path):
        return {}
    with h5.open_file(path) as file:
        names = [] if h5.is_export(file) else _some(file)
        first = next((m[1] for name in names if (m := _NAME.fullmatch(name))), None)
        found = {s: file.get(f"{first}_{s}") for s in SUFFIXES} if first else {}
        return {s: item.ndim for s, item in found.items() if isinstance(item, h5py.Dataset)}


def _some(file: h5py.File) -> Iterator[str]:
    for count, name in enumerate(h5.names(file)):
        if count == 64:
            return
        yield name


def row_bytes(items: Mapping[str, h5py.Dataset]) -> int:
    """Bytes of the arrays of one image."""
    return sum(int(np.prod(i.shape, dtype=object)) * i.dtype.itemsize for i in items.values())
