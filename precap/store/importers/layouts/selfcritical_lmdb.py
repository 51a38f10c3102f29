"""self-critical's LMDB folders: NAME_att.lmdb with .npz bytes per id, NAME_fc.lmdb with .npy."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from precap.errors import ConfigError, DataError, ImageError
from precap.store.importers import arrays
from precap.store.importers.contract import MAX_ARRAY, Facts, Scan
from precap.store.importers.keyed import Keyed, candidates, choose
from precap.store.importers.layouts.selfcritical import KEYS, members
from precap.types import Features

_MAGIC = b"\xde\xc0\xef\xbe"  # of an LMDB page 0, after its 16 bytes of header


class SelfCriticalLmdb:
    """Give NAME_att.lmdb or the folder with it. Needs the package lmdb.

    LMDB maps the file and trusts it: open only databases whose origin you know.
    """

    summary: ClassVar[str] = "self-critical LMDB: .npz or .npy bytes per id (needs `lmdb`)"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keyed = Keyed(choose(source, _holds, "LMDB folder"), _Database)

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one LMDB folder *_att, or one LMDB folder at all."""
        return len(candidates(source, _holds)) == 1

    def index(self, scan: Scan) -> Facts:
        """One walk over the keys; one image is read to learn the shapes."""
        return self._keyed.index(scan)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,) and boxes (n, 4) where there are such."""
        return self._keyed.read(at)


class _Database:
    def __init__(self, path: Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise ConfigError(
                f"{path} is an LMDB database, and the package that reads it is not installed. "
                f"Install it with `pip install lmdb`."
            ) from error
        self._path = path
        try:
            self._data = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"{path} cannot be opened: {error}. Check that it is whole.") from error

    def ids(self) -> Iterable[str]:
        with self._data.begin() as view:
            for key in view.cursor().iternext(values=False):
                yield key.decode("utf-8", "backslashreplace")

    def files(self) -> Sequence[Path]:
        return [self._path / "data.mdb"]

    def read(self, key: str) -> NDArray[Any]:
        with self._data.begin() as view:
            data = view.get(key.encode())
        if data is None:
            raise ImageError("missing-array", f"{self._path.name} has no {key}")
        if len(data) > MAX_ARRAY:
            raise ImageError("too-large", f"{key} has {len(data)} bytes")
        where = f"{self._path.name}[{key}]"
        if data[:2] == b"PK":
            return members(arrays.read_npz(io.BytesIO(data), *KEYS, where=where), where)
        return arrays.parse_npy(data, where)


def _holds(folder: Path) -> bool:
    """Whether a folder is an LMDB database; its companions _fc and _box are none of their own."""
    data = folder / "data.mdb"
    if folder.stem.endswith(("_fc", "_box", "_box_relative")) or not data.is_file():
        return False
    with data.open("rb") as file:
        return file.read(20)[16:] == _MAGIC


PLUGIN = SelfCriticalLmdb
