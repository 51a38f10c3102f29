"""Zarr v3 shards: a folder with one file per array, for any Zarr reader and any memory map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import MemoryStore

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


class ZarrShard:
    """Arrays digests, fields/NAME, offsets/NAME, scales/NAME; ids and absent are attributes."""

    suffix: ClassVar[str] = ".zarr"

    def build(self, content: Content, compression: Compression) -> Image:
        """The folder's files; uncompressed arrays are their own chunk, uncopied."""
        memory: dict[str, Any] = {}
        texts = {name: list(values) for name, values in content.texts.items()}
        group = zarr.create_group(MemoryStore(memory), attributes={**content.attributes, **texts})
        chunks: dict[str, Array] = {}
        for name, array in sorted(content.arrays.items()):
            if compression != "none" and name.startswith("fields/") and array.size:
                rows = packed_rows(content, name)
                _create(group, name, array, _packed(array, rows, compression))[...] = np.asarray(
                    array
                )
                continue
            _create(group, name, array, _plain(array))
            if array.size:
                chunks[_chunk(name, array.ndim)] = array
        files: dict[str, tuple[list[Piece], int]] = {
            key: ([(0, value.to_bytes())], len(value)) for key, value in memory.items()
        }
        files |= {key: (pieces_of(0, array), array.nbytes) for key, array in chunks.items()}
        extents = {key.partition("/c/")[0]: Extent(key, 0) for key in chunks}
        return Image(files, extents)

    def open(self, path: Path) -> "OpenZarr":
        """Open with zarr-python, read-only."""
        return OpenZarr(path)


PLUGIN = ZarrShard


class OpenZarr:
    """One Zarr shard, open for reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._group = zarr.open_group(str(path), mode="r")
        self.attributes: Mapping[str, Any] = self._group.attrs.asdict()

    def array(self, name: str) -> Any:
        """The zarr array ``name``."""
        return self._group[name]

    def names(self) -> list[str]:
        """All arrays."""
        return sorted(name for name, _ in self._arrays())

    def texts(self, name: str) -> list[str]:
        """A list of strings among the attributes."""
        return list(self.attributes[name])

    def extents(self) -> dict[str, Extent]:
        """Arrays that are stored as one raw chunk."""
        return {
            name: Extent(_chunk(name, array.ndim), 0)
            for name, array in self._arrays()
            if array.size and array.shards is None and not array.compressors
        }

    def close(self) -> None:
        """Nothing is held open."""

    def _arrays(self) -> list[tuple[str, Any]]:
        members = self._group.members(max_depth=None)
        return [(name, item) for name, item in members if isinstance(item, zarr.Array)]


def _create(group: Any, name: str, array: Array, layout: Mapping[str, Any]) -> Any:
    return group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        filters=None,
        config={"write_empty_chunks": True},  # an absent chunk would read as zeros
        **layout,
    )


def _plain(array: Array) -> dict[str, Any]:
    """One raw chunk."""
    return {"chunks": tuple(max(1, length) for length in array.shape), "compressors": None}


def _packed(array: Array, rows: int, compression: Compression) -> dict[str, Any]:
    """One file (Zarr calls it a shard) in which every ``rows`` rows are a compressed chunk."""
    codec = ZstdCodec() if compression == "zstd" else BloscCodec(cname="lz4", shuffle="shuffle")
    tail = tuple(array.shape[1:])
    whole = -(-array.shape[0] // rows) * rows
    return {"chunks": (rows, *tail), "shards": (whole, *tail), "compressors": codec}


def _chunk(name: str, ndim: int) -> str:
    """The file of an array's only chunk."""
    return "/".join([name, "c", *["0"] * ndim])
