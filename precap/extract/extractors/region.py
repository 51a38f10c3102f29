"""Regions of a general detector, or of any backbone at given boxes.

Default: torchvision's Faster R-CNN v2, the one region extractor that needs no research checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from precap.config import Count, as_dict, build, frozen
from precap.errors import ConfigError, ImageError
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute, _selection
from precap.extract.extractors._detectron2 import Detectron2
from precap.extract.extractors._given import given_boxes
from precap.extract.extractors._rcnn import FasterRCNN, Seen
from precap.types import Features, Field


@frozen
class RegionConfig:
    """backend: torchvision, or detectron2 with ``config`` (zoo name or file) and ``options``
    (KEY, VALUE, ...), or grid: the map of any backbone of the ``grid`` extractor, configured by
    ``grid``, averaged over every one of the ``boxes``.

    boxes: a file of boxes to describe instead of proposing and selecting (see docs/detectors.md).
    confidence, min_boxes, max_boxes: which proposals are kept, by descending score. short, long,
    proposals: torchvision's input sides in pixels and how many boxes it proposes.
    """

    backend: Literal["torchvision", "detectron2", "grid"] = "torchvision"
    boxes: Path | None = None
    confidence: float = 0.2
    min_boxes: int = 10
    max_boxes: Count = 100
    short: Count = 600
    long: Count = 1000
    proposals: Count = 300
    config: str = ""
    options: list[str] | None = None
    grid: dict[str, Any] | None = None


def _fields(width: int, storage: str) -> tuple[Field, ...]:
    return (
        Field("region", "region", (None, width), storage),
        Field("boxes", "boxes", (None, 4)),
        Field("scores", "scores", (None,)),
        Field("classes", "classes", (None,), "int64"),
        Field("size", "size", (2,), "int64"),
    )


class Region:
    """region (N, D), boxes (N, 4) in original pixels, scores, classes, size.

    Proposals: boxes as proposed (features are theirs, so they are not regressed), by descending
    score; torchvision's classes are COCO category ids, detectron2's its own numbers from 0. Given
    boxes: in the order of the file, with its scores and classes if it has them.
    """

    Config: ClassVar[type[Any]] = RegionConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=_fields(FasterRCNN.width, "float32"),
        paper="Ren et al., NeurIPS 2015; Li et al. 2021 (v2); Wu et al. 2019 (detectron2)",
        weights="torchvision's fasterrcnn_resnet50_fpn_v2_coco; detectron2's model zoo; any timm",
        read_by="any region head",
    )

    def __init__(self, config: RegionConfig, setting: Setting) -> None:
        """Build the backend and load its weights; ConfigError when there are none."""
        self.config, self.setting = config, setting
        self.device = _compute.device(setting)
        self.given = given_boxes(config.boxes, setting)
        self.backend = _backend(config, setting, self.device)
        fields = _fields(self.backend.width, setting.storage)
        if self.given:
            fields = (fields[0], *self.given.fields, fields[-1])
        kept = ("backend", "confidence", "min_boxes", "max_boxes", "options")
        chosen = {k: v for k, v in as_dict(config).items() if k in kept}
        self.spec = _compute.spec(
            "region",
            self.version,
            self.backend.digest,
            fields,
            setting,
            preprocess=self.backend.identity,
            config=chosen | {"boxes": self.given.digest if self.given else None},
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """pixels as the backend wants them, size (2,), and of given boxes the boxes and extras."""
        assert isinstance(item, Image.Image)
        size = np.array([item.height, item.width], np.int64)
        found = {"pixels": self.backend.prepare(item), "size": size}
        return found | (self.given.of(item) if self.given else {})

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """Features of every picture. Detectors run one forward each: 300 boxes fill a device."""
        with _compute.forwarding(self.setting, self.device):
            pixels = [item["pixels"] for item in batch]
            if isinstance(self.backend, _Map):
                seen = self.backend.maps(pixels)
            else:
                seen = [torch.tensor(one, device=self.device) for one in pixels]
            return [self._one(item, one) for item, one in zip(batch, seen, strict=True)]

    def _one(self, item: Prepared, pixels: Tensor) -> Features:
        height, width = (int(side) for side in item["size"])
        if "boxes" in item:
            given = torch.from_numpy(item["boxes"]).to(self.device)
            seen = self.backend.see(pixels, height, width, given)
            kept = {name: array for name, array in item.items() if name != "pixels"}
            return {"region": _compute.rows(seen.regions, self.setting.storage), **kept}
        return {**self._best(self.backend.see(pixels, height, width, None)), "size": item["size"]}

    def _best(self, seen: Seen) -> dict[str, NDArray[Any]]:
        if seen.probs is None or not len(seen.boxes):
            raise ImageError("no-regions", "the network proposes no box")
        c = self.config
        kept, labels, scores = _selection.vinvl_per_class(
            seen.boxes, seen.probs, c.min_boxes, c.max_boxes, c.confidence
        )
        return {
            "region": _compute.rows(seen.regions[kept], self.setting.storage),
            "boxes": seen.boxes[kept].cpu().numpy(),
            "scores": scores.cpu().numpy(),
            "classes": (labels - 1 + self.backend.first).cpu().numpy(),
        }


class _Map:
    """The map of a ``grid`` backbone on the whole picture, averaged over each given box."""

    first = 0

    def __init__(self, config: RegionConfig, setting: Setting) -> None:
        from precap.extract.extractors.grid import Grid

        options = {"fit": "squash"} | (config.grid or {})
        if options["fit"] != "squash" or config.boxes is None:
            raise ConfigError(
                "backend grid describes the boxes of boxes=FILE on a picture squashed to a square: "
                "give boxes, and no fit but squash."
            )
        made = build(Grid.Config, options, "region's option grid")
        self.grid = Grid(made, replace(setting, storage="float32"))
        self.digest = self.grid.spec.weights
        self.identity = {**self.grid.spec.preprocess, **self.grid.spec.config}
        self.width = int(self.grid.spec.fields[0].shape[1] or 0)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """(h, w, 3) uint8 at the backbone's size."""
        return np.asarray(self.grid.prepare(image)["pixels"])

    def maps(self, pixels: Sequence[NDArray[Any]]) -> list[Tensor]:
        """The map (C, side, side) of every picture, in one forward."""
        found = self.grid.extract([{"pixels": one} for one in pixels])
        side = round(len(found[0]["tokens"]) ** 0.5)
        tokens = torch.from_numpy(np.stack([one["tokens"] for one in found])).to(self.grid.device)
        return list(tokens.transpose(1, 2).reshape(len(found), -1, side, side))

    def see(self, cells: Tensor, height: int, width: int, given: Tensor | None) -> Seen:
        """Each of the boxes ``given`` (R, 4): 7 x 7 bilinear samples of the map, averaged."""
        assert given is not None
        side = cells.shape[-1]
        scale = torch.tensor([side / width, side / height] * 2, device=cells.device)
        pooled = roi_align(cells[None], [given * scale], 7, aligned=True)  # (R, C, 7, 7)
        return Seen(pooled.mean((2, 3)), given)


def _backend(config: RegionConfig, setting: Setting, device: str) -> FasterRCNN | Detectron2 | _Map:
    if config.backend == "grid":
        return _Map(config, setting)
    if config.backend == "detectron2":
        return Detectron2(config.config, config.options or [], setting.weights, device)
    sizes = (config.short, config.long, config.proposals)
    return FasterRCNN(setting.weights, device, *sizes)


PLUGIN = Region
