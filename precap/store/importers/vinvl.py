"""What the three VinVL layouts share: packed rows with a geometric tail, objects, class names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import tsv
from precap.store.importers.contract import Problem, Scan

#: x1/W, y1/H, x2/W, y2/H, (x2-x1)/W, (y2-y1)/H: what VinVL appends to the feature of a box.
TAIL = 6
MAX_NAMES = 20_000


@dataclass(frozen=True, slots=True)
class Packing:
    """How the bytes of one row of features are to be read; the same for a whole source."""

    dtype: str
    width: int
    tail: bool

    @property
    def dim(self) -> int:
        """Numbers per box without the tail."""
        return self.width - TAIL * self.tail

    def split(self, text: bytes | str, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features (n, dim) and tail (n, 6) (or (n, 0)) of one image, in the source's dtype."""
        packed = tsv.array(text, self.dtype, rows, "features").reshape(rows, -1)
        if rows == 0:
            packed = np.empty((0, self.width), self.dtype)
        if packed.shape[1] != self.width:
            raise ImageError(
                "wrong-size", f"features have {packed.shape[1]} numbers, not {self.width}"
            )
        features, tail = np.split(packed, [self.dim], axis=1)
        if self.tail and not _geometric(tail):
            raise ImageError("bad-geometry", "the last 6 numbers of a row are no box")
        return features, tail


def packing(text: bytes | str, rows: int) -> Packing:
    """Infer dtype and tail from one image with at least one box.

    Some files are float16 though nothing says so; only in the right dtype do the last six
    numbers of every box describe a box. float16 is tried first: float32 read as float16 never
    passes, since the upper half of any coordinate above 1/8 reads as more than 1.
    """
    raw = tsv.unpack(text)
    for dtype in ("float16", "float32"):
        if len(raw) % (rows * np.dtype(dtype).itemsize):
            continue
        packed = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(rows, -1)
        if packed.shape[1] > TAIL and _geometric(packed[:, -TAIL:]):
            return Packing(dtype, packed.shape[1], True)
    return Packing("float32", tsv.rows_of(text, rows, "float32", "features"), False)


def _geometric(tail: NDArray[Any]) -> bool:
    """Whether (n, 6) numbers are relative boxes with their own widths and heights."""
    t = tail.astype(np.float64)
    if not np.isfinite(t).all() or t.min(initial=0) < -0.01 or t.max(initial=0) > 1.01:
        return False
    sides = t[:, 2:4] - t[:, 0:2]  # (n, 2)
    return bool((np.abs(sides - t[:, 4:6]) < 4e-3).all() and (sides > -4e-3).all())


def relative_boxes(tail: NDArray[Any]) -> NDArray[Any]:
    """(n, 4) x1, y1, x2, y2 as fractions of the image's width and height."""
    return np.ascontiguousarray(tail[:, :4])


def pixel_boxes(tail: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    """(n, 4) float32 boxes in pixels from the tail and size = (height, width)."""
    height, width = size
    return tail[:, :4].astype(np.float32) * np.array([width, height, width, height], np.float32)


def objects_of(value: Any) -> list[dict[str, Any]]:
    """The objects of a prediction row: a list, or a mapping with a list ``objects``."""
    objects = value.get("objects") if isinstance(value, dict) else value
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise ImageError("damaged", "a row without a list of objects")
    return objects


def numbers(objects: Sequence[dict[str, Any]], name: str, width: int) -> NDArray[Any]:
    """(n, width) float32, or (n,) for width 1, of one entry of every object."""
    shape = (len(objects), width) if width > 1 else (len(objects),)
    try:
        values = np.array([o[name] for o in objects], np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ImageError("not-a-number", f"{name}: {error}"[:200]) from error
    if len(objects) == 0:
        values = values.reshape(shape)
    if values.shape != shape:
        raise ImageError("wrong-size", f"{name} has the shape {values.shape}, not {shape}")
    return values


@dataclass
class Names:
    """The class (or attribute) names of a source, numbered in alphabetical order."""

    seen: set[str] = field(default_factory=set)

    def add(self, names: Iterable[Any]) -> None:
        """Note the names of one image."""
        for name in names:
            if not isinstance(name, str) or len(name) > 200:
                raise ImageError("damaged", f"{ascii(name)[:60]} is no class name")
            self.seen.add(name)
        if len(self.seen) > MAX_NAMES:
            raise DataError(
                f"The source has more than {MAX_NAMES} different class names, so these are not "
                f"classes. Check that the file is what you think it is."
            )

    def table(self) -> list[str]:
        """All names, sorted; their positions are the numbers that are stored."""
        return sorted(self.seen)


def look_up(table: dict[str, int], names: Iterable[str]) -> NDArray[Any]:
    """(n,) int64 positions of ``names`` in a name table."""
    return np.array([table[name] for name in names], np.int64)


def sizes(path: Path, scan: Scan) -> dict[str, NDArray[Any]]:
    """key -> (2,) int64 height, width of a ``.hw.tsv``: key, JSON [{"height", "width"}]."""
    found: dict[str, NDArray[Any]] = {}
    for line, key, value in json_rows([path], scan):
        try:
            entry = value[0] if isinstance(value, list) else value
            height, width = entry["height"], entry["width"]
            if not all(type(v) is int and 0 < v < 1 << 20 for v in (height, width)):
                raise ValueError("not a size in pixels")
        except (LookupError, TypeError, ValueError) as error:
            scan.note(Problem(line.where([path]), key, "bad-size", str(error)[:200]))
            continue
        found[key] = np.array([height, width], np.int64)
    return found


def json_rows(files: Sequence[Path], scan: Scan) -> Iterator[tuple[tsv.Line, str, Any]]:
    """Every row ``key, JSON`` of the files; what is none of that goes to ``scan``."""
    for line in tsv.lines(files):
        where = line.where(files)
        key = tsv.key_of(line.cells[0]) if line.cells else ""
        try:
            if len(line.cells) != 2:
                raise ImageError("wrong-columns" if line.cells else "row-too-long")
            value = tsv.parse(line.cells[1], "the second column")
        except ImageError as error:
            reason = error.reason if line.ended else "truncated"
            scan.damage(key, where, reason, error.detail)
            continue
        yield line, key, value
