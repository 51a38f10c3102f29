"""ClipCap's pickle: one embedding per caption, so that every image is there about five times."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from precap.errors import ConfigError, DataError
from precap.store.importers import pickles
from precap.store.importers.contract import Facts, Problem, Scan, stored_dtype
from precap.types import Features, Field

#: Width -> the encoder that ClipCap and its relatives used for it.
ENCODERS = {
    512: "CLIP ViT-B/32 or RN101",
    576: "TinyViT-21M",
    640: "CLIP RN50x4",
    1024: "CLIP RN50",
}


class ClipCap:
    """The dict {clip_embedding: (rows, d), captions: [{image_id, caption, clip_embedding}]}.

    Row i belongs to captions[i]: the row number stored in the caption is wrong in the Conceptual
    Captions training file (it restarts after the validation rows), and is only reported. The first
    row of an image is kept; how far the others are from it is reported.
    """

    summary: ClassVar[str] = "ClipCap pickle (needs --allow-pickle)"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        if not allow_pickle:
            raise ConfigError(
                f"{source} is a pickle. precap reads it with a restricted unpickler that runs "
                f"nothing, but only when asked to: repeat with --allow-pickle."
            )
        self._source = source
        self._rows: NDArray[Any] = np.empty((0, 0))

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether it begins as a pickle with a "clip_embedding"; nothing is unpickled."""
        if not source.is_file():
            return False
        with source.open("rb") as file:
            start = file.read(1 << 16)
        return start[:1] == b"\x80" and b"clip_embedding" in start

    def index(self, scan: Scan) -> Facts:
        """Load the pickle (it cannot be streamed: twice its size in memory) and group by image."""
        with self._source.open("rb") as file:
            value = pickles.load(file, str(self._source))
        self._rows, captions = _contents(value, self._source)
        first: dict[str, int] = {}
        shifted, apart = 0, 0.0
        for row, caption in enumerate(captions):
            key = str(caption["image_id"])
            stated = caption.get("clip_embedding", row)
            shifted += type(stated) is int and stated != row
            if key not in first:
                first[key] = row
                scan.add(key, row, f"{self._source.name}[{row}]")
                continue
            difference = np.abs(self._rows[row].astype(np.float32) - self._rows[first[key]])
            apart = max(apart, float(difference.max(initial=0)))
        self._report(scan, len(captions) - len(first), shifted, apart)
        dim = self._rows.shape[1]
        config = {"encoder": ENCODERS.get(dim, "unknown"), "normalized": False}
        fields = (Field("global", "global", (dim,), stored_dtype(self._rows.dtype)),)
        return Facts(fields, config, [self._source], self._rows.itemsize * dim)

    def read(self, at: int) -> Features:
        """global (d,), in the dtype of the source."""
        return {"global": self._rows[at]}

    def _report(self, scan: Scan, repeats: int, shifted: int, apart: float) -> None:
        name = self._source.name
        if repeats:
            detail = f"{repeats} rows repeat an image; the largest difference is {apart:g}"
            scan.note(Problem(name, "", "repeated-rows", detail))
        if shifted:
            detail = f"{shifted} captions name another row than their own; position decides"
            scan.note(Problem(name, "", "shifted-rows", detail))


def _contents(value: Any, source: Path) -> tuple[NDArray[Any], list[dict[str, Any]]]:
    """The two parts, checked: as many rows as captions, every caption with an image id."""
    if isinstance(value, list) and len(value) == 3:
        raise DataError(f"{source} is ClipCap's token cache, not its features: *_tokens.pkl.")
    if isinstance(value, dict) and "parsed" in value:
        raise DataError(f"{source} is ClipCap's download state: it holds no features.")
    rows, captions = (
        (pickles.plain(value.get("clip_embedding")), value.get("captions"))
        if isinstance(value, dict)
        else (None, None)
    )
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind != "f":
        raise DataError(f"{source} has no table of floats 'clip_embedding'. Check the file.")
    if not isinstance(captions, list) or len(captions) != len(rows):
        raise DataError(
            f"{source} has {len(rows)} rows but not as many captions, so rows cannot be matched "
            f"to images. Extract the features again."
        )
    if not all(isinstance(c, dict) and isinstance(c.get("image_id"), str | int) for c in captions):
        raise DataError(f"{source}: a caption lacks its image_id. Extract the features again.")
    return rows, captions


PLUGIN = ClipCap
