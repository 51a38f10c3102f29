"""Where rows come from: memory maps of uncompressed shards, the format's library for the others."""

import mmap
import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap import plugins
from precap.atomic import explained
from precap.errors import ResourceError, StoreError
from precap.store import backends
from precap.store.identity import Identity
from precap.store.ledger import ShardRecord
from precap.types import Field

Piece = tuple[NDArray[Any], NDArray[Any] | None]


class Sources:
    """The open shards of a store: at most as many as this process may hold files open.

    A map stays valid in a forked child; an open HDF5 or Zarr file does not, so everything is
    opened again when the process id has changed.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path, self._identity = path, identity
        self._open: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._pid = os.getpid()
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = max(8, (soft - 128) // (2 * (1 + 3 * len(identity.spec.fields))))

    def rows(self, record: ShardRecord, field: Field, cell: int) -> Piece:
        """One image's rows of a field (cell = row * views + view), and their scales if int8."""
        arrays = self._arrays(record)
        rows, scales = arrays[f"fields/{field.name}"], arrays.get(f"scales/{field.name}")
        if not field.ragged:
            return rows[cell], None if scales is None else scales[cell]
        offsets = arrays[f"offsets/{field.name}"]
        start, stop = offsets[cell : cell + 2].tolist()
        return rows[start:stop], None if scales is None else scales[start:stop]

    def offsets(self, record: ShardRecord, field: Field) -> NDArray[np.int64]:
        """Where each image (and view) of a ragged field begins in the shard, and the end."""
        return np.asarray(self._arrays(record)[f"offsets/{field.name}"][...])

    def _arrays(self, record: ShardRecord) -> dict[str, Any]:
        if self._pid != os.getpid():
            self._open, self._pid = OrderedDict(), os.getpid()
        found = self._open.get(record.shard)
        if found is None:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            found = self._open[record.shard] = self._load(record)
        else:
            self._open.move_to_end(record.shard)
        return found

    def _load(self, record: ShardRecord) -> dict[str, Any]:
        path = self._path / record.file
        try:
            with explained(path, "read"):
                return self._map(path, record)
        except ResourceError:
            raise
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is missing or damaged ({error}). Run `precap store verify {self._path}`, "
                f"then `precap store repair {self._path}` and extract again."
            ) from error

    def _map(self, path: Path, record: ShardRecord) -> dict[str, Any]:
        maps: dict[str, Any] = {}
        found: dict[str, Any] = {}
        opened = None
        for name, (file, offset, shape, dtype) in record.layout.items():
            if 0 in shape:
                array: Any = np.empty(shape, dtype)
            elif offset is None:
                opened = opened or plugins.load(backends, self._identity.format)().open(path)
                array = opened.array(name)
            else:
                if file not in maps:
                    maps[file] = _map_file(path / file if file else path)
                count = int(np.prod(shape))
                array = np.frombuffer(maps[file], dtype, count, offset).reshape(shape)
            found[name] = self._by_cell(name, array)
        return found

    def _by_cell(self, name: str, array: Any) -> Any:
        """Fold the views axis of a fixed field into the image axis."""
        kind, _, field = name.partition("/")
        views = self._identity.spec.views
        ragged = {f.name: f.ragged for f in self._identity.spec.fields}
        if views > 1 and kind in ("fields", "scales") and not ragged[field]:
            if isinstance(array, np.ndarray):
                return array.reshape(array.shape[0] * views, *array.shape[2:])
            return _Views(array, views)
        return array


class _Views:
    """A library's array with its views axis folded into the image axis."""

    def __init__(self, array: Any, views: int) -> None:
        self._array, self._views = array, views

    def __getitem__(self, cell: int) -> Any:
        return self._array[cell // self._views, cell % self._views]


def _map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
