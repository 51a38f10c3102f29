"""self-critical's folders: NAME_att/ID.npz, NAME_fc/ID.npy, NAME_box/ID.npy, NAME_box_relative."""

from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import arrays
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field, Role

#: The attention features are under "feat"; one release of cocobu has some under "z".
KEYS = ("feat", "z")
_SIDES = {
    "_fc": ("global", "global"),
    "_box": ("boxes", "boxes"),
    "_box_relative": ("boxes_relative", "boxes"),
}


class SelfCritical:
    """Give the folder that holds NAME_att, or NAME_att itself; companions beside it are read too.

    A 3-d array is a grid (h, w, d) and is kept as (h * w, d); its h and w are in the spec.
    """

    summary: ClassVar[str] = "self-critical folders: *_att/*.npz with *_fc, *_box, *_box_relative"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._att = _attention(source)
        stem = self._att.name.removesuffix("_att")
        beside = {s: self._att.with_name(f"{stem}{s}") for s in _SIDES}
        paired = stem != self._att.name
        self._sides = {s: p for s, p in beside.items() if paired and p.is_dir()}
        self._files: list[Path] = []

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one folder of .npz with "feat" or "z"."""
        return source.is_dir() and len(_candidates(source)) == 1

    def index(self, scan: Scan) -> Facts:
        """List the folder; one image is opened to learn the shapes."""
        example: dict[str, NDArray[Any]] | None = None
        for path in sorted(self._att.iterdir()):
            if path.suffix != ".npz" or not path.is_file():
                continue
            key = path.name.removesuffix(".npz")
            scan.add(key, key, path.name)
            self._files += [path, *(p for s in self._sides if (p := self._side(s, key)).is_file())]
            example = example or self._try(key)
        if example is None:
            raise DataError(f"{self._att} holds no .npz that can be read. Check the folder.")
        return self._facts(example)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,), boxes (n, 4), where there are such."""
        found = self._read(at)
        rows = found.pop("att")
        if rows.ndim not in (2, 3):
            raise ImageError("wrong-shape", f"attention features of shape {rows.shape}")
        return {_kind(rows): rows.reshape(-1, rows.shape[-1]), **found}

    def _read(self, key: str) -> dict[str, NDArray[Any]]:
        members = arrays.read_npz(self._att / f"{key}.npz", *KEYS)
        if not members:
            raise ImageError("missing-array", f"{key}.npz has none of {', '.join(KEYS)}")
        found = {"att": next(iter(members.values()))}
        for suffix in self._sides:
            path = self._side(suffix, key)
            if not path.is_file():
                raise ImageError("missing-file", f"{path.parent.name}/{path.name}")
            found[_SIDES[suffix][0]] = arrays.read_npy(path)
        return found

    def _side(self, suffix: str, key: str) -> Path:
        return self._sides[suffix] / f"{key}.npy"

    def _try(self, key: str) -> dict[str, NDArray[Any]] | None:
        try:
            found = self._read(key)
        except ImageError:
            return None
        return found if found["att"].ndim in (2, 3) else None

    def _facts(self, example: dict[str, NDArray[Any]]) -> Facts:
        rows = example.pop("att")
        dim, kind = rows.shape[-1], _kind(rows)
        grid = kind == "grid"
        shape = (rows.size // max(dim, 1) if grid else None, dim)
        fields = [Field(kind, kind, shape, stored_dtype(rows.dtype))]
        config: dict[str, Any] = {"grid": list(rows.shape[:2])} if grid else {}
        for name, role in (_SIDES[s] for s in self._sides):
            array = example[name]
            side = array.shape if role == "global" else (None, 4)
            fields.append(Field(name, role, side, stored_dtype(array.dtype)))  # type: ignore[arg-type]
        if "boxes" in example or "boxes_relative" in example:
            config["boxes"] = "pixels" if "boxes" in example else "relative"
        size = rows.nbytes + sum(a.nbytes for a in example.values())
        return Facts(tuple(fields), config, self._files, size * 2)


def _kind(rows: NDArray[Any]) -> Role:
    return "grid" if rows.ndim == 3 else "region"


def _attention(source: Path) -> Path:
    found = _candidates(source)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(
            f"{source} should hold one folder of .npz files with {' or '.join(KEYS)}; found: "
            f"{names}. Give the *_att folder itself."
        )
    return found[0]


def _candidates(source: Path) -> list[Path]:
    folders = [source, *(p for p in sorted(source.iterdir()) if p.is_dir())]
    return [p for p in folders if _holds(p)]


def _holds(folder: Path) -> bool:
    for count, path in enumerate(folder.glob("*.npz")):
        try:
            if set(arrays.names_in(path)) & set(KEYS):
                return True
        except ImageError:
            pass
        if count == 8:
            break
    return False


PLUGIN = SelfCritical
