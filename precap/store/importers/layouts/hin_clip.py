"""HIN's CLIP HDF5: ID_features (g, d), the patch tokens, and ID_global (d',)."""

from pathlib import Path
from typing import ClassVar

from precap.store.importers import idkeys
from precap.store.importers.contract import Facts, Scan, stored_dtype
from precap.types import Features, Field


class HinClip:
    """COCO2014_ViT-L-14.hdf5: every image has the same number of tokens."""

    summary: ClassVar[str] = "HIN CLIP HDF5: ID_features as a grid, ID_global"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._keys, self._source = idkeys.IdKeys(source), source

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether ID_features with an ID_global are there."""
        found = idkeys.suffixes_of(source)
        return found.get("features") == 2 and found.get("global") == 1

    def index(self, scan: Scan) -> Facts:
        """One walk over the names in the file."""
        items = self._keys.index(scan)
        grid, pooled = items["features"], items["global"]
        fields = (
            Field("grid", "grid", grid.shape, stored_dtype(grid.dtype)),
            Field("global", "global", pooled.shape, stored_dtype(pooled.dtype)),
        )
        return Facts(fields, {}, [self._source], idkeys.row_bytes(items))

    def read(self, at: str) -> Features:
        """grid (g, d) and global (d',)."""
        return self._keys.read(at, {"grid": "features", "global": "global"})


PLUGIN = HinClip
