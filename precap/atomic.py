"""A file is absent or complete: write beside it, fsync, rename, fsync the folder."""

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precap.errors import ResourceError

_EXHAUSTED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the disk reported an input/output error",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOMEM: "the machine has no memory left",
}
_DENIED = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the file system is read-only",
}


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an operating-system failure on ``path`` into a ResourceError with a next step."""
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        cause, cure = _EXHAUSTED.get(error.errno or 0), "free the resource"
        if denied := _DENIED.get(error.errno or 0):
            at = error.filename if isinstance(error.filename, str) else path
            cause = denied if str(at) == str(path) else f"{denied} ({at})"
            cure = "change that, or choose another place,"
        if cause is None:
            raise
        message = (
            f"Could not {doing} {path}: {cause}. Everything committed before is safe; {cure} and "
            f"repeat the command."
        )
        raise ResourceError(message) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, durably.

    The temporary may be created as a file or as a folder. On failure it is removed and
    ``path`` is untouched. After a crash only a ``*.partial`` name can remain.
    """
    partial = path.with_name(
        f".{path.name}.{socket.gethostname()}-{os.getpid()}-{_token()}.partial"
    )
    try:
        with explained(path, "write"):
            yield partial
            sync_tree(partial)
            partial.replace(path)
            sync(path.parent)
    except BaseException:
        _discard(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, absent or complete."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, absent or complete."""
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """fsync a file, or every file and folder below a folder, deepest first."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            sync_tree(child)
    sync(path)


def _token() -> str:
    return uuid.uuid4().hex[:8]


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
