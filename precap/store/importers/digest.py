"""The identity of an import: one sha256 over the names and contents of everything it reads."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 1 << 22


def digest(files: Iterable[Path]) -> str:
    """sha256, 64 hex digits, over (path below the common folder, size, sha256) of each file.

    Neither the place, nor the order, nor the times of the files matter; nor the name of a single
    file. In folders the names are data: they are ids.
    """
    paths = sorted({path.resolve() for path in files})
    root = Path(os.path.commonpath([path.parent for path in paths]))
    whole = hashlib.sha256()
    for path in paths:
        name = path.relative_to(root).as_posix() if len(paths) > 1 else ""
        whole.update(f"{name!r} {path.stat().st_size} {_content(path)}\n".encode())
    return whole.hexdigest()


def _content(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
