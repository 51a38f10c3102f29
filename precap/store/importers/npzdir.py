"""Folders with one .npz per image: listing, and learning the shapes from the first sound one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import arrays
from precap.store.importers.contract import Scan, stored_dtype
from precap.types import Field

Read = Callable[[str], Mapping[str, NDArray[Any]]]


def has(source: Path, *wanted: str) -> bool:
    """Whether one of the first .npz files of a folder has all the ``wanted`` arrays."""
    if not source.is_dir():
        return False
    for count, path in enumerate(source.glob("*.npz")):
        try:
            if set(wanted) <= set(arrays.names_in(path)):
                return True
        except ImageError:
            pass
        if count == 8:
            break
    return False


def index(folder: Path, scan: Scan, read: Read) -> tuple[list[Path], dict[str, NDArray[Any]]]:
    """Report every .npz; their paths, and the arrays of the first that ``read`` can read."""
    paths = [p for p in sorted(folder.iterdir()) if p.suffix == ".npz" and p.is_file()]
    example: dict[str, NDArray[Any]] = {}
    why = "it is empty"
    for path in paths:
        scan.add(path.name.removesuffix(".npz"), path.name, path.name)
        if not example:
            try:
                example = dict(read(path.name))
            except ImageError as error:
                why = str(error)
    if not example:
        raise DataError(f"{folder} holds no .npz that can be read ({why}). Check the folder.")
    return paths, example


def ragged(name: str, role: Any, array: NDArray[Any]) -> Field:
    """The field of an array with one row per box, in its own dtype if a store has it."""
    return Field(name, role, (None, *array.shape[1:]), stored_dtype(array.dtype))


def whole(value: NDArray[Any], what: str) -> int:
    """The one integer in an array of shape () or (1,)."""
    if value.size != 1 or value.dtype.kind not in "iu":
        raise ImageError("not-a-number", f"{what} is {value.dtype}{list(value.shape)}")
    return int(value.reshape(()))
