"""Rows of images to the arrays of one shard, each byte cast and copied once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from precap.store import schema
from precap.types import Features, FeatureSpec, Field, Outcome

Arrays = dict[str, NDArray[Any]]


class Packer:
    """Arrays for up to ``len(rows)`` images, named as in ``Content.arrays``.

    Fixed fields: (n, [views,] ...). Ragged: rows of all images one after another, and int64
    offsets (n * views + 1,). int8: float32 scales, one per row of the last axis.
    """

    def __init__(self, spec: FeatureSpec, rows: Sequence[Features]) -> None:
        self._spec = spec
        self._count = 0
        self._columns = [_Column(field, spec.views, rows) for field in spec.fields]
        self._digests = np.empty(len(rows), np.uint64)

    def add(self, image: str, row: Features) -> Outcome:
        """Take one row: ok, or failed with a reason when a value cannot be stored."""
        try:
            for column in self._columns:
                column.put(self._count, row[column.field.name])
        except schema.BadValue as bad:
            return Outcome(image, "failed", bad.reason, f"{column.field.name}: {bad.detail}")
        stored = (part for column in self._columns for part in column.row(self._count))
        self._digests[self._count] = row_digest(image, stored)
        self._count += 1
        return Outcome(image, "ok")

    def arrays(self) -> Arrays:
        """The arrays of all images that were ok."""
        found: Arrays = {"digests": self._digests[: self._count]}
        for column in self._columns:
            found.update(column.arrays(self._count))
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
        for start, stop in _bounds(arrays.get(f"offsets/{field.name}"), spec.views, row):
            yield rows[start:stop]
            if scales is not None:
                yield scales[start:stop]


def _bounds(offsets: NDArray[Any] | None, views: int, row: int) -> Iterable[tuple[int, int]]:
    if offsets is None:
        return [(row, row + 1)]
    cells = range(row * views, (row + 1) * views)
    return [(int(offsets[cell]), int(offsets[cell + 1])) for cell in cells]


class _Column:
    """The growing arrays of one field."""

    def __init__(self, field: Field, views: int, rows: Sequence[Features]) -> None:
        self.field, self._views = field, views
        tail = tuple(n for n in field.shape if n is not None)
        if field.ragged:
            values = [schema.parts(row[field.name], field, views) for row in rows]
            shape = (sum(len(part) for parts in values for part in parts), *tail)
        else:
            shape = (len(rows), *((views,) if views > 1 else ()), *tail)
        self._rows = np.empty(shape, field.dtype)
        self._scales = np.empty(shape[:-1], np.float32) if field.dtype == "int8" else None
        self._offsets = np.zeros(len(rows) * views + 1, np.int64)

    def put(self, index: int, value: Any) -> None:
        """Write image number ``index``; overwrites what an earlier, refused image left there."""
        if not self.field.ragged:
            return self._cast(index, index + 1, np.asarray(value)[None])
        for view, part in enumerate(schema.parts(value, self.field, self._views)):
            cell = index * self._views + view
            start = int(self._offsets[cell])
            self._offsets[cell + 1] = start + len(part)
            self._cast(start, start + len(part), part)
        return None

    def row(self, index: int) -> Iterable[NDArray[Any]]:
        """What is stored of image number ``index``."""
        name = self.field.name
        arrays: Arrays = {f"fields/{name}": self._rows}
        if self.field.ragged:
            arrays[f"offsets/{name}"] = self._offsets
        if self._scales is not None:
            arrays[f"scales/{name}"] = self._scales
        one = FeatureSpec("", 0, "", (self.field,), views=self._views)
        return rows_of(arrays, one, index)

    def arrays(self, count: int) -> Arrays:
        """The arrays of the first ``count`` images."""
        name, end = self.field.name, count
        found: Arrays = {}
        if self.field.ragged:
            found[f"offsets/{name}"] = self._offsets[: count * self._views + 1]
            end = int(self._offsets[count * self._views])
        found[f"fields/{name}"] = self._rows[:end]
        if self._scales is not None:
            found[f"scales/{name}"] = self._scales[:end]
        return found

    def _cast(self, start: int, stop: int, source: NDArray[Any]) -> None:
        scale = self._scales[start:stop] if self._scales is not None else None
        schema.put(self._rows[start:stop], source, scale)
