"""An extractor without floating point: what it gives is an exact function of the picture."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from precap.extract.contract import Prepared, Setting
from precap.types import Features, FeatureSpec, Field

NAME = "tests.cluster.numbers:Numbers"


@dataclass(frozen=True)
class Config:
    """size: the picture is reduced to a quarter as many cells along each side."""

    size: int = 16


class Numbers:
    """The integer sums of red, green and blue in a grid of cells.

    NUMBERS_DELAY: seconds that each batch takes besides, so that a test can interrupt it.
    NUMBERS_LOG: a file that gets one byte per picture computed.
    """

    Config = Config
    reads = "image"

    def __init__(self, config: Config, setting: Setting) -> None:
        self._side = config.size // 4
        self.spec = FeatureSpec(
            NAME, 1, "none", (Field("sums", "grid", (self._side**2, 3), "int64"),)
        )

    def prepare(self, item: Any) -> Prepared:
        """The picture as (H, W, 3) uint8."""
        return {"pixels": np.asarray(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """One (side * side, 3) array per picture."""
        time.sleep(float(os.environ.get("NUMBERS_DELAY", "0")))
        if "NUMBERS_LOG" in os.environ:
            with Path(os.environ["NUMBERS_LOG"]).open("ab", buffering=0) as log:
                log.write(b"." * len(batch))
        return [{"sums": self._sums(item["pixels"])} for item in batch]

    def _sums(self, pixels: Any) -> Any:
        rows = np.array_split(pixels.astype(np.int64), self._side, axis=0)
        cells = [cell for row in rows for cell in np.array_split(row, self._side, axis=1)]
        return np.stack([cell.sum((0, 1)) for cell in cells])
