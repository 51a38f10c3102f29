"""Reads pickles of plain values, numpy arrays and torch tensors; every other callable is refused.

A pickle is a program. This unpickler knows only the few names that such files really use, each
replaced by a function here that checks sizes before it allocates. Nothing is imported by name.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError

#: Kinds of numpy dtypes that a pickle may name: numbers and text, never objects.
_KINDS = "biufSU"


class Attributes:
    """Stands for an object of another program: its attributes, none of its code."""


def load(file: IO[bytes], where: str, stands: Mapping[str, type[Attributes]] | None = None) -> Any:
    """The value of a pickle; DataError for one that needs more than plain data, or is damaged.

    stands: class names of other programs, of whatever module, and what stands for them here.
    """
    try:
        return _Restricted(file, stands or {}).load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except MemoryError as error:
        raise DataError(f"{where} asks for more memory than there is: refused.") from error
    except Exception as error:  # unpickling hostile bytes can raise anything
        raise DataError(
            f"{where} is no pickle that can be read ({type(error).__name__}: {error}). It may be "
            f"cut short: check its size against its origin."
        ) from error


class _Restricted(pickle.Unpickler):
    def __init__(self, file: IO[bytes], stands: Mapping[str, type[Attributes]]) -> None:
        super().__init__(file)
        self.stands = stands

    def find_class(self, module: str, name: str) -> Any:
        if name in self.stands:
            return self.stands[name]
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"the pickle wants to call {module}.{name}, which no feature file needs: refused. "
                f"Do not open this file with other tools either."
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("the pickle refers to another file: refused.")


class _Array:
    """Stands for numpy.ndarray while a pickle is read; ``__setstate__`` makes the real array."""

    array: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        dtype = dtype.dtype
        if dtype.kind == "O" and isinstance(data, list) and _bytes(shape, 1) == len(data) == 1:
            self.array = np.empty(shape, object)  # one Python value, as np.savez(info={...}) makes
            self.array[...] = data[0]
            return
        _plain(dtype)
        if not isinstance(data, bytes) or _bytes(shape, dtype.itemsize) != len(data):
            raise DataError("an array whose bytes do not match its shape: refused.")
        self.array = _shaped(data, dtype, shape, bool(fortran))


class _Dtype:
    """Stands for numpy.dtype while a pickle is read."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS or dtype.itemsize > 1 << 16:
        raise DataError(f"an array of {dtype}: refused.")
    return dtype


def _bytes(shape: Any, item: int) -> int:
    """Bytes of an array, in exact integers: no overflow for absurd shapes."""
    total = item
    for side in shape:
        if type(side) is not int or side < 0:
            raise DataError(f"an array of shape {shape}: refused.")
        total *= side
    return total


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    _plain(dtype.dtype)
    if len(data) != dtype.dtype.itemsize:
        raise DataError("a number whose bytes do not match its type: refused.")
    return np.frombuffer(data, dtype.dtype)[0]


def _encode(text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise DataError(f"bytes written as {codec!r}: refused.")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """How old protocols write b""; with a length it would be a way to ask for memory."""
    if arguments:
        raise DataError("bytes made from a number: refused.")
    return b""


def _table(*_: Any) -> dict[Any, Any]:
    """A defaultdict without what makes its defaults; its items follow."""
    return {}


def _tally(items: Any = ()) -> dict[Any, Any]:
    """A Counter as the dictionary it is."""
    if not isinstance(items, dict):
        raise DataError("a Counter of something else than a dictionary: refused.")
    return items


def _storage(data: bytes) -> Any:
    """A torch storage saved inside a pickle; tensors of a GPU land on the CPU."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> NDArray[Any]:
    """The rows of a contiguous tensor as a numpy array that shares the storage."""
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise DataError("a tensor without a storage: refused.")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
    count = _bytes(size, 1)
    packed = [int(np.prod(size[i + 1 :], dtype=object)) for i in range(len(size))]
    if count and list(stride) != packed:
        raise DataError("a tensor that is not contiguous: refused.")
    if type(offset) is not int or offset < 0 or offset + count > flat.numel():
        raise DataError("a tensor larger than its storage: refused.")
    found = flat[offset : offset + count].reshape(tuple(size))
    if found.dtype == torch.bfloat16:
        found = found.float()
    array: NDArray[Any] = found.numpy()
    return array


def _frombuffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> NDArray[Any]:
    """How pickle protocol 5 writes an array."""
    raw = bytes(data)
    _plain(dtype.dtype)
    if _bytes(shape, dtype.dtype.itemsize) != len(raw) or order not in ("C", "F"):
        raise DataError("an array whose bytes do not match its shape: refused.")
    return _shaped(raw, dtype.dtype, shape, order == "F")


def _shaped(data: bytes, dtype: np.dtype[Any], shape: Any, fortran: bool) -> NDArray[Any]:
    found: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return found


def plain(value: Any) -> Any:
    """The numpy array or dtype that a stand-in of this module carries; other values unchanged."""
    return value.array if isinstance(value, _Array) else value


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _table,
    ("collections", "Counter"): _tally,
    ("builtins", "float"): Attributes,  # what makes the defaults of a defaultdict; never called
    ("builtins", "int"): Attributes,
    ("__builtin__", "float"): Attributes,
    ("__builtin__", "int"): Attributes,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = _reconstruct
    _ALLOWED[_module, "scalar"] = _scalar
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _frombuffer
