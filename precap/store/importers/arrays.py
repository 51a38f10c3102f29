"""Reads .npy and .npz without pickle and without trusting a single size in them."""

import io
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import pickles
from precap.store.importers.contract import MAX_ARRAY, reading

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
#: What zipfile and zlib raise for bytes that are no archive, or were one.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    ArithmeticError,
)
#: What numpy raises for a header that is none.
_NO_HEADER = (
    ValueError,
    LookupError,
    SyntaxError,
    TypeError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


def read_npy(path: Path) -> NDArray[Any]:
    """The array of one .npy file; ImageError for anything that is no array of numbers."""
    with reading(str(path), (OSError,)):
        if path.stat().st_size > MAX_ARRAY:
            raise ImageError("too-large", f"{path.name} is larger than {MAX_ARRAY >> 20} MB")
        data = path.read_bytes()
    return parse_npy(data, path.name)


def parse_npy(data: bytes, where: str) -> NDArray[Any]:
    """The array that the bytes of a .npy file hold."""
    found: NDArray[Any] = _decode(io.BytesIO(data), where, allow_pickle=False)
    return found


def names_in(path: Path) -> list[str]:
    """The arrays in an .npz file; ImageError when it is none."""
    with reading(str(path), _BROKEN), zipfile.ZipFile(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist()]


def read_npz(
    source: Path | IO[bytes], *wanted: str, allow_pickle: bool = False, where: str = ""
) -> dict[str, Any]:
    """Those of the ``wanted`` arrays that the file has.

    allow_pickle: an array of objects is read by the restricted unpickler instead of refused.
    where: what to call ``source`` when it is no path.
    """
    found: dict[str, Any] = {}
    where = where or Path(str(source)).name
    with reading(where, _BROKEN), zipfile.ZipFile(source) as archive:
        have = set(archive.namelist())
        for name in wanted:
            if f"{name}.npy" in have:
                data = _member(archive, f"{name}.npy")
                found[name] = _decode(data, f"{where}[{name}]", allow_pickle)
    return found


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """The bytes of a member, never more than it declares, and never more than MAX_ARRAY."""
    declared = archive.getinfo(name).file_size
    if declared > MAX_ARRAY:
        raise ImageError("too-large", f"{name} declares {declared} bytes")
    with archive.open(name) as member:
        data = member.read(declared + 1)
    if len(data) != declared:
        raise ImageError("damaged", f"{name} declares {declared} bytes, has others")
    return io.BytesIO(data)


def _decode(file: IO[bytes], where: str, allow_pickle: bool) -> Any:
    shape, fortran, dtype = _header(file, where)
    if dtype.hasobject:
        return _objects(file, where, allow_pickle)
    if dtype.kind not in "fiub":
        raise ImageError("not-numbers", f"{where} holds {dtype}")
    count = 1
    for side in shape:  # exact integers: an absurd shape cannot overflow
        count *= side
    data = file.read()
    if count < 0 or count * dtype.itemsize != len(data):
        reason = "too-large" if count * dtype.itemsize > MAX_ARRAY else "truncated"
        raise ImageError(reason, f"{where}: shape {shape} of {dtype}, but {len(data)} bytes"[:200])
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 2 wrote shapes as (36L, 2048L): no matter
            version = np.lib.format.read_magic(file)
            found: tuple[tuple[int, ...], bool, np.dtype[Any]] = _HEADERS[version](file)
            return found
    except _NO_HEADER as error:
        raise ImageError("damaged", f"{where} has no array header: {error}"[:200]) from error


def _objects(file: IO[bytes], where: str, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise ImageError("pickled", f"{where} is a pickle where numbers belong: never opened")
    try:
        return pickles.plain(pickles.load(file, where))
    except DataError as error:
        raise ImageError("pickled", str(error)[:300]) from error
