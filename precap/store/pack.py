"""Rows of images to the arrays of one shard; rows that have the stored dtype are never copied."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from precap.store import schema, threads
from precap.store.backends.contract import Array, Stack
from precap.types import Features, FeatureSpec, Field, Outcome


class Packer:
    """Collects the rows of one shard, in the order of its outcomes."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._columns = [_Column(field, spec.views) for field in spec.fields]
        self._digests: list[int] = []

    def add(self, outcomes: Sequence[Outcome], rows: Mapping[str, Features]) -> list[Outcome]:
        """Take the row of every ok image; failed, with a reason, where a value cannot be stored."""
        ids = [outcome.id for outcome in outcomes if outcome.status == "ok"]
        packed: dict[str, _Packed | Outcome] = {}

        def pack(part: range) -> None:
            for k in part:
                packed[ids[k]] = self._pack(ids[k], rows[ids[k]])

        threads.spread(
            pack, len(ids), sum(self._bytes(rows[image]) for image in ids[:1]) * len(ids)
        )
        return [self._take(o, packed[o.id]) if o.status == "ok" else o for o in outcomes]

    def _bytes(self, row: Features) -> int:
        views = self._spec.views
        cells = (schema.parts(row[field.name], field, views) for field in self._spec.fields)
        return sum(part.nbytes for cell in cells for part in cell)

    def _pack(self, image: str, row: Features) -> "_Packed | Outcome":
        cells: list[_Cell] = []
        for column in self._columns:
            try:
                cells.append(column.cell(row[column.field.name]))
            except schema.BadValue as bad:
                detail = f"{column.field.name}: {bad.detail}"
                return Outcome(image, "failed", bad.reason, detail)
        every = (array for cell in cells for part in cell for array in part if array is not None)
        return cells, row_digest(image, every)

    def _take(self, outcome: Outcome, packed: "_Packed | Outcome") -> Outcome:
        if isinstance(packed, Outcome):
            return packed
        cells, digest = packed
        for column, cell in zip(self._columns, cells, strict=True):
            column.cells += cell
        self._digests.append(digest)
        return outcome

    def arrays(self) -> dict[str, Array]:
        """The arrays of all images that were ok, named as in ``Content.arrays``.

        Fixed fields: (n, [views,] ...). Ragged: rows of all images one after another, and int64
        offsets (n * views + 1,). int8: float32 scales, one per row of the last axis.
        """
        found: dict[str, Array] = {"digests": np.array(self._digests, np.uint64)}
        for column in self._columns:
            found.update(column.arrays())
        return found


def row_digest(image: str, stored: Iterable[NDArray[Any]]) -> int:
    """64-bit digest of an image's id and all its stored arrays, lengths included."""
    state = xxhash.xxh3_64(image.encode())
    for array in stored:
        state.update(str(array.shape).encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.intdigest()


def rows_of(
    arrays: Mapping[str, NDArray[Any]], spec: FeatureSpec, row: int
) -> Iterable[NDArray[Any]]:
    """The stored arrays of one image in the order that ``row_digest`` takes them."""
    for field in spec.fields:
        rows = arrays[f"fields/{field.name}"]
        scales = arrays.get(f"scales/{field.name}")
        offsets = arrays.get(f"offsets/{field.name}")
        cells = range(row * spec.views, (row + 1) * spec.views)
        keys: list[Any] = [row]
        if offsets is not None:
            keys = [slice(int(offsets[cell]), int(offsets[cell + 1])) for cell in cells]
        for key in keys:
            yield np.asarray(rows[key])
            if scales is not None:
                yield np.asarray(scales[key])


#: What one field stores of one image: (array, scales or None) once, or per view if it is ragged.
_Cell = list[tuple[NDArray[Any], NDArray[Any] | None]]
#: What all fields store of one image, and its digest.
_Packed = tuple[list[_Cell], int]


class _Column:
    """One field of all images."""

    def __init__(self, field: Field, views: int) -> None:
        self.field, self._views = field, views
        self.cells: _Cell = []

    def cell(self, value: Any) -> _Cell:
        """``value`` as stored; BadValue when it cannot be."""
        parts: Sequence[NDArray[Any]] = (
            [np.asarray(value)]
            if not self.field.ragged
            else (schema.parts(value, self.field, self._views))
        )
        return [schema.stored(part, self.field.dtype) for part in parts]

    def arrays(self) -> dict[str, Array]:
        """fields/NAME, and offsets/NAME and scales/NAME where there are such."""
        name, field = self.field.name, self.field
        tail = tuple(n for n in field.shape if n is not None)
        found: dict[str, Array] = {}
        if field.ragged:
            lengths = [len(array) for array, _ in self.cells]
            found[f"offsets/{name}"] = np.cumsum([0, *lengths], dtype=np.int64)
            shape = (sum(lengths), *tail)
        else:
            shape = (len(self.cells), *((self._views,) if self._views > 1 else ()), *tail)
        rows = [array for array, _ in self.cells]
        found[f"fields/{name}"] = Stack(rows, shape, np.dtype(field.dtype))
        if field.dtype == "int8":
            scales = [scale for _, scale in self.cells if scale is not None]
            found[f"scales/{name}"] = Stack(scales, shape[:-1], np.dtype(np.float32))
        return found
