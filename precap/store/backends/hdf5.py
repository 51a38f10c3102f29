"""HDF5 shards: one file, contiguous datasets that any HDF5 reader and any memory map can read."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from precap.store.backends.contract import (
    Array,
    Compression,
    Content,
    Extent,
    Image,
    Piece,
    packed_rows,
    pieces_of,
)

_ALIGN_ABOVE, _ALIGN = 65536, 4096  # large datasets start on a page: friendlier to memory maps


class Hdf5Shard:
    """Datasets ids, absent, digests, and one per field in fields/, offsets/ and scales/."""

    suffix: ClassVar[str] = ".h5"

    def build(self, content: Content, compression: Compression) -> Image:
        """The file as pieces: HDF5's own metadata, and the arrays themselves, uncopied."""
        sparse = _Sparse()
        pieces: list[Piece] = []
        extents: dict[str, Extent] = {}
        with _create(sparse) as file:
            for key in sorted(content.attributes):
                file.attrs[key] = json.dumps(content.attributes[key], sort_keys=True)
            for name in sorted(content.texts):
                _write_texts(file, name, list(content.texts[name]))
            for name, array in sorted(content.arrays.items()):
                if compression != "none" and name.startswith("fields/") and array.size:
                    _write_compressed(
                        file, name, np.asarray(array), packed_rows(content, name), compression
                    )
                elif array.size == 0:
                    file.create_dataset(
                        name, shape=array.shape, dtype=array.dtype, track_times=False
                    )
                else:
                    offset = _reserve(file, name, array)
                    extents[name] = Extent("", offset)
                    pieces += pieces_of(offset, array)
        pieces = sorted([*sparse.pieces(), *pieces], key=lambda piece: piece[0])
        return Image({"": (pieces, sparse.size)}, extents)

    def open(self, path: Path) -> "OpenHdf5":
        """Open with h5py, read-only and without file locks (they fail on network folders)."""
        return OpenHdf5(path)


PLUGIN = Hdf5Shard


class OpenHdf5:
    """One HDF5 shard, open for reading."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r", locking=False)
        self.attributes: Mapping[str, Any] = {
            key: json.loads(value) for key, value in self._file.attrs.items()
        }
        if any(dataset.id.get_create_plist().get_nfilters() for _, dataset in self._datasets()):
            import hdf5plugin  # noqa: F401  registers the zstd and blosc filters

    def array(self, name: str) -> Any:
        """The h5py dataset ``name``."""
        return self._file[name]

    def names(self) -> list[str]:
        """All datasets but the texts."""
        return sorted(name for name, dataset in self._datasets() if dataset.dtype.kind != "S")

    def texts(self, name: str) -> list[str]:
        """A fixed-length UTF-8 dataset as Python strings."""
        return [value.decode() for value in self._file[name][...].tolist()]

    def extents(self) -> dict[str, Extent]:
        """Byte offsets as HDF5 itself reports them."""
        found = ((name, dataset.id.get_offset()) for name, dataset in self._datasets())
        return {name: Extent("", offset) for name, offset in found if offset is not None}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _datasets(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found.append((name, item))

        self._file.visititems(visit)
        return found


def _create(sparse: "_Sparse") -> h5py.File:
    return h5py.File(sparse, "w", alignment_threshold=_ALIGN_ABOVE, alignment_interval=_ALIGN)


def _reserve(file: h5py.File, name: str, array: Array) -> int:
    """Allocate a contiguous dataset without writing to it; its byte offset in the file."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    space = h5py.h5s.create_simple(array.shape)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space, plist, links)
    offset: int = dataset.get_offset()
    return offset


def _write_texts(file: h5py.File, name: str, values: list[str]) -> None:
    encoded = [value.encode() for value in values]
    kind = h5py.string_dtype("utf-8", max([len(value) for value in encoded], default=1) or 1)
    file.create_dataset(name, data=np.array(encoded, dtype=kind), dtype=kind, track_times=False)


def _write_compressed(
    file: h5py.File, name: str, array: NDArray[Any], rows: int, compression: Compression
) -> None:
    import hdf5plugin

    filters: dict[str, Any] = {"zstd": hdf5plugin.Zstd(), "blosc": hdf5plugin.Blosc("lz4")}
    chunk = (min(rows, len(array)), *array.shape[1:])
    file.create_dataset(
        name, data=array, chunks=chunk, compression=filters[compression], track_times=False
    )


class _Sparse(io.RawIOBase):
    """A file in memory that keeps only what was written: reserved datasets cost nothing."""

    def __init__(self) -> None:
        self._written: list[tuple[int, bytes]] = []
        self._position = 0
        self.size = 0

    def pieces(self) -> list[Piece]:
        """What was written, later writes over earlier ones, without overlaps."""
        merged: dict[int, bytes] = {}
        for offset, data in self._written:
            for start in [
                s for s in merged if s < offset + len(data) and offset < s + len(merged[s])
            ]:
                old = merged.pop(start)
                if start < offset:
                    merged[start] = old[: offset - start]
                if start + len(old) > offset + len(data):
                    merged[offset + len(data)] = old[offset + len(data) - start :]
            merged[offset] = data
        return sorted(merged.items())

    def readable(self) -> bool:
        """HDF5 reads back its own metadata."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        """Keep ``data`` at the position."""
        kept = bytes(data)
        self._written.append((self._position, kept))
        self._position += len(kept)
        self.size = max(self.size, self._position)
        return len(kept)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from what was written, zeros elsewhere."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        start, stop = self._position, self._position + len(view)
        for offset, data in self._written:
            low, high = max(offset, start), min(offset + len(data), stop)
            if low < high:
                view[low - start : high - start] = data[low - offset : high - offset]
        self._position = min(stop, self.size)
        return max(0, self._position - start)
