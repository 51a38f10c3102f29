"""precap's own Zarr export: an array per field, NAME_offsets; spec and ids are attributes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray

from precap.errors import ImageError
from precap.store.importers.columns import Columns
from precap.store.importers.contract import MAX_ARRAY, Facts, Scan, reading
from precap.types import Features

#: What json and zarr raise for a folder that is damaged.
_BROKEN = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)


class PrecapZarr:
    """What ``precap store export --format zarr`` writes."""

    summary: ClassVar[str] = "precap's Zarr export: an array per field, offsets, spec and ids"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._columns = Columns(source, _Folder(source))

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether a Zarr group with the attributes ids and spec is there."""
        return (source / "zarr.json").is_file() and {"ids", "spec"} <= _attributes(source).keys()

    def index(self, scan: Scan) -> Facts:
        """The ids and offsets are read, and the shapes."""
        return self._columns.index(scan)

    def read(self, at: int) -> Features:
        """Every field of the store that was exported."""
        return self._columns.read(at)


class _Folder:
    """Chunks are raw and span whole rows; one that is absent would be read as zeros."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, Any] = {}

    def spec(self) -> Any:
        return _attributes(self._path).get("spec")

    def ids(self) -> Sequence[str]:
        ids = _attributes(self._path).get("ids")
        if not isinstance(ids, list) or not all(isinstance(image, str) for image in ids):
            raise ImageError("damaged", "the attribute ids is no list of texts")
        return ids

    def array(self, name: str) -> Any:
        if name not in self._arrays:
            with reading(name, _BROKEN):
                self._arrays[name] = zarr.open_array(str(self._path / name), mode="r")
            array = self._arrays[name]
            plain = not array.compressors and array.shards is None and array.ndim
            if not plain or array.chunks[1:] != array.shape[1:]:
                raise ImageError("damaged", f"{name} is not stored as precap writes it")
            if array.dtype.kind not in "fiub":
                raise ImageError("not-numbers", f"{name} holds {array.dtype}")
        return self._arrays[name]

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        array = self.array(name)
        step = array.chunks[0]
        row = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=object))
        if row * max(step, stop - start) > MAX_ARRAY:
            raise ImageError("too-large", f"{name}: rows {start} to {stop}")
        for chunk in range(start // step, -(-stop // step)):
            self._check(f"{name}/c/{'/'.join([str(chunk), *['0'] * (array.ndim - 1)])}", row * step)
        with reading(name, _BROKEN):
            return np.asarray(array[start:stop])
        raise AssertionError("unreachable")

    def files(self) -> Sequence[Path]:
        return [path for path in self._path.rglob("*") if path.is_file()]

    def _check(self, chunk: str, size: int) -> None:
        path = self._path / chunk
        if not path.resolve().is_relative_to(self._path.resolve()):
            raise ImageError("foreign-link", f"{chunk} points elsewhere")
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise ImageError("damaged", f"{chunk} has {found or 'no'} bytes, should have {size}")


def _attributes(folder: Path) -> dict[str, Any]:
    with reading("zarr.json", _BROKEN):
        found = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        return dict(found)
    raise AssertionError("unreachable")


PLUGIN = PrecapZarr
