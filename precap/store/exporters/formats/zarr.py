"""One Zarr v3 folder: an array per field, NAME_offsets where rows differ; ids are an attribute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import zarr

from precap.store.exporters import columns
from precap.store.exporters.contract import Rows
from precap.types import FeatureSpec


class Zarr:
    """Image i has row i of a fixed field, and rows offsets[i] to offsets[i + 1] of a ragged one."""

    summary: ClassVar[str] = "one Zarr v3 folder: an array per field, offsets of ragged ones"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        self._spec, self._ids = spec, ids

    def write(self, out: Path, rows: Rows) -> None:
        """One folder, a chunk at a time."""
        attributes = {"spec": self._spec.as_json(), "ids": list(self._ids)}
        group = zarr.create_group(str(out), attributes=attributes)

        def create(name: str, shape: Any, chunks: Any, dtype: str) -> Any:
            return group.create_array(
                name,
                shape=shape,
                chunks=chunks,
                dtype=dtype,
                compressors=None,
                config={"write_empty_chunks": True},  # an absent chunk would read as zeros
            )

        for name, offsets in columns.write(self._spec, rows, create).items():
            group.create_array(f"{name}_offsets", data=offsets, compressors=None)


PLUGIN = Zarr
