"""Durable files: a commit opens, writes, fsyncs and renames only here and in ``atomic``."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from precap.atomic import explained, replacing, sync
from precap.errors import ResourceError
from precap.store.backends.contract import Piece

_SMALL = 65536
_BLOCK = 1 << 24


def digest(data: Any) -> str:
    """128-bit digest of some bytes (XXH3), 32 hex digits: finds accidents, not forgeries."""
    return xxhash.xxh3_128_hexdigest(data)


def write_new(path: Path, pieces: Sequence[Piece], size: int) -> str:
    """Write ``pieces`` (zeros between them) to the new file ``path``; the digest of its bytes."""
    state = xxhash.xxh3_128()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for part in _blocks(pieces, size):
            state.update(part)
            write_all(handle, part)
    finally:
        os.close(handle)
    return state.hexdigest()


def write_all(handle: int, data: Any) -> None:
    """Write all of ``data``: a short write is continued."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(handle, view) :]


def publish(path: Path, files: Mapping[str, tuple[Sequence[Piece], int]]) -> tuple[str, int]:
    """Write a shard's files, fsync them, rename them to ``path``; its digest and its bytes.

    A leftover of an earlier, uncommitted attempt at ``path`` is replaced.
    """
    with replacing(path) as partial:
        if set(files) == {""}:
            pieces, size = files[""]
            found = write_new(partial, pieces, size)
        else:
            found = _write_folder(partial, files)
        if path.is_dir():
            discard(path)
    return found, sum(size for _, size in files.values())


def digest_of(path: Path) -> tuple[str, int]:
    """Digest and bytes of a file or folder (names, sizes, contents), as ``publish`` gives."""
    with explained(path, "read"):
        return _digest_of(path)


def _digest_of(path: Path) -> tuple[str, int]:
    if not path.is_dir():
        return _digest_file(path), path.stat().st_size
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())
    sizes = [(path / name).stat().st_size for name in names]
    parts = [
        (name, size, _digest_file(path / name)) for name, size in zip(names, sizes, strict=True)
    ]
    return _combine(parts), sum(sizes)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if not p.is_dir())


def create_exclusively(path: Path, data: bytes, *, durable: bool = True) -> bool:
    """Create ``path`` with ``data``, absent or complete; False when it exists already.

    A hard link is the one creation that is both exclusive and complete on every file system.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    with explained(path, "create"):
        try:
            write_new(partial, [(0, data)], len(data))
            if durable:
                sync(partial)
            os.link(partial, path)
            if durable:
                sync(path.parent)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
    return True


def discard(path: Path) -> None:
    """Remove a file or folder; a folder is renamed first, so that no half of it is ever seen.

    ResourceError that says where the rest of a folder lies when it could not be removed whole.
    """
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
        path.replace(doomed)
        try:
            shutil.rmtree(doomed)
        except OSError as error:
            if doomed.exists():
                raise ResourceError(
                    f"Could not remove all of {path}: {error.filename}: {error.strerror}. What is "
                    f"left lies in {doomed}; make it writable and delete that folder."
                ) from error
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create the folder ``path`` durably; its parent must exist."""
    with explained(path, "create"):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def _blocks(pieces: Sequence[Piece], size: int) -> Iterable[Any]:
    """The bytes of a file in order: small pieces joined, large ones as they are."""
    small = bytearray()
    position = 0
    for offset, data in [*pieces, (size, b"")]:
        view = memoryview(data).cast("B")
        small += bytes(offset - position)
        position = offset + len(view)
        if len(view) < _SMALL:
            small += view
            continue
        yield bytes(small)
        yield view
        small.clear()
    yield bytes(small)


def _write_folder(folder: Path, files: Mapping[str, tuple[Sequence[Piece], int]]) -> str:
    parts = []
    for name in sorted(files):
        pieces, size = files[name]
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        parts.append((name, size, write_new(target, pieces, size)))
    return _combine(parts)


def _combine(parts: Sequence[tuple[str, int, str]]) -> str:
    return digest("\n".join(f"{name} {size} {found}" for name, size, found in parts).encode())


def _digest_file(path: Path) -> str:
    state = xxhash.xxh3_128()
    update: Callable[[bytes], None] = state.update
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            update(block)
    return state.hexdigest()
