"""The C4 region network that bottom-up attention and VinVL share: ResNet to stride 16, RoI head res5.

One class, one image at a time: a feature map, boxes proposed on it (or given), res5 on every box,
then class and attribute predictions. What the two networks do differently comes in as arguments.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from precap.extract.extractors._rpn import STRIDE, Proposals

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
        """(R, 2048) float32: res5 of every box (R, 4; network-input pixels), averaged over space."""
        parts = [self._regions(features, part) for part in boxes.split(_CHUNK)]
        return torch.cat(parts) if parts else boxes.new_zeros(0, 2048)

    def _regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        pooled = self.pool(features, [boxes.to(features.dtype)], 14, 1 / STRIDE)
        return self.resnet.layer4(pooled).float().mean((2, 3))  # type: ignore[no-any-return]

    def classes(self, regions: Tensor) -> Tensor:
        """(R, classes) probabilities of (R, 2048) features, background first."""
        return self.class_logits(regions).float().softmax(1)  # type: ignore[no-any-return]

    def attributes(self, regions: Tensor, labels: Tensor) -> Tensor:
        """(R, attributes) probabilities given the class labels (R,), "none" first."""
        joined = torch.cat([regions, self.class_embedding(labels)], 1)  # (R, 2304)
        hidden = self.attribute_hidden(joined).relu()
        return self.attribute_logits(hidden).float().softmax(1)  # type: ignore[no-any-return]
