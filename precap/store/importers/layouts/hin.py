"""HIN's and the dual-modal transformer's VinVL HDF5: ID_features, _boxes, _size, _cls_prob (n,)."""

from pathlib import Path
from typing import ClassVar

from precap.store.importers import idkeys
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field


class Hin:
    """COCO2014_VinVL.hdf5: an image without objects has boxes of shape (0,) beside its features."""

    summary: ClassVar[str] = "HIN VinVL HDF5: ID_features, ID_boxes, ID_size, ID_cls_prob per box"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keys, self._source = idkeys.IdKeys(source), source
        self._suffixes: dict[str, str] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether ID_features with a size, or with one score per box, are there."""
        found = idkeys.suffixes_of(source)
        return found.get("features") == 2 and (found.get("cls_prob") == 1 or "size" in found)

    def index(self, scan: Scan) -> Facts:
        """One walk over the names in the file."""
        items = self._keys.index(scan)
        region = items["features"]
        declared = {
            "features": Field(
                "region", "region", (None, region.shape[-1]), stored_dtype(region.dtype)
            ),
            "boxes": Field("boxes", "boxes", (None, 4)),
            "size": Field("size", "size", (2,), "int64"),
            "cls_prob": Field("scores", "scores", (None,)),
        }
        fields = tuple(field for suffix, field in declared.items() if suffix in items)
        self._suffixes = {field.name: s for s, field in declared.items() if s in items}
        return Facts(fields, {"boxes": "pixels"}, [self._source], idkeys.row_bytes(items))

    def read(self, at: str) -> Features:
        """region (n, d), boxes (n, 4) float64, size (2,) = height, width, scores (n,) float64."""
        return self._keys.read(at, self._suffixes)


PLUGIN = Hin
