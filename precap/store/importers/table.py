"""Tab-separated rows of numbers and base64 arrays, without a header: bottom-up and LXMERT files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from precap.errors import DataError, ImageError
from precap.store.importers import tsv
from precap.store.importers.contract import Scan
from precap.types import Features

#: Column name -> what is in it: "key", "count" (decimal), or the dtype of a base64 array with
#: one row per box. In file order.
Columns = Mapping[str, str]
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


@dataclass
class Table:
    """Reads files whose rows are ``columns``. ``widths``: numbers per box of every array column.

    The widest column, "features", has no width known beforehand: the first sound row sets it and
    every other row must agree.
    """

    columns: Columns
    files: Sequence[Path]
    widths: dict[str, int] = field(default_factory=dict)

    def index(self, scan: Scan) -> int:
        """Report every row to ``scan``; the bytes of the longest row. Decodes nothing."""
        longest = 0
        for line in tsv.lines(self.files):
            where = line.where(self.files)
            key = tsv.key_of(line.cells[0]) if line.cells else ""
            if key in self.columns:  # a header that some rewriter added
                continue
            try:
                self._check(line)
            except ImageError as error:
                scan.damage(key, where, *self._blame(line, error))
                continue
            longest = max(longest, line.at.length)
            scan.add(key, line.at, where)
        if "features" not in self.widths:
            raise DataError(
                f"{self.files[0]}: no row could be read as {len(self.columns)} columns "
                f"{', '.join(self.columns)}. Check that the file is complete."
            )
        return longest

    def read(self, at: tsv.At) -> dict[str, Any]:
        """The values of one row: text, ints, and arrays (n,) or (n, d)."""
        cells = tsv.row(self.files, at)
        values = {name: self._value(name, c) for name, c in zip(self.columns, cells, strict=True)}
        rows = values["num_boxes"]
        arrays = {
            name: tsv.array(values[name], kind, rows, name)
            for name, kind in self.columns.items()
            if kind not in ("key", "count")
        }
        return {**values, **arrays}

    def _value(self, name: str, cell: bytes) -> Any:
        kind = self.columns[name]
        if kind == "key":
            return tsv.key_of(cell)
        return tsv.count(cell, name) if kind == "count" else cell

    def _check(self, line: tsv.Line) -> None:
        """ImageError unless the lengths of all cells of a row agree with its own box count."""
        if not line.cells:
            raise ImageError("row-too-long", f"{line.at.length} bytes")
        if len(line.cells) != len(self.columns):
            raise ImageError("wrong-columns", f"{len(line.cells)} of {len(self.columns)}")
        cells = dict(zip(self.columns, line.cells, strict=True))
        rows = tsv.count(cells["num_boxes"], "num_boxes")
        for name, kind in self.columns.items():
            if kind == "count":
                tsv.count(cells[name], name)
            elif kind != "key":
                self._agree(name, tsv.rows_of(cells[name], rows, kind, name))

    def _agree(self, name: str, width: int) -> None:
        if width and self.widths.setdefault(name, width) != width:
            expected = self.widths[name]
            raise ImageError("wrong-size", f"{name} has {width} numbers per box, not {expected}")

    @staticmethod
    def _blame(line: tsv.Line, error: ImageError) -> tuple[str, str]:
        """A last line without its end was cut by an interrupted writer: say so."""
        return (error.reason if line.ended else "truncated"), error.detail


def looks_like(path: Path, columns: Columns) -> bool:
    """Whether one of the first rows of a file has these columns (the last cell may be cut)."""
    return any(_fits(cells, columns) for cells in tsv.head(path))


def _fits(cells: list[bytes], columns: Columns) -> bool:
    if len(cells) != len(columns) or b"" in cells[:1]:
        return False
    return all(_plausible(c, kind) for c, kind in zip(cells, columns.values(), strict=True))


def _plausible(cell: bytes, kind: str) -> bool:
    if kind == "key":
        return len(cell) <= 1000
    if kind == "count":
        return cell.strip().isdigit()
    return set(cell.strip()).issubset(_BASE64 | set(b"'")) or cell[:2] == b"b'"


def size(height: int, width: int) -> Features:
    """The field "size", int64 (2,) = height, width in pixels."""
    if not (0 < height < 1 << 20 and 0 < width < 1 << 20):
        raise ImageError("bad-size", f"an image of {height} x {width} pixels")
    return {"size": np.array([height, width], np.int64)}
