"""LXMERT's TSV of 10 columns, with object and attribute labels; height comes before width."""

from pathlib import Path
from typing import ClassVar

from precap.store.importers import table, tsv
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field

COLUMNS = {
    "img_id": "key",
    "img_h": "count",
    "img_w": "count",
    "objects_id": "int64",
    "objects_conf": "float32",
    "attrs_id": "int64",
    "attrs_conf": "float32",
    "num_boxes": "count",
    "boxes": "float32",
    "features": "float32",
}
_ONE = {"objects_id": 1, "objects_conf": 1, "attrs_id": 1, "attrs_conf": 1, "boxes": 4}


class LxmertTsv:
    """airsplay/py-bottom-up-attention's TSV: boxes are class-regressed, features the proposal's."""

    summary: ClassVar[str] = "LXMERT TSV, 10 columns (one file, or a folder of its parts)"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        files = tsv.checked(tsv.files_of(source, _is_part), source, "lxmert_tsv")
        self._table = table.Table(COLUMNS, files, dict(_ONE))

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether rows of these 10 columns are there."""
        return bool(tsv.files_of(source, _is_part)) and (source.is_dir() or _is_part(source))

    def index(self, scan: Scan) -> Facts:
        """One pass over the bytes; only lengths are looked at."""
        longest = self._table.index(scan)
        fields = (
            Field("region", "region", (None, self._table.widths["features"])),
            Field("boxes", "boxes", (None, 4)),
            Field("size", "size", (2,), "int64"),
            Field("classes", "classes", (None,), "int64"),
            Field("scores", "scores", (None,)),
            Field("attributes", "attributes", (None,), "int64"),
            Field("attribute_scores", "scores", (None,)),
        )
        return Facts(fields, {"boxes": "pixels"}, self._table.files, longest)

    def read(self, at: tsv.At) -> Features:
        """region (n, d), boxes (n, 4), size, and one class and one attribute per box."""
        row = self._table.read(at)
        return {
            "region": row["features"],
            "boxes": row["boxes"],
            **table.size(row["img_h"], row["img_w"]),
            "classes": row["objects_id"],
            "scores": row["objects_conf"],
            "attributes": row["attrs_id"],
            "attribute_scores": row["attrs_conf"],
        }


def _is_part(path: Path) -> bool:
    return table.looks_like(path, COLUMNS)


PLUGIN = LxmertTsv
