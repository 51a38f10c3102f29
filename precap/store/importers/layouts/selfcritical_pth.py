"""self-critical's .pth files: a dict id -> array, for NAME_att.pth, NAME_fc.pth, NAME_box.pth."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import arrays
from precap.store.importers.contract import MAX_ARRAY, Facts, Scan
from precap.store.importers.keyed import Keyed, candidates, choose
from precap.types import Features


class SelfCriticalPth:
    """Give NAME_att.pth or the folder with it. Only files of plain tensors are read.

    Memory-mapped: a file that torch wrote as a zip (since 1.6) is not loaded as a whole.
    """

    summary: ClassVar[str] = "self-critical .pth: a dict of tensors, one file per kind"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keyed = Keyed(choose(source, _holds, ".pth file"), _File)

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one file that torch wrote, companions aside; nothing is loaded."""
        return len(candidates(source, _holds)) == 1

    def index(self, scan: Scan) -> Facts:
        """One walk over the ids; one image is read to learn the shapes."""
        return self._keyed.index(scan)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,) and boxes (n, 4) where there are such."""
        return self._keyed.read(at)


class _File:
    def __init__(self, path: Path) -> None:
        import torch

        self._path = path
        try:
            mapped = zipfile.is_zipfile(path)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # torch raises many kinds for a file that is not plain
            raise DataError(
                f"{path} holds more than plain tensors, or is damaged: refused "
                f"({str(error).splitlines()[0][:200]})."
            ) from error
        if not isinstance(found, dict):
            raise DataError(f"{path} holds no dict of tensors. Check the file.")
        self._rows = {str(key): value for key, value in found.items()}

    def ids(self) -> Iterable[str]:
        return iter(self._rows)

    def files(self) -> Sequence[Path]:
        return [self._path]

    def read(self, key: str) -> NDArray[Any]:
        import torch

        value = self._rows.get(key)
        if value is None:
            raise ImageError("missing-array", f"{self._path.name} has no {key}")
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise ImageError("not-an-array", f"{self._path.name}[{key}]")
        if value.numel() * value.element_size() > MAX_ARRAY:
            raise ImageError("too-large", f"{key} has the shape {tuple(value.shape)}")
        plain = value.float() if value.dtype == torch.bfloat16 else value
        return np.array(plain.detach().numpy())


def _holds(path: Path) -> bool:
    """Whether torch wrote the file; companions _fc and _box are none of their own."""
    if path.stem.endswith(("_fc", "_box", "_box_relative")) or not path.is_file():
        return False
    try:
        return any(name.endswith("/data.pkl") for name in arrays.names_in(path))
    except ImageError:
        return False


PLUGIN = SelfCriticalPth
