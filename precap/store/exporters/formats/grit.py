"""GRIT's HDF5: image_ids sorted, and gri_feat, gri_mask, reg_feat, reg_mask in their order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from precap.errors import ConfigError, DataError
from precap.store.exporters.contract import Rows, need
from precap.types import FeatureSpec, Field


class Grit:
    """Needs integer ids and as many grid cells and regions in every image.

    GRIT's masks, (L, 1, 1, g), are True on padding; the store's are True where there is image.
    """

    summary: ClassVar[str] = "GRIT HDF5: image_ids, gri_feat, gri_mask, reg_feat, reg_mask"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        self._grid, self._region = need(spec, "grit", "grid"), need(spec, "grit", "region")
        for field in (self._grid, self._region):
            if field.ragged:
                raise ConfigError(
                    f"The format 'grit' needs the same number of rows in every image; "
                    f"{field.name!r} differs per image. Use the format m2 or hdf5."
                )
        masks = [f for f in spec.fields if f.role == "mask"]
        self._masks = {
            field.name: next((m for m in masks if _masks(m, field)), None)
            for field in (self._grid, self._region)
        }
        try:
            numbers = np.array([int(image) for image in ids], np.int64)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"The format 'grit' needs ids that are whole numbers ({error}). "
                f"Use the format hdf5 or zarr."
            ) from error
        self._numbers = np.unique(numbers)
        if len(self._numbers) != len(numbers):
            raise DataError("Two ids of the store are the same number. Use the format hdf5.")

    def write(self, out: Path, rows: Rows) -> None:
        """One file; rows go straight to their places."""
        with h5py.File(out, "w") as file:
            file.create_dataset("image_ids", data=self._numbers, track_times=False)
            targets = [
                (self._tables(file, "gri", self._grid), self._grid),
                (self._tables(file, "reg", self._region), self._region),
            ]
            for image, row in rows():
                place = int(np.searchsorted(self._numbers, int(image)))
                for (features, masks), field in targets:
                    features[place] = row[field.name]
                    mask = self._masks[field.name]
                    if mask is not None:
                        masks[place, 0, 0] = ~row[mask.name]

    def _tables(self, file: h5py.File, short: str, field: Field) -> tuple[Any, Any]:
        rows, *rest = len(self._numbers), *field.shape
        features = file.create_dataset(
            f"{short}_feat", (rows, *rest), np.float32, track_times=False
        )
        mask = file.create_dataset(f"{short}_mask", (rows, 1, 1, rest[0]), bool, track_times=False)
        return features, mask


def _masks(mask: Field, field: Field) -> bool:
    """Whether ``mask`` is the mask of ``field``: by name, or the only mask, which is the grid's."""
    if mask.name == f"{field.name}_mask":
        return True
    return mask.name == "mask" and field.role == "grid" and mask.shape == field.shape[:1]


PLUGIN = Grit
