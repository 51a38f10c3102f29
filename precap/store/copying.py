"""Rows from memory maps to their places in a batch: copied once each, at the speed of memory."""

import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Setter = Callable[[NDArray[Any], Any, Any], None]

_LINE = 64  # bytes of a cache line


def buffer(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array that begins at a cache line, which ``numpy.empty`` does not do."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def setter(target: NDArray[Any]) -> Setter:
    """How to copy a row to a place in ``target``: setter(target)(array, key, row)."""
    near = 0 < target.ctypes.data % _LINE < _NEAR
    return _set_apart if near else cast(Setter, operator.setitem)


#: On AMD Zen 3 `rep movsb`, which memcpy is there, runs at a fifth of its speed when the
#: destination lies 1 to 31 bytes further into its page than the source lies into its own. Rows of
#: a memory map often begin at a page, and what ``numpy.empty`` gives begins 16 bytes into one.
_PAGE, _NEAR = 4096, 32


def _set_apart(array: NDArray[Any], key: Any, row: Any) -> None:
    place, row = np.asarray(array[key]), np.asarray(row)
    if place.ndim and 0 < (place.ctypes.data - row.ctypes.data) % _PAGE < _NEAR:
        words = np.dtype(f"u{row.dtype.itemsize}")
        np.bitwise_or(row.view(words), 0, out=place.view(words))  # a loop of its own, no memcpy
    else:
        array[key] = row
