"""VinVL: ResNeXt-152 32x8d C4 on 1594 classes and 524 attributes, 10 to 100 regions.

Zhang et al. 2021, as in scene_graph_benchmark's vinvl_x152c4 with IGNORE_BOX_REGRESSION True:
boxes as proposed, never regressed.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck
from torchvision.ops import roi_align

from precap.config import Count, as_dict, frozen
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _c4, _compute, _selection
from precap.extract.extractors._given import given_boxes
from precap.extract.extractors._rpn import Convention, Proposals
from precap.extract.extractors._translate import Rules
from precap.types import Features

MEAN = (103.530, 116.280, 123.675)  # blue, green, red
CLASSES, ATTRIBUTES = 1595, 525

_CONVENTION = Convention(scales=(2, 4, 8, 16, 32), closed=True, smallest=0, plus_one=False)
#: Checkpoint key -> own name. The attribute head's feature extractor is a second copy of the box
#: head's.
_RULES: Rules = (
    (r"^attribute\.feature_extractor\.|num_batches_tracked$", None),
    (r"^backbone\.body\.(stem\.)?", "resnet."),
    (r"^roi_heads\.box\.feature_extractor\.head\.", "resnet."),
    (r"^rpn\.anchor_generator\.cell_anchors\.0$", "rpn.anchors"),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^rpn\.head\.", "rpn."),
    (r"^roi_heads\.box\.predictor\.cls_score\.", "class_logits."),
    (r"^roi_heads\.box\.predictor\.bbox_pred\.", "box_deltas."),
    (r"^attribute\.predictor\.cls_embedding\.", "class_embedding."),
    (r"^attribute\.predictor\.fc_attr\.", "attribute_hidden."),
    (r"^attribute\.predictor\.attr_score\.", "attribute_logits."),
)


@frozen
class VinVLConfig:
    """rule: "per-class" (the original's NMS_FILTER 1) or "agnostic" (NMS_FILTER 2).

    tail: append x1/W, y1/H, x2/W, y2/H, w/W, h/H to every region: the 2054 numbers Oscar reads.
    boxes: a file of boxes to describe instead of proposing and selecting (see docs/detectors.md).
    short, long: sides of the network input in pixels. proposals: boxes to select from.
    """

    rule: Literal["per-class", "agnostic"] = "per-class"
    confidence: float = 0.2
    min_boxes: int = 10
    max_boxes: Count = 100
    tail: bool = False
    boxes: Path | None = None
    short: Count = 600
    long: Count = 1000
    proposals: Count = 300


class VinVL:
    """region (N, 2048 or 2054), boxes, scores, classes, attributes, attribute_scores, size.

    boxes: x1, y1, x2, y2 in original pixels, in descending ``scores``: the probability of
    ``classes`` (1-based into the 1594 of the label map, as in the original's files), the best class
    in which the box survived. attributes: 1-based into the 524.
    """

    Config: ClassVar[type[Any]] = VinVLConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=_c4.fields("float32"),
        paper="Zhang et al., CVPR 2021 (VinVL)",
        weights="FILE: vinvl_vg_x152c4.pth of scene_graph_benchmark",
        read_by="HIN, Oscar",
    )

    def __init__(self, config: VinVLConfig, setting: Setting) -> None:
        """Build the network and load its weights; ConfigError when there are none."""
        found = weights.find(setting.weights, weights.Source("vinvl_vg_x152c4", files=()))
        self.config, self.setting = config, setting
        self.device = _compute.device(setting)
        self.given = given_boxes(config.boxes, setting)
        rpn = Proposals(1024, replace(_CONVENTION, kept=config.proposals))
        self.network = _c4.C4(_resnext(), rpn, _align, CLASSES, ATTRIBUTES).eval()
        self.network.read(found, _RULES)
        self.network.to(self.device)
        self.spec = _compute.spec(
            "vinvl",
            self.version,
            found.digest,
            _c4.fields(setting.storage, 2054 if config.tail else 2048),
            setting,
            preprocess={"resize": "pil-bilinear", "mean_bgr": MEAN},
            config=as_dict(config) | {"boxes": self.given.digest if self.given else None},
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """pixels (h, w, 3) uint8 RGB at network size, size (2,), maybe given boxes (N, 4)."""
        assert isinstance(item, Image.Image)
        side = fitted(item.width, item.height, self.config.short, self.config.long)
        resized = item.resize(side, Image.Resampling.BILINEAR)
        found = {
            "pixels": np.asarray(resized),
            "size": np.array([item.height, item.width], np.int64),
        }
        return found | ({"boxes": self.given.of(item)["boxes"]} if self.given else {})

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """Features of every image, one forward each: sizes differ, and 300 boxes fill a device."""
        with _compute.forwarding(self.setting, self.device):
            return [self._one(item) for item in batch]

    def _one(self, item: Prepared) -> Features:
        pixels = network_input(item["pixels"], self.device)
        rows, columns = pixels.shape[2:]
        height, width = (int(side) for side in item["size"])
        stretch = pixels.new_tensor([columns / width, rows / height] * 2)
        if "boxes" in item:
            boxes = torch.from_numpy(item["boxes"]).to(self.device)
            found = _c4.look(self.network, pixels, 1.0, boxes * stretch)
            scores, labels = found.probs[:, 1:].max(1)
            labels = labels + 1
        else:
            found = _c4.look(self.network, pixels, 1.0, None)
            kept, labels, scores = self._select(found)
            found = found[kept]
            boxes = found.boxes / stretch
        attributes = self.network.attributes(found.regions, labels)
        attribute_scores, attributes = attributes[:, 1:].max(1)
        regions = found.regions
        if self.config.tail:
            regions = torch.cat([regions, oscar_tail(boxes, height, width)], 1)
        return {
            "region": _compute.rows(regions, self.setting.storage),
            "boxes": boxes.cpu().numpy(),
            "scores": scores.cpu().numpy(),
            "classes": labels.cpu().numpy(),
            "attributes": (attributes + 1).cpu().numpy(),
            "attribute_scores": attribute_scores.cpu().numpy(),
            "size": item["size"],
        }

    def _select(self, found: _c4.Found) -> tuple[Tensor, Tensor, Tensor]:
        per_class = self.config.rule == "per-class"
        rule = _selection.vinvl_per_class if per_class else _selection.vinvl_agnostic
        low, high = self.config.min_boxes, self.config.max_boxes
        return rule(found.boxes, found.probs, low, high, self.config.confidence)


def fitted(width: int, height: int, short: int = 600, long: int = 1000) -> tuple[int, int]:
    """(width, height) of side ``short``, less if the other would pass ``long``; never below 1."""
    least, most = min(width, height), max(width, height)
    size = short if most / least * short <= long else max(1, round(long * least / most))
    if least == size:
        return width, height
    grown = int(size * most / least)
    return (size, grown) if width < height else (grown, size)


def network_input(pixels: NDArray[np.uint8], device: str) -> Tensor:
    """(h, w, 3) uint8 RGB to (1, 3, h, w) float32 BGR minus the mean, in the original's steps."""
    image = torch.tensor(pixels, device=device).permute(2, 0, 1).float() / 255
    mean = torch.tensor(MEAN, device=device)[:, None, None]
    return (image.flip(0) * 255 - mean)[None].contiguous()


def oscar_tail(boxes: Tensor, height: int, width: int) -> Tensor:
    """(N, 6) x1/W, y1/H, x2/W, y2/H, (x2-x1)/W, (y2-y1)/H of boxes (N, 4) in original pixels."""
    relative = boxes / boxes.new_tensor([width, height, width, height])
    return torch.cat([relative, relative[:, 2:] - relative[:, :2]], 1)


def _align(features: Tensor, boxes: list[Tensor], size: int, scale: float) -> Tensor:
    """The legacy RoIAlign: no half-pixel shift, as many samples per cell as it has map cells."""
    return roi_align(features, boxes, size, scale, sampling_ratio=-1, aligned=False)  # type: ignore[no-any-return]


def _resnext() -> ResNet:
    """ResNeXt-152 32x8d; its frozen norms add nothing to the variance."""
    norm = partial(nn.BatchNorm2d, eps=0.0)
    net = ResNet(Bottleneck, [3, 8, 36, 3], groups=32, width_per_group=8, norm_layer=norm)
    net.fc = nn.Identity()
    return net


PLUGIN = VinVL
