"""VinVL as released: features.tsv (key, n, base64) and, beside it, predictions.tsv (key, JSON)."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import table, tsv, vinvl
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field


class _At(NamedTuple):
    features: tsv.At
    objects: tsv.At | None


class Vinvl:
    """The folder ``model_0060000``: rows of 2048 + 6 numbers; predictions joined on the key.

    The six are geometry: boxes come from the predictions, or from the six where there are none or
    their number differs (class and score are then empty: they describe other boxes).
    """

    summary: ClassVar[str] = "VinVL release: features.tsv, with predictions.tsv beside it"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        folder = source if source.is_dir() else source.parent
        parts = tsv.checked(tsv.files_of(source, _has_features), source, "vinvl")
        self._files = [*parts, *(p for p in tsv.files_of(folder, has_objects) if p not in parts)]
        self._parts = len(parts)
        self._packing: vinvl.Packing | None = None
        self._classes: dict[str, int] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether rows of key, count, base64 are there."""
        return any(map(_has_features, tsv.files_of(source, _has_features)))

    def index(self, scan: Scan) -> Facts:
        """Two passes: the predictions for keys and class names, the features for lengths."""
        names, objects = vinvl.Names(), dict[str, tsv.At]()
        described = self._files[self._parts :]
        for line, key, value in vinvl.json_rows(described, scan):
            try:
                names.add(o.get("class") for o in vinvl.objects_of(value))
            except ImageError as error:
                scan.damage(key, line.where(described), error.reason, error.detail)
                continue
            at = line.at._replace(file=line.at.file + self._parts)
            objects.setdefault(key, at)
        longest = self._index_features(scan, objects)
        return self._facts(names.table(), longest)

    def read(self, at: _At) -> Features:
        """region (n, d), boxes (n, 4); with predictions also size, classes and scores."""
        assert self._packing is not None  # index() came first
        _, number, text = tsv.row(self._files, at.features)
        region, tail = self._packing.split(text, tsv.count(number, "num_boxes"))
        if at.objects is None:
            boxes = {"boxes": vinvl.relative_boxes(tail)} if self._packing.tail else {}
            return {"region": region, **boxes}
        value = tsv.parse(tsv.row(self._files, at.objects)[1], "predictions")
        return {"region": region, **self._described(value, tail, len(region))}

    def _described(self, value: Any, tail: NDArray[Any], rows: int) -> Features:
        objects, size = vinvl.objects_of(value), _size(value)
        if len(objects) == rows:
            return {
                "boxes": vinvl.numbers(objects, "rect", 4),
                **size,
                "classes": vinvl.look_up(self._classes, (o["class"] for o in objects)),
                "scores": vinvl.numbers(objects, "conf", 1),
            }
        if not tail.shape[1]:
            raise ImageError("wrong-size", f"{rows} features but {len(objects)} objects")
        boxes = vinvl.pixel_boxes(tail, size["size"])
        return {"boxes": boxes, **size, "classes": np.empty(0, int), "scores": np.empty(0, "f4")}

    def _index_features(self, scan: Scan, objects: dict[str, tsv.At]) -> int:
        longest, parts = 0, self._files[: self._parts]
        joined = len(self._files) > self._parts
        for line in tsv.lines(parts):
            where = line.where(parts)
            key = tsv.key_of(line.cells[0]) if line.cells else ""
            try:
                self._check(line, joined and key not in objects)
            except ImageError as error:
                scan.damage(key, where, error.reason if line.ended else "truncated", error.detail)
                continue
            longest = max(longest, line.at.length)
            scan.add(key, _At(line.at, objects.get(key)), where)
        return longest

    def _check(self, line: tsv.Line, orphan: bool) -> None:
        if len(line.cells) != 3:
            raise ImageError("wrong-columns" if line.cells else "row-too-long")
        rows = tsv.count(line.cells[1], "num_boxes")
        width = tsv.rows_of(line.cells[2], rows, "uint8", "features")
        if rows and self._packing is None:
            self._packing = vinvl.packing(line.cells[2], rows)
        packing = self._packing
        if packing and width and width != packing.width * np.dtype(packing.dtype).itemsize:
            raise ImageError("wrong-size", f"{width} bytes per box, {packing.width} numbers meant")
        if orphan:
            raise ImageError("missing-predictions", "no row with this key in the predictions")

    def _facts(self, names: list[str], longest: int) -> Facts:
        if self._packing is None:
            raise DataError(f"{self._files[0]} has no row with a box. Check that it is complete.")
        self._classes = {name: number for number, name in enumerate(names)}
        region = Field("region", "region", (None, self._packing.dim), self._packing.dtype)
        joined = len(self._files) > self._parts
        config: dict[str, Any] = {"nms_filter": "unknown"}
        fields = [region]
        if joined or self._packing.tail:
            config["boxes"] = "pixels" if joined else "relative"
            dtype = "float32" if joined else self._packing.dtype
            fields.append(Field("boxes", "boxes", (None, 4), dtype))
        if joined:
            config["classes"] = names
            fields += [
                Field("size", "size", (2,), "int64"),
                Field("classes", "classes", (None,), "int64"),
                Field("scores", "scores", (None,)),
            ]
        return Facts(tuple(fields), config, self._files, longest)


def _size(value: Any) -> Features:
    height, width = (value.get(k) if isinstance(value, dict) else None for k in _SIDES)
    if type(height) is not int or type(width) is not int:
        raise ImageError("bad-size", "predictions give no image_h and image_w")
    return table.size(height, width)


_SIDES = ("image_h", "image_w")
_FEATURES = {"key": "key", "num_boxes": "count", "features": "float32"}


def _has_features(path: Path) -> bool:
    return table.looks_like(path, _FEATURES)


def has_objects(path: Path) -> bool:
    """Whether rows are key, JSON with objects that carry no feature of their own."""
    return any(
        len(cells) == 2 and b'"objects"' in cells[1] and b'"feature"' not in cells[1]
        for cells in tsv.head(path)
    )


PLUGIN = Vinvl
