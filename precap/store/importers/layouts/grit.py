"""GRIT's HDF5: image_ids, gri_feat, gri_mask, reg_feat, reg_mask; one row per image."""

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from precap.errors import DataError, ImageError
from precap.store.importers import h5
from precap.store.importers.contract import Facts, Problem, Scan, stored_dtype
from precap.types import Features, Field

NAMES = {
    "gri_feat": ("grid", "grid"),
    "gri_mask": ("mask", "mask"),
    "reg_feat": ("region", "region"),
    "reg_mask": ("region_mask", "mask"),
}


class Grit:
    """Row i belongs to image_ids[i]; rows beyond the ids are left over from whole batches.

    GRIT's masks are True on padding; the store's are True where there is image.
    """

    summary: ClassVar[str] = "GRIT HDF5: image_ids, gri_feat, gri_mask, reg_feat, reg_mask"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._file, self._source = h5.open_file(source), source
        self._items: dict[str, h5py.Dataset] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether image_ids and one of the feature arrays are there."""
        if not h5.is_file(source):
            return False
        with h5.open_file(source) as file:
            return "image_ids" in file and ("gri_feat" in file or "reg_feat" in file)

    def index(self, scan: Scan) -> Facts:
        """The ids alone are read."""
        try:
            ids = h5.read(self._file, "image_ids")
            self._items = {n: h5.dataset(self._file, n) for n in NAMES if h5.has(self._file, n)}
        except ImageError as error:
            raise DataError(f"{self._source}: {error}. Check that the file is complete.") from error
        flat = any(item.ndim < 2 for item in self._items.values())
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or flat or not self._items:
            raise DataError(
                f"{self._source}: image_ids must be a list of integers beside features."
            )
        rows = min(item.shape[0] for item in self._items.values())
        for row, image in enumerate(ids.tolist()):
            where = f"{self._source.name}[{row}]"
            if row < rows:
                scan.add(str(image), row, where)
            else:
                scan.damage(str(image), where, "truncated", f"the arrays have only {rows} rows")
        if rows > len(ids):
            scan.note(Problem(self._source.name, "", "padding-rows", f"{rows - len(ids)} left out"))
        fields = tuple(_field(name, item) for name, item in self._items.items())
        size = sum(int(np.prod(i.shape[1:], dtype=object)) * i.dtype.itemsize
                   for i in self._items.values())  # fmt: skip
        return Facts(fields, {}, [self._source], size)

    def read(self, at: int) -> Features:
        """grid (g, C), mask (g,), region (Q, D), region_mask (Q,): those that the source has."""
        found = {}
        for name, item in self._items.items():
            row = h5.read_row(item, at)
            found[NAMES[name][0]] = ~row.astype(bool).reshape(-1) if "mask" in name else row
        return found


def _field(name: str, item: h5py.Dataset) -> Field:
    field, role = NAMES[name]
    if "mask" in name:
        return Field(field, "mask", (item.shape[-1],), "bool")
    return Field(field, role, item.shape[1:], stored_dtype(item.dtype))  # type: ignore[arg-type]


PLUGIN = Grit
