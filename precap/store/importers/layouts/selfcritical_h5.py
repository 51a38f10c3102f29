"""self-critical's HDF5 dumps: NAME_att.h5, NAME_fc.h5, NAME_box.h5, each with one array per id."""

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from precap.errors import DataError, ImageError
from precap.store.importers import h5, idkeys
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field

_SIDES = {"_fc": ("global", "global"), "_box": ("boxes", "boxes")}


class SelfCriticalH5:
    """Give NAME_att.h5 or the folder with it; NAME_fc.h5 and NAME_box.h5 beside it are read too."""

    summary: ClassVar[str] = "self-critical HDF5: one file per kind, one array per id"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._source = _attention(source)
        stem, suffix = self._source.stem, self._source.suffix
        paths = {"att": self._source}
        if stem.endswith("_att"):
            for side, (field, _) in _SIDES.items():
                path = self._source.with_name(f"{stem.removesuffix('_att')}{side}{suffix}")
                paths |= {field: path} if h5.is_file(path) else {}
        self._paths = paths
        self._files = {field: h5.open_file(path) for field, path in paths.items()}
        self._kind = "region"

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one HDF5 file with an array of two or three axes per plain id."""
        return len(_candidates(source)) == 1

    def index(self, scan: Scan) -> Facts:
        """One walk over the names; one image is looked at to learn the shapes."""
        example: dict[str, h5py.Dataset] = {}
        for name in self._files["att"]:
            scan.add(name, name, f"{self._source.name}/{name}")
            example = example or self._look(name)
        if not example:
            raise DataError(f"{self._source} holds no array that can be read. Check the file.")
        att = example["att"]
        grid = att.ndim == 3
        self._kind = "grid" if grid else "region"
        shape = (int(np.prod(att.shape[:2])) if grid else None, att.shape[-1])
        fields = [Field(self._kind, self._kind, shape, stored_dtype(att.dtype))]  # type: ignore[arg-type]
        for field, role in _SIDES.values():
            if field in example:
                item = example[field]
                side = item.shape if role == "global" else (None, 4)
                fields.append(Field(field, role, side, stored_dtype(item.dtype)))  # type: ignore[arg-type]
        config: dict[str, Any] = {"grid": list(att.shape[:2])} if grid else {}
        config |= {"boxes": "pixels"} if "boxes" in example else {}
        size = idkeys.row_bytes(example) * 2
        return Facts(tuple(fields), config, [*self._paths.values()], size)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,) and boxes (n, 4) where there are such."""
        found = {field: h5.read(file, at) for field, file in self._files.items()}
        rows = found.pop("att")
        if rows.ndim not in (2, 3):
            raise ImageError("wrong-shape", f"attention features of shape {rows.shape}")
        return {self._kind: rows.reshape(-1, rows.shape[-1]), **found}

    def _look(self, name: str) -> dict[str, h5py.Dataset]:
        try:
            found = {field: h5.dataset(file, name) for field, file in self._files.items()}
        except ImageError:
            return {}
        return found if found["att"].ndim in (2, 3) else {}


def _attention(source: Path) -> Path:
    found = _candidates(source)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(
            f"{source} should be or hold one HDF5 file with an array per id; found: {names}. "
            f"Give the *_att.h5 file itself."
        )
    return found[0]


def _candidates(source: Path) -> list[Path]:
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    return [p for p in files if h5.is_file(p) and _holds(p)]


def _holds(path: Path) -> bool:
    """Whether the first array has two or more axes and its name no suffix of another layout."""
    with h5.open_file(path) as file:
        name = next(iter(file), None)
        if name is None or name.endswith(tuple(f"_{s}" for s in idkeys.SUFFIXES)):
            return False
        item = file.get(name)
        return "image_ids" not in file and isinstance(item, h5py.Dataset) and item.ndim in (2, 3)


PLUGIN = SelfCriticalH5
