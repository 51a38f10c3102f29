"""precap's own exports: one array per field, NAME_offsets where rows differ, and the spec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from precap.errors import ConfigError, DataError, ImageError
from precap.store import schema
from precap.store.importers.contract import MAX_ARRAY, Facts, Scan, stored_dtype
from precap.types import ROLES, Features, FeatureSpec, Field


class Source(Protocol):
    """The file or folder: what h5py and zarr have in common here."""

    def spec(self) -> Any:
        """The JSON value of the attribute ``spec``."""
        ...

    def ids(self) -> Sequence[str]:
        """The ids, in row order."""
        ...

    def array(self, name: str) -> Any:
        """An array with ``shape`` and ``dtype``; ImageError when there is none of numbers."""
        ...

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Some rows of an array; ImageError when they are damaged or too large."""
        ...

    def files(self) -> Sequence[Path]:
        """What is read."""
        ...


class Columns:
    """Image i has row i of a fixed field, and rows offsets[i] to offsets[i + 1] of a ragged one."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path, self._source = path, source
        self._columns: list[_Column] = []

    def index(self, scan: Scan) -> Facts:
        """The ids and offsets are read; ids may be any text, because the store that left had it."""
        scan.usable = _is_line
        try:
            spec = spec_of(self._source.spec())
            ids = self._source.ids()
            self._columns = [self._column(field, len(ids)) for field in spec.fields]
        except ImageError as error:
            raise DataError(f"{self._path}: {error}. Check that it is complete.") from error
        for row, image in enumerate(ids):
            scan.add(image, row, f"{self._path.name}[{row}]")
        made = {k: v for k, v in spec.as_json().items() if k not in ("fields", "config")}
        return Facts(
            fields=tuple(column.field for column in self._columns),
            config={**spec.config, "exported": {**made, "fingerprint": spec.fingerprint}},
            files=self._source.files(),
            row_bytes=sum(column.row_bytes for column in self._columns),
        )

    def read(self, at: int) -> Features:
        """The fields of the spec, int8 ones as the float32 that they stand for."""
        return {column.field.name: self._rows(column, at) for column in self._columns}

    def _column(self, field: Field, images: int) -> "_Column":
        """The array of a field, which must be as the spec says."""
        array = self._source.array(field.name)
        lead = 1 if field.ragged else 0
        if array.shape[1:] != field.shape[lead:]:
            raise ImageError("wrong-shape", f"{field.name} is {list(array.shape)}")
        kept = Field(field.name, field.role, field.shape, stored_dtype(array.dtype))
        size = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=object))
        if not field.ragged:
            return _Column(kept, array.shape[0], size)
        offsets = self._source.rows(f"{field.name}_offsets", 0, images + 1)
        if offsets.shape != (images + 1,) or offsets.dtype != np.int64:
            raise ImageError("wrong-size", f"{field.name}_offsets do not fit {images} ids")
        most = int(np.diff(offsets).max(initial=0))
        return _Column(kept, array.shape[0], min(MAX_ARRAY, size * max(0, most)), offsets)

    def _rows(self, column: "_Column", at: int) -> NDArray[Any]:
        name, offsets = column.field.name, column.offsets
        start, stop = (at, at + 1) if offsets is None else offsets[at : at + 2].tolist()
        if stop > column.length:
            raise ImageError("truncated", f"{name} has only {column.length} rows")
        if not 0 <= start <= stop:
            raise ImageError("wrong-size", f"{name}: rows {start} to {stop}")
        rows = self._source.rows(name, start, stop)
        return rows[0] if offsets is None else rows


@dataclass(frozen=True)
class _Column:
    field: Field
    length: int
    row_bytes: int
    offsets: NDArray[np.int64] | None = None


def spec_of(values: Any) -> FeatureSpec:
    """The spec that an export carries; ImageError when it is none."""
    try:
        spec = FeatureSpec.from_json(values)
        schema.check_spec(spec)
    except (ConfigError, TypeError, LookupError, AttributeError, ValueError) as error:
        raise ImageError("damaged", f"its spec cannot be read: {error}"[:200]) from error
    if any(field.role not in ROLES for field in spec.fields):
        raise ImageError("damaged", "its spec has fields of unknown roles")
    if not isinstance(spec.config, Mapping):
        raise ImageError("damaged", "its spec has no config")
    return spec


def _is_line(image: str) -> bool:
    return bool(image) and "\n" not in image and "\0" not in image
