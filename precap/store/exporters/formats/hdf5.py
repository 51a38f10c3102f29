"""One HDF5 file: ids, one dataset per field, and NAME_offsets where the rows differ per image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py

from precap.store.exporters import columns
from precap.store.exporters.contract import Rows
from precap.types import FeatureSpec


class Hdf5:
    """Image i has row i of a fixed field, and rows offsets[i] to offsets[i + 1] of a ragged one."""

    summary: ClassVar[str] = "one HDF5 file: ids, a dataset per field, offsets of ragged ones"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        self._spec, self._ids = spec, ids

    def write(self, out: Path, rows: Rows) -> None:
        """One file, a chunk at a time."""
        with h5py.File(out, "w") as file:

            def create(name: str, shape: Any, chunks: Any, dtype: str) -> Any:
                limit = (None, *shape[1:])
                options = {"maxshape": limit, "chunks": chunks, "track_times": False}
                return file.create_dataset(name, shape, dtype, **options)

            file.attrs["spec"] = json.dumps(self._spec.as_json(), sort_keys=True)
            for name, offsets in columns.write(self._spec, rows, create).items():
                file.create_dataset(f"{name}_offsets", data=offsets, track_times=False)
            file.create_dataset("ids", data=list(self._ids), dtype=h5py.string_dtype())


PLUGIN = Hdf5
