"""The C4 region network that bottom-up attention and VinVL share: ResNet to stride 16, then res5.

One class, one image at a time: a feature map, boxes proposed on it (or given), res5 on every box,
then class and attribute predictions. What the two networks do differently comes in as arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from precap.errors import ImageError
from precap.extract import weights
from precap.extract.extractors._rpn import STRIDE, Proposals
from precap.extract.extractors._translate import Rules, translate
from precap.types import Field

#: (map (1, 1024, H, W), [boxes (R, 4)], output size, spatial scale) -> (R, 1024, 14, 14)
Pool = Callable[[Tensor, list[Tensor], int, float], Tensor]

#: Boxes through res5 at a time: 32 of them at 14 x 14 need about 0.2 GB.
_CHUNK = 32


class C4(nn.Module):
    """ResNet-C4 detector with a class-conditioned attribute head.

    classes and attributes count their background (index 0). Nothing here selects or rescales.
    """

    def __init__(
        self, resnet: ResNet, proposals: Proposals, pool: Pool, classes: int, attributes: int
    ) -> None:
        super().__init__()
        self.resnet, self.rpn, self.pool = resnet, proposals, pool
        self.class_logits = nn.Linear(2048, classes)
        self.box_deltas = nn.Linear(2048, 4 * classes)
        self.class_embedding = nn.Embedding(classes, 256)
        self.attribute_hidden = nn.Linear(2048 + 256, 512)
        self.attribute_logits = nn.Linear(512, attributes)

    def features(self, pixels: Tensor) -> Tensor:
        """(1, 3, H, W) network input to the C4 map (1, 1024, about H/16, about W/16)."""
        net = self.resnet
        x = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
        return net.layer3(net.layer2(net.layer1(x)))  # type: ignore[no-any-return]

    def regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        """(R, 2048) float32: res5 of every box (R, 4; network-input pixels), spatial mean."""
        parts = [self._regions(features, part) for part in torch.split(boxes, _CHUNK)]
        return torch.cat(parts)

    def _regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        pooled = self.pool(features.float(), [boxes], 14, 1 / STRIDE)  # (R, 1024, 14, 14)
        return self.resnet.layer4(pooled).float().mean((2, 3))  # type: ignore[no-any-return]

    def classes(self, regions: Tensor) -> Tensor:
        """(R, classes) probabilities of (R, 2048) features, background first."""
        return self.class_logits(regions).float().softmax(1)  # type: ignore[no-any-return]

    def attributes(self, regions: Tensor, labels: Tensor) -> Tensor:
        """(R, attributes) probabilities given the class labels (R,), "none" first."""
        return self.attribute_scores(regions, labels).softmax(1)

    def attribute_scores(self, regions: Tensor, labels: Tensor) -> Tensor:
        """(R, attributes) logits of (R, 2048) features joined with their classes' embeddings."""
        joined = torch.cat([regions, self.class_embedding(labels)], 1)  # (R, 2304)
        hidden = self.attribute_hidden(joined).relu()
        return self.attribute_logits(hidden).float()  # type: ignore[no-any-return]

    def read(self, found: weights.Weights, rules: Rules) -> None:
        """Fill the network: from a published checkpoint, its keys renamed by ``rules``, or a seed.

        Where objectness has two rows per anchor (background, foreground) their difference is
        kept: a sigmoid of it is the original's softmax.
        """
        if found.seed is not None:
            weights.randomise(self, found.seed)
            return
        assert found.path is not None
        state = translate(weights.load_state(found.path), rules)
        for name in ("rpn.objectness.weight", "rpn.objectness.bias"):
            if name in state and len(state[name]) == 2 * len(self.rpn.anchors):
                background, foreground = state[name].chunk(2)
                state[name] = foreground - background
        self.rpn.anchors = state.pop("rpn.anchors", self.rpn.anchors).float()
        weights.fit(self, state, str(found.path))


@dataclass(frozen=True)
class Found:
    """R regions of one image: features (R, 2048), boxes (R, 4) in network-input pixels, class
    probabilities (R, classes)."""

    regions: Tensor
    boxes: Tensor
    probs: Tensor

    def __getitem__(self, kept: Tensor) -> "Found":
        return Found(self.regions[kept], self.boxes[kept], self.probs[kept])


def look(network: C4, pixels: Tensor, scale: float, given: Tensor | None) -> Found:
    """Everything ``network`` sees in one image (1, 3, H, W), before any selection.

    given: boxes (R, 4) in network-input pixels to describe, or None for the network's proposals.
    Raises ImageError when it proposes nothing.
    """
    features = network.features(pixels)
    boxes = given
    if boxes is None:
        boxes = network.rpn(features, *pixels.shape[2:], scale)
        if not len(boxes):
            raise ImageError("no-regions", "the network proposes no box large enough")
    regions = network.regions(features, boxes)
    return Found(regions, boxes, network.classes(regions))


def fields(storage: str, width: int = 2048) -> tuple[Field, ...]:
    """What a C4 detector keeps of an image."""
    return (
        Field("region", "region", (None, width), storage),
        Field("boxes", "boxes", (None, 4)),
        Field("scores", "scores", (None,)),
        Field("classes", "classes", (None,), "int64"),
        Field("attributes", "attributes", (None,), "int64"),
        Field("attribute_scores", "scores", (None,)),
        Field("size", "size", (2,), "int64"),
    )
