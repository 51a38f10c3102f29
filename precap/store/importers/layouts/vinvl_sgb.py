"""scene_graph_benchmark's predictions.tsv: key, JSON with one base64 feature per object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import tsv, vinvl
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field

MAX_ATTRIBUTES = 64


class _At(NamedTuple):
    row: tsv.At
    size: NDArray[Any] | None


class VinvlSgb:
    """Own extractions with tools/test_sg_net.py; the image size comes from a ``.hw.tsv`` beside.

    Attributes differ in number per object: they are padded with -1 (and their scores with 0) to
    the longest list of the source.
    """

    summary: ClassVar[str] = "VinVL's own extractor: predictions.tsv with features inside"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        folder = source if source.is_dir() else source.parent
        self._files = tsv.checked(tsv.files_of(source, has_objects), source, "vinvl_sgb")
        self._size_files = tsv.files_of(folder, has_sizes)
        self._dim = self._depth = 0
        self._names, self._attributes = vinvl.Names(), vinvl.Names()
        self._class_numbers: dict[str, int] = {}
        self._attribute_numbers: dict[str, int] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether rows of key, JSON with objects that carry a feature are there."""
        return any(map(has_objects, tsv.files_of(source, has_objects)))

    def index(self, scan: Scan) -> Facts:
        """One pass; every row is parsed, none is decoded."""
        sizes: dict[str, NDArray[Any]] = {}
        for path in self._size_files:
            sizes.update(vinvl.sizes(path, scan))
        longest = 0
        for line, key, value in vinvl.json_rows(self._files, scan):
            where = line.where(self._files)
            try:
                self._check(vinvl.objects_of(value))
                if sizes and key not in sizes:
                    raise ImageError("missing-size", "no row with this key in the .hw.tsv")
            except ImageError as error:
                scan.damage(key, where, error.reason, error.detail)
                continue
            longest = max(longest, line.at.length)
            scan.add(key, _At(line.at, sizes.get(key)), where)
        return self._facts(longest)

    def read(self, at: _At) -> Features:
        """region (n, d), boxes (n, 4), classes (n,), scores (n,); size and attributes if any."""
        objects = vinvl.objects_of(tsv.parse(tsv.row(self._files, at.row)[1], "objects"))
        rows = [tsv.array(o["feature"], "float32", 1, "feature") for o in objects]  # n x (1, d)
        found: dict[str, NDArray[Any]] = {
            "region": np.concatenate(rows) if rows else np.empty((0, self._dim), np.float32),
            "boxes": vinvl.numbers(objects, "rect", 4),
            "classes": vinvl.look_up(self._class_numbers, (o["class"] for o in objects)),
            "scores": vinvl.numbers(objects, "conf", 1),
        }
        if at.size is not None:
            found["size"] = at.size
        return {**found, **self._read_attributes(objects)}

    def _read_attributes(self, objects: Sequence[dict[str, Any]]) -> Features:
        if not self._depth:
            return {}
        names = np.full((len(objects), self._depth), -1, np.int64)  # (n, A)
        scores = np.zeros((len(objects), self._depth), np.float32)
        for row, item in enumerate(objects):
            numbers = vinvl.look_up(self._attribute_numbers, item.get("attributes", []))
            names[row, : len(numbers)] = numbers
            values = item.get("attr_scores", [])[: self._depth]
            scores[row, : len(values)] = values
        return {"attributes": names, "attribute_scores": scores}

    def _check(self, objects: Sequence[dict[str, Any]]) -> None:
        for item in objects:
            text = item.get("feature")
            if not isinstance(text, str):
                raise ImageError("missing-feature", "an object without a feature")
            width = tsv.rows_of(text, 1, "float32", "feature")
            self._dim = self._dim or width
            if width != self._dim:
                raise ImageError("wrong-size", f"a feature of {width} numbers, not {self._dim}")
            attributes, scores = item.get("attributes", []), item.get("attr_scores", [])
            if not isinstance(attributes, list) or len(attributes) > MAX_ATTRIBUTES:
                raise ImageError("damaged", "attributes are not a short list")
            if not isinstance(scores, list) or not all(type(s) in (int, float) for s in scores):
                raise ImageError("not-a-number", "attr_scores")
            self._attributes.add(attributes)
            self._depth = max(self._depth, len(attributes))
        self._names.add(o.get("class") for o in objects)

    def _facts(self, longest: int) -> Facts:
        if not self._dim:
            raise DataError(f"{self._files[0]} has no object with a feature. Check the file.")
        names, attributes = self._names.table(), self._attributes.table()
        self._class_numbers = {name: number for number, name in enumerate(names)}
        self._attribute_numbers = {name: number for number, name in enumerate(attributes)}
        config = {"boxes": "pixels", "classes": names, "nms_filter": "unknown"}
        fields = [
            Field("region", "region", (None, self._dim)),
            Field("boxes", "boxes", (None, 4)),
            Field("classes", "classes", (None,), "int64"),
            Field("scores", "scores", (None,)),
        ]
        if self._size_files:
            fields.append(Field("size", "size", (2,), "int64"))
        if self._depth:
            config["attributes"] = attributes
            fields += [
                Field("attributes", "attributes", (None, self._depth), "int64"),
                Field("attribute_scores", "scores", (None, self._depth)),
            ]
        return Facts(tuple(fields), config, [*self._files, *self._size_files], longest)


def has_objects(path: Path) -> bool:
    """Whether rows are key, JSON with objects that carry features."""
    return any(
        len(cells) == 2 and b'"objects"' in cells[1] and b'"feature"' in cells[1]
        for cells in tsv.head(path)
    )


def has_sizes(path: Path) -> bool:
    """Whether rows are key, JSON with a height and a width and nothing longer."""
    return any(
        len(cells) == 2 and b'"height"' in cells[1] and len(cells[1]) < 1000
        for cells in tsv.head(path)
    )


PLUGIN = VinvlSgb
