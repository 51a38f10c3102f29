"""Meshed-memory transformer's HDF5: ID_features, and optionally ID_boxes and ID_cls_prob (n, C)."""

from pathlib import Path
from typing import ClassVar

from precap.store.importers import idkeys
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field


class M2:
    """coco_detections.hdf5: regions, boxes in pixels, and a probability per box and class."""

    summary: ClassVar[str] = "M2 HDF5: ID_features, ID_boxes, ID_cls_prob with one column per class"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keys, self._source = idkeys.IdKeys(source), source
        self._suffixes: dict[str, str] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether ID_features are there, and neither a size nor one score per box (HIN's)."""
        found = idkeys.suffixes_of(source)
        hin = found.get("cls_prob") == 1 or "size" in found or "global" in found
        return found.get("features") == 2 and not hin

    def index(self, scan: Scan) -> Facts:
        """One walk over the names in the file."""
        items = self._keys.index(scan)
        region = items["features"]
        fields = [Field("region", "region", (None, region.shape[-1]), stored_dtype(region.dtype))]
        self._suffixes = {"region": "features"}
        if "boxes" in items:
            fields.append(Field("boxes", "boxes", (None, 4), stored_dtype(items["boxes"].dtype)))
            self._suffixes["boxes"] = "boxes"
        if "cls_prob" in items:
            scores = items["cls_prob"]
            shape = (None, *scores.shape[1:])
            fields.append(Field("cls_prob", "scores", shape, stored_dtype(scores.dtype)))
            self._suffixes["cls_prob"] = "cls_prob"
        config = {"boxes": "pixels"} if "boxes" in items else {}
        return Facts(tuple(fields), config, [self._source], idkeys.row_bytes(items))

    def read(self, at: str) -> Features:
        """region (n, d), boxes (n, 4), cls_prob (n, C), as far as the source has them."""
        return self._keys.read(at, self._suffixes)


PLUGIN = M2
