"""HIN's CLIP HDF5: ID_features (g, d) and ID_global (d',), in the dtype of the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from precap.store.exporters import idkeys
from precap.store.exporters.contract import Rows, check_names, need
from precap.types import FeatureSpec


class HinClip:
    """The grid file of HIN; its reader never pads, so that a grid must have one size."""

    summary: ClassVar[str] = "HIN CLIP HDF5: ID_features as a grid, ID_global"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        check_names(ids, "hin_clip")
        grid = need(spec, "hin_clip", "grid")
        self._kept = {"features": (grid.name, _float(grid.dtype))}
        if pooled := spec.field_of("global"):
            self._kept["global"] = (pooled.name, _float(pooled.dtype))

    def write(self, out: Path, rows: Rows) -> None:
        """One file."""
        idkeys.write(out, rows, self._kept)


def _float(dtype: str) -> str:
    return "float32" if dtype == "int8" else dtype


PLUGIN = HinClip
