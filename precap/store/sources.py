"""Where rows come from: memory maps of uncompressed shards, the format's library for the others."""

import mmap
import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precap import plugins
from precap.atomic import explained
from precap.errors import ResourceError, StoreError
from precap.store import backends
from precap.store.identity import Identity
from precap.store.ledger import ShardRecord


class Column(NamedTuple):
    """One field of a shard by cell (= row * views + view): its rows, scales (int8), offsets."""

    rows: Any
    scales: Any
    offsets: Any


class Sources:
    """The open shards of a store: at most as many as this process may hold files open.

    A map stays valid in a forked child; an open HDF5 or Zarr file does not, so everything is
    opened again when the process id has changed.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path, self._identity = path, identity
        self._open: OrderedDict[int, dict[str, Column]] = OrderedDict()
        self._pid = os.getpid()
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = max(8, (soft - 128) // (2 * (1 + 3 * len(identity.spec.fields))))

    def check_process(self) -> None:
        """Forget what was opened before a fork."""
        if self._pid != os.getpid():
            self._open, self._pid = OrderedDict(), os.getpid()

    def column(self, record: ShardRecord, name: str) -> Column:
        """The field ``name`` of a shard, opened when it is not yet."""
        found = self._open.get(record.shard)
        if found is None:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            found = self._open[record.shard] = self._load(record)
        else:
            self._open.move_to_end(record.shard)
        return found[name]

    def _load(self, record: ShardRecord) -> dict[str, Column]:
        path = self._path / record.file
        try:
            with explained(path, "read"):
                arrays = self._map(path, record)
        except ResourceError:
            raise
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is missing or damaged ({error}). Run `precap store verify {self._path}`, "
                f"then `precap store repair {self._path}` and extract again."
            ) from error
        kinds = ("fields", "scales", "offsets")
        names = [field.name for field in self._identity.spec.fields]
        return {n: Column(*(arrays.get(f"{kind}/{n}") for kind in kinds)) for n in names}

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
