"""An extractor without floating point: what it gives is an exact function of the picture."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precap.extract.contract import Prepared, Setting
from precap.types import Features, FeatureSpec, Field

NAME = "tests.cluster.numbers:Numbers"


@dataclass(frozen=True)
class Config:
    """side: the picture is reduced to side x side cells."""

    side: int = 4


class Numbers:
    """The integer sums of red, green and blue in a grid of cells.

    NUMBERS_DELAY: seconds that each batch takes besides, so that a test can interrupt it.
    """

    Config = Config
    reads = "image"

    def __init__(self, config: Config, setting: Setting) -> None:
        self._side = config.side
        self.spec = FeatureSpec(
            NAME, 1, "none", (Field("sums", "grid", (config.side**2, 3), "int64"),)
        )

    def prepare(self, item: Any) -> Prepared:
        """The picture as (H, W, 3) uint8."""
        return {"pixels": np.asarray(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """One (side * side, 3) array per picture."""
        time.sleep(float(os.environ.get("NUMBERS_DELAY", "0")))
        return [{"sums": self._sums(item["pixels"])} for item in batch]

    def _sums(self, pixels: Any) -> Any:
        rows = np.array_split(pixels.astype(np.int64), self._side, axis=0)
        cells = [cell for row in rows for cell in np.array_split(row, self._side, axis=1)]
        return np.stack([cell.sum((0, 1)) for cell in cells])
