"""Find identical files before planning, so that copies share a shard and are computed once."""

import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from precap.types import ImageRef

_TAIL = 4096  # bytes


def arranged(refs: Sequence[ImageRef], shard_size: int) -> list[tuple[list[str], int]]:
    """Ids to plan together, and the shard size at which no group of copies is cut.

    First the images without a copy, in their order; then those that are there twice, three times,
    ...: copies side by side, in shards of whole groups. Only more copies than a shard may hold are
    cut. Files are compared by size, then by their last 4 KiB, then by sha256, so few are read to
    the end.
    """
    by_count: dict[int, list[str]] = defaultdict(list)
    for group in _groups(refs):
        by_count[len(group)] += [ref.id for ref in group]
    return [
        (ids, shard_size // count * count or shard_size) for count, ids in sorted(by_count.items())
    ]


def _groups(refs: Sequence[ImageRef]) -> list[list[ImageRef]]:
    """``refs`` split into lists of identical files, in the order of each list's first."""
    place = {ref.id: number for number, ref in enumerate(refs)}
    groups: list[list[ImageRef]] = [list(refs)] if refs else []
    for key in (_size, _tail, _digest):
        groups = [
            part for group in groups for part in (_split(group, key) if len(group) > 1 else [group])
        ]
    return sorted(groups, key=lambda group: place[group[0].id])


def _split(group: Iterable[ImageRef], key: Callable[[Path], Hashable]) -> Iterable[list[ImageRef]]:
    parts: dict[Hashable, list[ImageRef]] = defaultdict(list)
    for ref in group:
        try:
            parts[key(ref.path)].append(ref)
        except OSError:
            parts[ref.id].append(ref)  # unreadable: reported when its turn comes
    return parts.values()


def _size(path: Path) -> Hashable:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a regular file")  # a pipe would never be read to its end
    return found.st_size


def _tail(path: Path) -> Hashable:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        return file.read()


def _digest(path: Path) -> Hashable:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
