"""Find identical files before planning, so that copies share a shard and are computed once."""

import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from precap.types import ImageRef

_TAIL = 4096  # bytes


def arranged(refs: Sequence[ImageRef], shard_size: int) -> list[str]:
    """The ids of ``refs`` in their order, except that copies of one file follow its first one.

    A group of copies that would straddle two shards moves to the start of the next one. Files are
    compared by size, then by their last 4 KiB, then by sha256, so few are read to the end.
    """
    groups = [[ref.id for ref in group] for group in _groups(refs)]
    if len(groups) == len(refs):
        return [ref.id for ref in refs]
    out: list[str] = []
    waiting: list[list[str]] = []
    for group in groups:
        if len(group) > 1 and len(out) % shard_size + len(group) > shard_size:
            waiting.append(group)
        else:
            out += group
        while waiting and len(out) % shard_size == 0:
            out += waiting.pop(0)
    return [*out, *(image for group in waiting for image in group)]


def _groups(refs: Sequence[ImageRef]) -> list[list[ImageRef]]:
    """``refs`` split into lists of identical files, in the order of each list's first."""
    place = {ref.id: number for number, ref in enumerate(refs)}
    groups: list[list[ImageRef]] = [list(refs)]
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
