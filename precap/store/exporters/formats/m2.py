"""Meshed-memory transformer's HDF5: ID_features float32 (n, d), ID_boxes, ID_cls_prob (n, C)."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from precap.store.exporters import idkeys
from precap.store.exporters.contract import Rows, check_names, need
from precap.types import FeatureSpec


class M2:
    """Regions, or the tokens of a grid, as one sequence per image."""

    summary: ClassVar[str] = "M2 HDF5: ID_features, ID_boxes, ID_cls_prob"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        check_names(ids, "m2")
        self._kept = {"features": (need(spec, "m2", "region", "grid").name, "float32")}
        if boxes := spec.field_of("boxes"):
            self._kept["boxes"] = (boxes.name, "float32")
        tables = (f for f in spec.fields if f.role == "scores" and len(f.shape) == 2)
        if scores := next(tables, None):
            self._kept["cls_prob"] = (scores.name, "float32")

    def write(self, out: Path, rows: Rows) -> None:
        """One file."""
        idkeys.write(out, rows, self._kept)


PLUGIN = M2
