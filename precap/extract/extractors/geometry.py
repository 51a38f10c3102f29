"""Geometry of another store's boxes, without images: spatial weights, pairwise terms."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from precap import geometry
from precap.config import Count, NonEmpty, as_dict, frozen
from precap.errors import ConfigError
from precap.extract.contract import About, Prepared, Setting
from precap.types import Features, FeatureSpec, Field, Role

Output = Literal["weights", "rows", "columns", "boxes", "relations"]
_ROLES: dict[Output, Role] = {
    "weights": "weights",
    "rows": "weights",
    "columns": "weights",
    "boxes": "boxes",
    "relations": "weights",
}


@frozen
class GeometryConfig:
    """cells: the side of Spatial-Image-Captioning's grid (12 gives its 144 numbers per box).

    outputs: "weights" (N, cells^2) how a box covers each cell, row-major; "rows", "columns"
    (N, cells) how it covers each row and column; "boxes" (N, 4) in [0, 1]; "relations" (N * N, 4)
    Object Relation Transformer's terms of every ordered pair, of the unit boxes. mode: "cell"
    share of the cell, "area" that over cells^2, "box" over its own sum. unit: of the parent's
    boxes; "auto" divides by the parent's ``size`` field.
    """

    cells: Count = 12
    outputs: Annotated[tuple[Output, ...], NonEmpty] = ("weights", "boxes")
    mode: Literal["cell", "area", "box"] = "cell"
    unit: Literal["auto", "relative"] = "auto"


class Geometry:
    """What Spatial-Image-Captioning and the Object Relation Transformer read beside regions."""

    Config: ClassVar[type[Any]] = GeometryConfig
    reads: ClassVar[Literal["image", "store"]] = "store"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=(
            Field("weights", "weights", (None, 144), "float16"),
            Field("boxes", "boxes", (None, 4), "float32"),
        ),
        paper="Herdade et al., NeurIPS 2019 (relations); grid weights: precap's own definition",
        weights="none: reads the boxes of another store (--parent)",
        read_by="Spatial-Image-Captioning, Object Relation Transformer",
    )

    def __init__(self, config: GeometryConfig, setting: Setting) -> None:
        """Look at the parent store's spec; ConfigError when it has no boxes that can be used."""
        parent = _parent(setting)
        boxes, size = parent.field_of("boxes"), parent.field_of("size")
        if boxes is None:
            raise ConfigError(f"{setting.parent} has no boxes: geometry needs a region store.")
        if size is None and config.unit == "auto":
            raise ConfigError(
                f"{setting.parent} does not hold the pictures' sizes. If its boxes are in [0, 1] "
                f"already, say --set unit=relative; if in pixels, extract them again with precap."
            )
        self._boxes, self._size = boxes.name, size.name if size and config.unit == "auto" else None
        self.config = config
        self.spec = FeatureSpec(
            extractor="geometry",
            version=self.version,
            weights=parent.fingerprint,
            fields=tuple(_field(name, config.cells, setting.storage) for name in config.outputs),
            config=as_dict(config),
            decode="parent",
            views=parent.views,
        )

    def prepare(self, item: Any) -> Prepared:
        """Unit boxes (N, 4) of one image's row in the parent store."""
        boxes = np.asarray(item[self._boxes])
        if self._size is not None:
            boxes = geometry.relative(boxes, item[self._size])
        return {"boxes": np.clip(boxes, 0, 1).astype(np.float32)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """The chosen outputs of every image."""
        return [self._one(prepared["boxes"]) for prepared in batch]

    def _one(self, boxes: NDArray[np.float32]) -> Features:
        exact = boxes.astype(np.float64)
        rows, columns = geometry.cover(exact, self.config.cells)
        made: dict[Output, NDArray[Any]] = {
            "weights": geometry.grid_weights(exact, self.config.cells, self.config.mode),
            "rows": rows,
            "columns": columns,
            "boxes": boxes,
        }
        if "relations" in self.config.outputs:
            made["relations"] = geometry.pairwise(boxes).reshape(-1, 4)
        return {name: made[name].astype(np.float32) for name in self.config.outputs}


def _parent(setting: Setting) -> FeatureSpec:
    from precap.store import identity

    if setting.parent is None:
        raise ConfigError("geometry reads the boxes of another store: --parent features/NAME")
    return identity.load(setting.parent).spec


def _field(name: Output, cells: int, storage: str) -> Field:
    widths: dict[Output, int] = {"weights": cells * cells, "rows": cells, "columns": cells}
    dtype = "float32" if name == "boxes" else storage
    return Field(name, _ROLES[name], (None, widths.get(name, 4)), dtype)


PLUGIN = Geometry
