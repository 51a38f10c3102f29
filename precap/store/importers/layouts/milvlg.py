"""MILVLG's bottom-up-attention.pytorch: STEM.npz with x, bbox, num_bbox, image_h, image_w, info."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from precap.errors import ImageError
from precap.store.importers import arrays, npzdir, pickles, table
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field

#: What ``info`` may hold -> field, role.
INFO: dict[str, tuple[str, Any]] = {
    "objects_id": ("classes", "classes"),
    "objects": ("classes", "classes"),
    "objects_conf": ("scores", "scores"),
    "cls_prob": ("cls_prob", "scores"),
    "attrs_id": ("attributes", "attributes"),
    "attrs_conf": ("attribute_scores", "scores"),
}


class Milvlg:
    """Boxes in pixels. Files without x hold boxes alone: a store without region features.

    ``info`` is a pickled dict with classes, scores and attributes: left out unless allowed.
    """

    summary: ClassVar[str] = "MILVLG .npz folder: x, bbox, image_h, image_w (info: --allow-pickle)"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._folder, self._allow = source, allow_pickle
        self._wanted: tuple[str, ...] = ("x", "bbox", "num_bbox", "image_h", "image_w")
        self._names: set[str] = set()

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether a folder of .npz with bbox and num_bbox is there."""
        return npzdir.has(source, "bbox", "num_bbox")

    def index(self, scan: Scan) -> Facts:
        """List the folder; one image is opened to learn the shapes."""
        paths, example = npzdir.index(self._folder, scan, self._read)
        self._names = set(example)
        fields = [
            Field("boxes", "boxes", (None, 4), npzdir.ragged("", "boxes", example["boxes"]).dtype),
            Field("size", "size", (2,), "int64"),
        ]
        if "region" in example:
            fields.insert(0, npzdir.ragged("region", "region", example["region"]))
        for name, role in dict.fromkeys(INFO.values()):
            if name in example:
                fields.append(npzdir.ragged(name, role, example[name]))
        size = sum(array.nbytes for array in example.values())
        return Facts(tuple(fields), {"boxes": "pixels"}, paths, size * 4)

    def read(self, at: str) -> Features:
        """region (n, d), boxes (n, 4), size (2,) = height, width; what info has, if allowed."""
        found = self._read(at)
        if missing := self._names - set(found):
            raise ImageError("missing-array", ", ".join(sorted(missing)))
        return {name: found[name] for name in found if name in self._names}

    def _read(self, name: str) -> Features:
        path = self._folder / name
        members = arrays.read_npz(path, *self._wanted)
        if missing := {"bbox", "image_h", "image_w"} - set(members):
            raise ImageError("missing-array", ", ".join(sorted(missing)))
        boxes = members["bbox"]
        if "num_bbox" in members and npzdir.whole(members["num_bbox"], "num_bbox") != len(boxes):
            raise ImageError("wrong-size", f"num_bbox does not match {len(boxes)} boxes")
        sides = (npzdir.whole(members[side], side) for side in ("image_h", "image_w"))
        found = {"boxes": boxes, **table.size(*sides)}
        if "x" in members:
            found["region"] = members["x"]
        return {**found, **(self._info(path) if self._allow else {})}

    def _info(self, path: Path) -> dict[str, NDArray[Any]]:
        info = arrays.read_npz(path, "info", allow_pickle=True).get("info")
        info = info.reshape(-1)[0] if isinstance(info, np.ndarray) and info.size == 1 else info
        if not isinstance(info, dict):
            return {}
        values = {n: pickles.plain(info[key]) for key, (n, _) in INFO.items() if key in info}
        return {n: value for n, value in values.items() if isinstance(value, np.ndarray)}


PLUGIN = Milvlg
