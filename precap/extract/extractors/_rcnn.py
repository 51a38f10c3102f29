"""torchvision's Faster R-CNN v2 as a describer of regions: proposals, features, probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_V2_Weights,
    fasterrcnn_resnet50_fpn_v2,
)

from precap.extract import weights
from precap.extract.extractors._translate import fill

_SOURCE = weights.Source(
    "fasterrcnn_resnet50_fpn_v2_coco", files=(), url=FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url
)
#: Regions through the head at a time, to bound memory.
_CHUNK = 100


@dataclass(frozen=True)
class Seen:
    """R regions of one image: features (R, D), boxes (R, 4) in original pixels, and class
    probabilities (R, 1 + C), background first; None where nothing classifies."""

    regions: Tensor
    boxes: Tensor
    probs: Tensor | None = None


class FasterRCNN:
    """The 1024 numbers of the box head. Ren et al. 2015; v2 after Li et al. 2021.

    ``first``: the number of the class at column 1 of the probabilities; here COCO ids from 1.
    """

    width, first = 1024, 1

    def __init__(
        self, wanted: str, device: str, short: int = 600, long: int = 1000, proposals: int = 300
    ) -> None:
        """wanted: as in Setting.weights. short, long: input sides. ConfigError without weights."""
        found = weights.find(wanted, _SOURCE)
        network = fasterrcnn_resnet50_fpn_v2(
            weights=None,
            weights_backbone=None,
            min_size=short,
            max_size=long,
            rpn_post_nms_top_n_test=proposals,
        )
        fill(network, found)
        self.network, self.digest = network.eval().to(device), found.digest
        self.identity: dict[str, Any] = {
            "network": "fasterrcnn_resnet50_fpn_v2",
            "short": short,
            "long": long,
            "proposals": proposals,
        }

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """(h, w, 3) uint8; the network's own transform resizes it on its device."""
        return np.asarray(image)

    def see(self, pixels: Tensor, height: int, width: int, given: Tensor | None) -> Seen:
        """pixels: (h, w, 3) uint8 RGB, as original. given: boxes (R, 4), None for proposals."""
        net = self.network
        images, _ = net.transform([pixels.permute(2, 0, 1) / 255])
        maps = net.backbone(images.tensors)
        rows, columns = images.image_sizes[0]  # without the padding
        stretch = torch.tensor([columns / width, rows / height] * 2, device=pixels.device)
        boxes = net.rpn(images, maps)[0][0].float() if given is None else given * stretch
        heads = net.roi_heads
        regions = torch.cat(
            [
                heads.box_head(heads.box_roi_pool(maps, [part], images.image_sizes))
                for part in torch.split(boxes, _CHUNK)
            ]
        )
        logits, _ = heads.box_predictor(regions)
        return Seen(regions, boxes / stretch if given is None else given, logits.float().softmax(1))
