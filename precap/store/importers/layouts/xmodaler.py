"""X-modaler's ID.npz: features, and optionally boxes, cls_prob, image_h, image_w."""

from pathlib import Path
from typing import Any, ClassVar

from precap.errors import ImageError
from precap.store.importers import arrays, npzdir, table
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field

_PLAIN: dict[str, tuple[str, Any]] = {
    "features": ("region", "region"),
    "boxes": ("boxes", "boxes"),
    "cls_prob": ("cls_prob", "scores"),
}


class Xmodaler:
    """One .npz per image; older files, with ``feat`` alone, are read as self-critical's."""

    summary: ClassVar[str] = "X-modaler .npz folder: features, boxes, cls_prob, image_h, image_w"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._folder = source
        self._names: set[str] = set()

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether a folder of .npz with ``features`` is there."""
        return npzdir.has(source, "features")

    def index(self, scan: Scan) -> Facts:
        """List the folder; one image is opened to learn the shapes."""
        paths, example = npzdir.index(self._folder, scan, self._read)
        self._names = set(example)
        fields = [npzdir.ragged(n, r, example[n]) for n, r in _PLAIN.values() if n in example]
        if "size" in example:
            fields.append(Field("size", "size", (2,), "int64"))
        config = {"boxes": "pixels"} if "boxes" in example else {}
        size = sum(array.nbytes for array in example.values())
        return Facts(tuple(fields), config, paths, size * 2)

    def read(self, at: str) -> Features:
        """region (n, d), boxes (n, 4), cls_prob (n, C), size (2,): those that the source has."""
        found = self._read(at)
        if missing := self._names - set(found):
            raise ImageError("missing-array", ", ".join(sorted(missing)))
        return {name: found[name] for name in found if name in self._names}

    def _read(self, name: str) -> Features:
        members = arrays.read_npz(self._folder / name, *_PLAIN, "image_h", "image_w")
        if "features" not in members:
            raise ImageError("missing-array", f"{name} has no features")
        found = {field: members[n] for n, (field, _) in _PLAIN.items() if n in members}
        if "image_h" in members and "image_w" in members:
            sides = (npzdir.whole(members[side], side) for side in ("image_h", "image_w"))
            found |= table.size(*sides)
        return found


PLUGIN = Xmodaler
