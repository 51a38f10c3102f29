"""Bottom-up attention: ResNet-101 C4 on Visual Genome, 10 to 100 or 36 regions of 2048 numbers.

Anderson et al. 2018, in the PyTorch checkpoints converted from Caffe (MILVLG bottom-up-attention,
"caffe" mode): 1600 classes, 400 attributes, boxes as proposed, never regressed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck
from torchvision.ops import roi_pool

from precap.config import Count, as_dict, frozen
from precap.errors import ImageError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _c4, _compute, _selection
from precap.extract.extractors._given import given_boxes
from precap.extract.extractors._rpn import Convention, Proposals
from precap.extract.extractors._translate import Rules
from precap.types import Features

MEAN = (102.9801, 115.9465, 122.7717)  # blue, green, red
CLASSES, ATTRIBUTES = 1601, 401

_CONVENTION = Convention(scales=(4, 8, 16, 32), closed=False, smallest=16, plus_one=True)
#: Checkpoint key -> own name.
_RULES: Rules = (
    (r"num_batches_tracked$", None),
    (r"^proposal_generator\.anchor_generator\.cell_anchors\.0$", "rpn.anchors"),
    (r"^proposal_generator\.rpn_head\.", "rpn."),
    (r"^rpn\.objectness_logits\.", "rpn.objectness."),
    (r"^rpn\.anchor_deltas\.", "rpn.deltas."),
    (r"^backbone\.stem\.conv1\.norm\.", "resnet.bn1."),
    (r"^backbone\.stem\.", "resnet."),
    (r"^backbone\.res2\.", "resnet.layer1."),
    (r"^backbone\.res3\.", "resnet.layer2."),
    (r"^backbone\.res4\.", "resnet.layer3."),
    (r"^roi_heads\.res5\.", "resnet.layer4."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^roi_heads\.box_predictor\.", ""),
    (r"^cls_score\.", "class_logits."),
    (r"^bbox_pred\.", "box_deltas."),
    (r"^cls_embed\.", "class_embedding."),
    (r"^attr_linear1\.", "attribute_hidden."),
    (r"^attr_linear2\.", "attribute_logits."),
)


@frozen
class BottomUpConfig:
    """variant: "adaptive" keeps 10 to 100 regions, "fixed36" 36 of them; each has its own weights.

    boxes: a file of boxes to describe instead of proposing and selecting (see docs/detectors.md).
    short, long: sides of the network input in pixels. proposals: boxes to select from.
    """

    variant: Literal["adaptive", "fixed36"] = "adaptive"
    confidence: float = 0.2
    boxes: Path | None = None
    short: Count = 600
    long: Count = 1000
    proposals: Count = 300


_LIMITS = {"adaptive": (10, 100), "fixed36": (36, 36)}
_SOURCES = {
    "adaptive": weights.Source("bua-caffe-frcn-r101-k10-100", files=()),
    "fixed36": weights.Source("bua-caffe-frcn-r101-k36", files=()),
}


class BottomUp:
    """region (N, 2048), boxes, scores, classes, attributes, attribute_scores, size of each image.

    boxes: x1, y1, x2, y2 in original pixels, in the order of the original's files: proposal order
    within 10..100, else descending confidence. scores: probability of ``classes``, the best class
    without background, 0-based into the 1600. attributes: likewise into the 400.
    """

    Config: ClassVar[type[Any]] = BottomUpConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=_c4.fields("float32"),
        paper="Anderson et al., CVPR 2018",
        weights="FILE: MILVLG's bua-caffe-frcn-r101-k10-100.pth, for fixed36 ...-k36.pth",
        read_by="UpDown, M2, ORT, Spatial-Image-Captioning",
    )

    def __init__(self, config: BottomUpConfig, setting: Setting) -> None:
        """Build the network and load its weights; ConfigError when there are none."""
        found = weights.find(setting.weights, _SOURCES[config.variant])
        self.config, self.setting = config, setting
        self.device = _compute.device(setting)
        self.given = given_boxes(config.boxes, setting)
        rpn = Proposals(512, replace(_CONVENTION, kept=config.proposals))
        self.network = _c4.C4(_caffe_resnet(), rpn, roi_pool, CLASSES, ATTRIBUTES).eval()
        self.network.read(found, _RULES)
        self.network.to(self.device)
        self.spec = _compute.spec(
            "bottomup",
            self.version,
            found.digest,
            _c4.fields(setting.storage),
            setting,
            preprocess={"resize": "cv2-linear", "mean_bgr": MEAN},
            config=as_dict(config) | {"boxes": self.given.digest if self.given else None},
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """pixels (3, h, w) float32 network input, scale (), size (2,), maybe given boxes (N, 4)."""
        assert isinstance(item, Image.Image)
        scale = fitting_scale(item.width, item.height, self.config.short, self.config.long)
        colours = np.asarray(item)[..., ::-1] - np.array(MEAN, np.float32)  # (H, W, 3) float32
        pixels = resized(colours, scale).transpose(2, 0, 1)
        if min(pixels.shape[1:]) < 3:
            raise ImageError("too-narrow", f"{item.width} x {item.height} is a line to the network")
        found = {
            "pixels": np.ascontiguousarray(pixels),
            "scale": np.array(scale),
            "size": np.array([item.height, item.width], np.int64),
        }
        return found | ({"boxes": self.given.of(item)["boxes"]} if self.given else {})

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """Features of every image, one forward each: sizes differ, and 300 boxes fill a device."""
        with _compute.forwarding(self.setting, self.device):
            return [self._one(item) for item in batch]

    def _one(self, item: Prepared) -> Features:
        pixels = torch.from_numpy(item["pixels"])[None].to(self.device)
        scale = float(item["scale"])
        if "boxes" in item:
            boxes = torch.from_numpy(item["boxes"]).to(self.device)
            found = _c4.look(self.network, pixels, scale, boxes * scale)
        else:
            found = _c4.look(self.network, pixels, scale, None)
            boxes = found.boxes / scale
            kept = self._select(boxes, found)
            found, boxes = found[kept], boxes[kept]
        scores, classes = found.probs[:, 1:].max(1)
        # The class embedding is that of the best class, background included.
        attributes = self.network.attributes(found.regions, found.probs.argmax(1))
        attribute_scores, attributes = attributes[:, 1:].max(1)
        storage = self.setting.storage
        return {
            "region": _compute.rows(found.regions, storage),
            "boxes": boxes.cpu().numpy(),
            "scores": scores.cpu().numpy(),
            "classes": classes.cpu().numpy(),
            "attributes": attributes.cpu().numpy(),
            "attribute_scores": attribute_scores.cpu().numpy(),
            "size": item["size"],
        }

    def _select(self, boxes: Tensor, found: _c4.Found) -> Tensor:
        low, high = _LIMITS[self.config.variant]
        return _selection.bottomup(boxes, found.probs, low, high, self.config.confidence)


def fitting_scale(width: int, height: int, short: int = 600, long: int = 1000) -> float:
    """Network-input pixels per original pixel: side ``short`` unless the other passes ``long``."""
    scale = short / min(width, height)
    return long / max(width, height) if round(scale * max(width, height)) > long else scale


def resized(pixels: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """(H, W, C) resized as cv2.resize(fx=scale, fy=scale, INTER_LINEAR): no antialiasing."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    left, right, share = _taps(width, pixels.shape[1], scale)
    share = share[:, None]
    across = pixels[:, left] * (1 - share) + pixels[:, right] * share  # (H, w, C)
    above, below, share = _taps(height, pixels.shape[0], scale)
    share = share[:, None, None]
    down: NDArray[np.float32] = across[above] * (1 - share) + across[below] * share
    return down  # (h, w, C)


def _taps(count: int, source: int, scale: float) -> tuple[Any, Any, NDArray[np.float32]]:
    """For each of ``count`` outputs: its two source indices and the second one's share."""
    at = ((np.arange(count) + 0.5) / scale - 0.5).clip(0, source - 1)
    first = at.astype(np.int64)
    return first, np.minimum(first + 1, source - 1), (at - first).astype(np.float32)


def _caffe_resnet() -> ResNet:
    """ResNet-101 as in Caffe: stride in the first 1x1, no padding in the pool, res5 dilated."""
    net = ResNet(Bottleneck, [3, 4, 23, 3])
    net.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for layer in (net.layer2, net.layer3):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    for block in net.layer4:
        block.conv2.dilation = block.conv2.padding = (2, 2)
    net.fc = nn.Identity()
    return net


PLUGIN = BottomUp
