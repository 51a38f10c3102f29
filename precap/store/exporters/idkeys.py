"""HDF5 with datasets named ID_features, ID_boxes ...: how M2 and HIN want them."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from precap.store.exporters.contract import Rows


def write(out: Path, rows: Rows, kept: Mapping[str, tuple[str, str]]) -> None:
    """One file. ``kept``: suffix -> (field, dtype in the file)."""
    with h5py.File(out, "w") as file:
        for image, row in rows():
            for suffix, (field, dtype) in kept.items():
                data = np.asarray(row[field], dtype)
                file.create_dataset(f"{image}_{suffix}", data=data, track_times=False)
