"""One growing array per field, rows of all images one after another: for HDF5 and for Zarr."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from precap.store.exporters.contract import Rows
from precap.types import FeatureSpec, Field

#: Bytes of a chunk on disk, and of what is buffered before it is written.
CHUNK_BYTES = 1 << 20
BUFFER_BYTES = 16 << 20


class Growing(Protocol):
    """What h5py's and zarr's resizable arrays have in common."""

    shape: tuple[int, ...]

    def resize(self, size: tuple[int, ...], /) -> Any:
        """Change the shape."""
        ...

    def __setitem__(self, where: Any, values: Any) -> None: ...


#: Makes an empty resizable array: name, shape (0, ...), chunks, dtype.
Create = Callable[[str, tuple[int, ...], tuple[int, ...], str], Growing]


def write(spec: FeatureSpec, rows: Rows, create: Create) -> dict[str, NDArray[np.int64]]:
    """Append every image to the arrays of its fields; name -> offsets (n + 1,) of ragged fields."""
    columns = [_Column(field, create) for field in spec.fields]
    for _, row in rows():
        for column in columns:
            column.add(np.asarray(row[column.field.name]))
    for column in columns:
        column.flush(everything=True)
    return {c.field.name: np.array(c.offsets, np.int64) for c in columns if c.field.ragged}


def dtype_of(field: Field) -> str:
    """int8 fields are exported as the float32 that they stand for."""
    return "float32" if field.dtype == "int8" else field.dtype


class _Column:
    def __init__(self, field: Field, create: Create) -> None:
        self.field, self.offsets = field, [0]
        lead = 1 if field.ragged else 0
        tail = tuple(side or 0 for side in field.shape[lead:])
        item = np.dtype(dtype_of(field)).itemsize * max(1, int(np.prod(tail)))
        self._step = max(1, CHUNK_BYTES // item)
        self._array = create(field.name, (0, *tail), (self._step, *tail), dtype_of(field))
        self._limit = max(self._step, BUFFER_BYTES // item)
        self._buffer: list[NDArray[Any]] = []
        self._held = 0

    def add(self, value: NDArray[Any]) -> None:
        rows = value if self.field.ragged else value[None]
        self.offsets.append(self.offsets[-1] + len(rows))
        self._buffer.append(rows)
        self._held += len(rows)
        if self._held >= self._limit:
            self.flush()

    def flush(self, everything: bool = False) -> None:
        """Write whole chunks, so that none is written twice; at the end, what is left."""
        count = self._held if everything else self._held - self._held % self._step
        if not count:
            return
        block = np.concatenate(self._buffer)
        start = self._array.shape[0]
        self._array.resize((start + count, *self._array.shape[1:]))
        self._array[start : start + count] = block[:count]
        self._buffer, self._held = [block[count:]], self._held - count
