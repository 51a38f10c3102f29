"""self-critical's arrangement, whatever holds it: NAME_att, NAME_fc, NAME_box, one array per id."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field, Role

#: Ending of the name of a companion -> field, role.
SIDES: dict[str, tuple[str, Role]] = {
    "_fc": ("global", "global"),
    "_box": ("boxes", "boxes"),
    "_box_relative": ("boxes_relative", "boxes"),
}


class Source(Protocol):
    """One kind of array for many images: a folder, an HDF5 file, a database."""

    def ids(self) -> Iterable[str]:
        """The ids, once each."""
        ...

    def read(self, key: str) -> NDArray[Any]:
        """The array of one id; ImageError when it is missing, damaged or too large."""
        ...

    def files(self) -> Sequence[Path]:
        """What is read."""
        ...


class Keyed:
    """The attention features ``att`` and their companions beside it, as one layout.

    A 3-d array is a grid (h, w, d) and is kept as (h * w, d); its h and w are in the spec.
    """

    def __init__(self, att: Path, opened: Callable[[Path], Source]) -> None:
        self._att, self._path = opened(att), att
        stem = att.stem if att.suffix else att.name
        self._sides: dict[str, Source] = {}
        if stem.endswith("_att"):
            for side in SIDES:
                path = att.with_name(f"{stem.removesuffix('_att')}{side}{att.suffix}")
                if path.exists():
                    self._sides[side] = opened(path)

    def index(self, scan: Scan) -> Facts:
        """One walk over the ids; one image is read to learn the shapes."""
        example: dict[str, NDArray[Any]] = {}
        for key in self._att.ids():
            scan.add(key, key, f"{self._path.name}/{key}")
            example = example or self._try(key)
        if not example:
            raise DataError(
                f"{self._path} holds no array that can be read. Check that it is whole."
            )
        return self._facts(example)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,) and boxes (n, 4) where there are such."""
        found = self._read(at)
        rows = found.pop("att")
        if rows.ndim not in (2, 3):
            raise ImageError("wrong-shape", f"attention features of shape {rows.shape}")
        return {_kind(rows): rows.reshape(-1, rows.shape[-1]), **found}

    def _read(self, key: str) -> dict[str, NDArray[Any]]:
        sides = {SIDES[side][0]: source.read(key) for side, source in self._sides.items()}
        return {"att": self._att.read(key), **sides}

    def _try(self, key: str) -> dict[str, NDArray[Any]]:
        try:
            found = self._read(key)
        except ImageError:
            return {}
        return found if found["att"].ndim in (2, 3) and found["att"].size else {}

    def _facts(self, example: dict[str, NDArray[Any]]) -> Facts:
        rows = example["att"]
        kind: Role = _kind(rows)
        shape = (int(np.prod(rows.shape[:2])) if rows.ndim == 3 else None, rows.shape[-1])
        fields = [Field(kind, kind, shape, stored_dtype(rows.dtype))]
        for name, role in (SIDES[side] for side in self._sides):
            array = example[name]
            side_shape = array.shape if role == "global" else (None, 4)
            fields.append(Field(name, role, side_shape, stored_dtype(array.dtype)))
        config: dict[str, Any] = {"grid": list(rows.shape[:2])} if rows.ndim == 3 else {}
        if boxes := {"boxes", "boxes_relative"} & set(example):
            config["boxes"] = "pixels" if "boxes" in boxes else "relative"
        files = [p for source in (self._att, *self._sides.values()) for p in source.files()]
        size = 2 * sum(array.nbytes for array in example.values())
        return Facts(tuple(fields), config, files, size)


def choose(source: Path, holds: Callable[[Path], bool], what: str) -> Path:
    """``source``, or the one thing in the folder ``source``, that ``holds`` attention features."""
    found = candidates(source, holds)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{source} should be or hold one {what} with an array of two or three axes per id; "
            f"found: {names}. Give the *_att itself."
        )
    return found[0]


def candidates(source: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """``source`` and what lies in it, as far as it ``holds`` attention features."""
    inside = sorted(source.iterdir()) if source.is_dir() else []
    return [path for path in (source, *inside) if holds(path)]


def _kind(rows: NDArray[Any]) -> Role:
    return "grid" if rows.ndim == 3 else "region"
