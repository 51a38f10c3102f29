"""self-critical's folders: NAME_att/ID.npz, NAME_fc/ID.npy, NAME_box/ID.npy, NAME_box_relative."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from precap.errors import ImageError
from precap.store.importers import arrays
from precap.store.importers.contract import Facts, Scan
from precap.store.importers.keyed import Keyed, candidates, choose
from precap.types import Features

#: The attention features are under "feat"; one release of cocobu has some under "z".
KEYS = ("feat", "z")


class SelfCritical:
    """Give the folder that holds NAME_att, or NAME_att itself; companions beside are read too."""

    summary: ClassVar[str] = "self-critical folders: *_att/*.npz with *_fc, *_box, *_box_relative"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keyed = Keyed(choose(source, _holds, "folder of .npz"), _Folder)

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether there is one folder of .npz with "feat" or "z"."""
        return source.is_dir() and len(candidates(source, _holds)) == 1

    def index(self, scan: Scan) -> Facts:
        """List the folder; one image is opened to learn the shapes."""
        return self._keyed.index(scan)

    def read(self, at: str) -> Features:
        """region (n, d) or grid (h * w, d); global (d,), boxes (n, 4), where there are such."""
        return self._keyed.read(at)


class _Folder:
    """One file per image: .npz with one of KEYS, or .npy."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ids(self) -> Iterable[str]:
        return (path.name.removesuffix(".npz") for path in self.files() if path.suffix == ".npz")

    def files(self) -> Sequence[Path]:
        known = (".npz", ".npy")
        return sorted(p for p in self._path.iterdir() if p.suffix in known and p.is_file())

    def read(self, key: str) -> NDArray[Any]:
        archive, plain = self._path / f"{key}.npz", self._path / f"{key}.npy"
        if plain.is_file() and not archive.is_file():
            return arrays.read_npy(plain)
        if not archive.is_file():
            raise ImageError("missing-file", f"{self._path.name}/{key}")
        return members(arrays.read_npz(archive, *KEYS), archive.name)


def members(found: dict[str, NDArray[Any]], where: str) -> NDArray[Any]:
    """The one of KEYS that an archive has."""
    if not found:
        raise ImageError("missing-array", f"{where} has none of {', '.join(KEYS)}")
    return next(iter(found.values()))


def _holds(folder: Path) -> bool:
    if not folder.is_dir():
        return False
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
