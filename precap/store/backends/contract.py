"""What a storage backend is: how one file format holds the rows of one shard."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Compression = Literal["none", "zstd", "blosc"]

#: A part of a file: byte offset and the bytes that stand there (bytes or a C-contiguous array).
Piece = tuple[int, Any]


@dataclass(frozen=True)
class Stack:
    """Arrays that stand one after another in a file, as one array of ``shape``; never joined."""

    parts: Sequence[NDArray[Any]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        flat = [part.reshape(-1) for part in self.parts]
        return np.concatenate([np.empty(0, self.dtype), *flat]).reshape(self.shape)


#: An array as a backend is given it.
Array = NDArray[Any] | Stack


def pieces_of(offset: int, array: Array) -> list["Piece"]:
    """The pieces of a file that hold ``array`` from ``offset`` on, uncopied."""
    found: list[Piece] = []
    for part in array.parts if isinstance(array, Stack) else [array]:
        if part.nbytes:
            found.append((offset, part))
        offset += part.nbytes
    return found


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an uncompressed array lies: ``offset`` bytes into ``file`` of the shard, C order.

    ``file`` is relative to the shard, "" for a backend whose shard is a single file.
    """

    file: str
    offset: int


@dataclass(frozen=True)
class Content:
    """Everything one shard holds, as plain arrays and texts, before any file format.

    arrays: "fields/NAME", "offsets/NAME", "scales/NAME", "digests"; texts: "ids", "absent";
    attributes: plain JSON values.
    """

    arrays: Mapping[str, Array]
    texts: Mapping[str, Sequence[str]]
    attributes: Mapping[str, Any]


def packed_rows(content: Content, name: str) -> int:
    """Rows per compressed chunk: one image of a fixed field, 16 rows of a ragged one."""
    return 16 if name.replace("fields/", "offsets/") in content.arrays else 1


@dataclass(frozen=True)
class Image:
    """A shard built in memory: its files, as pieces to write, and where its arrays will lie.

    files: relative name ("" for a single-file shard) -> (pieces in file order, total bytes).
    extents: arrays that a memory map can read; compressed and empty ones are left out.
    """

    files: Mapping[str, tuple[Sequence[Piece], int]]
    extents: Mapping[str, Extent] = field(default_factory=dict)


class OpenShard(Protocol):
    """A shard opened with its format's own library; arrays are sliced as ``array(name)[a:b]``."""

    attributes: Mapping[str, Any]

    def array(self, name: str) -> Any:
        """The array called ``name`` in ``Content.arrays``; KeyError when there is none."""
        ...

    def names(self) -> list[str]:
        """The names of all arrays, sorted."""
        ...

    def texts(self, name: str) -> list[str]:
        """The texts called ``name`` in ``Content.texts``."""
        ...

    def extents(self) -> dict[str, Extent]:
        """Where the uncompressed arrays lie, found by the format's library, not by precap."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class Shard(Protocol):
    """A file format for shards. One file, one class, named by ``PLUGIN``; it keeps no state.

    ``build`` touches no disk, gives the same bytes for the same content, and may not copy the
    arrays when ``compression`` is "none": their pieces refer to the caller's memory.
    """

    suffix: ClassVar[str]

    def build(self, content: Content, compression: Compression) -> Image:
        """The files of a shard with this content."""
        ...

    def open(self, path: Path) -> OpenShard:
        """Open the shard at ``path`` for reading; OSError or ValueError when it is not one."""
        ...
