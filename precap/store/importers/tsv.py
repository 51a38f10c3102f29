"""Text rows of base64 arrays: bounded line reading, size checks without decoding, decoding."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers.contract import MAX_LINE

_COUNT = re.compile(rb"[0-9]{1,15}")
_TEXT = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
SNIFFED = 64 << 10


class At(NamedTuple):
    """A row of a text source: which of its files, from which byte, how many bytes."""

    file: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line and where it is. ``cells`` is empty when the line is longer than MAX_LINE."""

    at: At
    number: int
    cells: list[bytes]
    ended: bool

    def where(self, files: Sequence[Path]) -> str:
        """File name and line number, for people."""
        return f"{files[self.at.file].name}:{self.number}"


def files_of(source: Path, sniff: Any) -> list[Path]:
    """``source`` itself, or the files of the folder ``source`` whose content ``sniff`` accepts."""
    if source.is_dir():
        return [p for p in sorted(source.iterdir()) if p.is_file() and sniff(p)]
    return [source] if source.is_file() else []


def head(path: Path) -> list[list[bytes]]:
    """The cells of the first few lines of a file, from its first 64 KiB (the last may be cut)."""
    with path.open("rb") as file:
        text = file.read(SNIFFED)
    return [line.split(b"\t") for line in text.splitlines()[:4]]


def lines(files: Sequence[Path]) -> Iterator[Line]:
    """Every non-empty line of the files, one at a time; at most MAX_LINE bytes are held."""
    for index, path in enumerate(files):
        with path.open("rb") as file:
            start, number = 0, 0
            while text := file.readline(MAX_LINE):
                number += 1
                length, ended = len(text), text.endswith(b"\n")
                while not ended and len(text) == MAX_LINE:  # too long: skip to its end
                    rest = file.readline(MAX_LINE)
                    length, ended = length + len(rest), rest.endswith(b"\n")
                    if len(rest) < MAX_LINE:
                        break
                cells = split(text) if length == len(text) else []
                if text.strip():
                    yield Line(At(index, start, length), number, cells, ended)
                start += length


def split(text: bytes) -> list[bytes]:
    """The cells of one line; a ``b'...'`` that a Python 3 rewriter left around one is removed."""
    cells = text.rstrip(b"\r\n").split(b"\t")
    return [c[2:-1] if c[:2] in (b"b'", b'b"') and c[-1:] in (b"'", b'"') else c for c in cells]


def row(files: Sequence[Path], at: At) -> list[bytes]:
    """The cells of the row at ``at``."""
    with files[at.file].open("rb") as file:
        file.seek(at.start)
        text = file.read(at.length)
    if len(text) != at.length:
        raise ImageError("truncated", f"{files[at.file].name} became shorter than it was")
    return split(text)


def key_of(cell: bytes) -> str:
    """An image key as text; bytes that are no UTF-8 stay visible and make the id unusable."""
    return cell[:1000].decode("utf-8", "backslashreplace").strip()


def count(cell: bytes, name: str) -> int:
    """A non-negative decimal number of at most 15 digits."""
    if not _COUNT.fullmatch(cell.strip()):
        raise ImageError("not-a-number", f"{name} is {cell[:40].decode('latin-1')!a}")
    return int(cell)


def size_of(text: bytes | str) -> int:
    """How many bytes a base64 text decodes to, without decoding it; ImageError when torn."""
    if len(text) % 4:
        raise ImageError("damaged", f"a base64 text of {len(text)} characters is torn")
    pad = "=" if isinstance(text, str) else b"="
    return len(text) // 4 * 3 - text[-2:].count(pad)  # type: ignore[arg-type]


def rows_of(text: bytes | str, rows: int, dtype: str, what: str) -> int:
    """How many numbers each of ``rows`` rows has, from the length of the text alone."""
    size, item = size_of(text), np.dtype(dtype).itemsize
    if rows == 0 and size == 0:
        return 0
    if rows == 0 or size == 0 or size % (rows * item):
        raise ImageError("wrong-size", f"{what}: {size} bytes do not make {rows} rows of {dtype}")
    return size // (rows * item)


def unpack(text: bytes | str) -> bytes:
    """The bytes of a base64 text; ImageError for anything that is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("damaged", f"not base64: {error}") from error


def array(text: bytes | str, dtype: str, rows: int, what: str) -> NDArray[Any]:
    """(rows, d) numbers from base64 text, little endian; (rows,) when ``d`` would be 1."""
    width = rows_of(text, rows, dtype, what)
    flat = np.frombuffer(unpack(text), np.dtype(dtype).newbyteorder("<"))
    return flat if width == 1 else flat.reshape(rows, width)


def parse(cell: bytes, what: str) -> Any:
    """A JSON cell; ImageError for text that is none, or too deep to be meant."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ImageError("damaged", f"{what}: {type(error).__name__}: {error}"[:200]) from error


def checked(files: list[Path], source: Path, layout: str) -> list[Path]:
    """``files``, unless there are none."""
    if not files:
        raise DataError(
            f"{source} holds no file of the layout {layout!r}. Check the path, or name another "
            f"layout with --format."
        )
    return files
