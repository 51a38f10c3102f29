"""Bottom-up attention's TSV: image_id, image_w, image_h, num_boxes, boxes, features."""

from pathlib import Path
from typing import ClassVar

from precap.store.importers import table, tsv
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field

COLUMNS = {
    "image_id": "key",
    "image_w": "count",
    "image_h": "count",
    "num_boxes": "count",
    "boxes": "float32",
    "features": "float32",
}


class ButdTsv:
    """peteanderson80/bottom-up-attention's generate_tsv.py, also split as ``.tsv.0``, ``.tsv.1``.

    boxes are x1, y1, x2, y2 in pixels of the original image; features are float32.
    """

    summary: ClassVar[str] = "bottom-up TSV, 6 columns (one file, or a folder of its parts)"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        files = tsv.checked(tsv.files_of(source, _is_part), source, "butd_tsv")
        self._table = table.Table(COLUMNS, files, {"boxes": 4})

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether rows of 6 columns with four numbers are there."""
        return bool(tsv.files_of(source, _is_part)) and (source.is_dir() or _is_part(source))

    def index(self, scan: Scan) -> Facts:
        """One pass over the bytes; only lengths are looked at."""
        longest = self._table.index(scan)
        fields = (
            Field("region", "region", (None, self._table.widths["features"])),
            Field("boxes", "boxes", (None, 4)),
            Field("size", "size", (2,), "int64"),
        )
        return Facts(fields, {"boxes": "pixels"}, self._table.files, longest)

    def read(self, at: tsv.At) -> Features:
        """region (n, d) and boxes (n, 4) float32, size (2,) = height, width."""
        row = self._table.read(at)
        size = table.size(row["image_h"], row["image_w"])
        return {"region": row["features"], "boxes": row["boxes"], **size}


def _is_part(path: Path) -> bool:
    return table.looks_like(path, COLUMNS)


PLUGIN = ButdTsv
