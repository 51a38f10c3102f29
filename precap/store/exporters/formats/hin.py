"""HIN's VinVL HDF5: ID_features float32, ID_boxes float64, ID_size int64, ID_cls_prob float64."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from precap.store.exporters import idkeys
from precap.store.exporters.contract import Rows, check_names, need
from precap.types import FeatureSpec


class Hin:
    """The region file of the dual-modal transformer and of HIN."""

    summary: ClassVar[str] = "HIN VinVL HDF5: ID_features, ID_boxes, ID_size, ID_cls_prob"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        check_names(ids, "hin")
        self._kept = {"features": (need(spec, "hin", "region").name, "float32")}
        if boxes := spec.field_of("boxes"):
            self._kept["boxes"] = (boxes.name, "float64")
        if size := spec.field_of("size"):
            self._kept["size"] = (size.name, "int64")
        vectors = (f for f in spec.fields if f.role == "scores" and len(f.shape) == 1)
        if scores := next(vectors, None):
            self._kept["cls_prob"] = (scores.name, "float64")

    def write(self, out: Path, rows: Rows) -> None:
        """One file."""
        idkeys.write(out, rows, self._kept)


PLUGIN = Hin
