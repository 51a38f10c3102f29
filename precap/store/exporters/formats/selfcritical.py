"""self-critical's folders: features_att/ID.npz, features_fc/ID.npy, features_box/ID.npy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError
from precap.store.exporters.contract import Rows, check_names, need
from precap.types import Features, FeatureSpec


class SelfCritical:
    """The folders that --input_att_dir, --input_fc_dir and --input_box_dir name.

    fc is the store's global feature, or the mean of the rows where the store has none.
    """

    summary: ClassVar[str] = "self-critical folders: *_att/*.npz, *_fc/*.npy, *_box/*.npy"

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None:
        check_names(ids, "selfcritical")
        self._rows = need(spec, "selfcritical", "region", "grid")
        self._pooled = spec.field_of("global")
        boxes = [f for f in spec.fields if f.role == "boxes"]
        relative = spec.config.get("boxes") == "relative"
        self._boxes = {("_box_relative" if _is_relative(f.name, relative) else "_box"): f.name
                       for f in boxes}  # fmt: skip
        side = spec.config.get("grid")
        self._side = tuple(side) if isinstance(side, list) and self._rows.role == "grid" else ()

    def write(self, out: Path, rows: Rows) -> None:
        """One folder with a folder per kind, one file per image in each."""
        folders = {s: out / f"features{s}" for s in ("_att", "_fc", *self._boxes)}
        for folder in folders.values():
            folder.mkdir(parents=True)
        for image, row in rows():
            att = self._shaped(np.asarray(row[self._rows.name]))
            np.savez_compressed(folders["_att"] / f"{image}.npz", feat=att)
            np.save(folders["_fc"] / f"{image}.npy", self._fc(image, row, att))
            for suffix, field in self._boxes.items():
                np.save(folders[suffix] / f"{image}.npy", row[field])

    def _shaped(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A grid in its two axes again, where the store knows them."""
        if self._side and int(np.prod(self._side)) == len(rows):
            return rows.reshape(*self._side, rows.shape[-1])
        return rows

    def _fc(self, image: str, row: Features, att: NDArray[Any]) -> NDArray[Any]:
        if self._pooled:
            return row[self._pooled.name]
        flat = att.reshape(-1, att.shape[-1])
        if not len(flat):
            raise DataError(
                f"Image {image!r} has no rows, so that its fc, their mean, is undefined. "
                f"Leave it out, or use another format."
            )
        mean: NDArray[Any] = flat.astype(np.float32).mean(0)
        return mean


def _is_relative(name: str, only_relative: bool) -> bool:
    return name.endswith("_relative") or only_relative


PLUGIN = SelfCritical
