"""Where the images of each shard lie, in one file that workers read shard by shard.

A task on a cluster is a shard number and a few hundred bytes, whatever the images are called and
however many there are: the scheduler never holds a list of images.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from precap.atomic import explained
from precap.errors import ResourceError
from precap.types import ImageRef


@contextmanager
def written(
    path: Path, shards: Iterable[tuple[int, Sequence[ImageRef]]], count: int
) -> Iterator[None]:
    """The file at ``path`` while the block runs. shards: numbers below ``count``, their images.

    One JSON line per shard, then ``count`` int64 line offsets (-1: none), then where these begin.
    """
    offsets = array("q", [-1]) * count
    try:
        with explained(path, "write"), path.open("wb") as file:
            for number, refs in shards:
                offsets[number] = file.tell()
                rows = [[ref.id, str(ref.path), ref.sha256] for ref in refs]
                file.write(json.dumps(rows, separators=(",", ":")).encode() + b"\n")
            end = file.tell()
            file.write(offsets.tobytes() + array("q", [end]).tobytes())
        yield
    finally:
        path.unlink(missing_ok=True)


def read(path: Path, shard: int) -> tuple[ImageRef, ...]:
    """The images of one shard, in plan order; ResourceError where the file cannot be seen."""
    try:
        with path.open("rb") as file:
            file.seek(-8, 2)
            end = _number(file.read(8))
            file.seek(end + 8 * shard)
            file.seek(_number(file.read(8)))
            rows = json.loads(file.readline())
    except FileNotFoundError as error:
        raise ResourceError(
            f"A worker does not see {path}. The store and the images must lie on a file system "
            f"that all machines share, under the same path; or the run that this task belongs to "
            f"has ended."
        ) from error
    return tuple(ImageRef(image, Path(file), digest) for image, file, digest in rows)


def _number(data: bytes) -> int:
    return array("q", data)[0]
