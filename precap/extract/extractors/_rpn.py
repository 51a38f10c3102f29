"""The region proposal network of the C4 detectors: the best 300 boxes on one map.

Bottom-up attention (Caffe) and VinVL (maskrcnn-benchmark) share the network and differ in small
conventions that move boxes by a pixel and flip near-ties; ``Convention`` names each of them.
Ren et al. 2015, "Faster R-CNN", section 3.1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precap.extract.extractors._selection import suppress

STRIDE = 16
#: exp() of more than this would turn a 16-pixel anchor into a box of over 1000 pixels.
_LARGEST = math.log(1000 / 16)


@dataclass(frozen=True)
class Convention:
    """How proposals are decoded and filtered.

    scales: anchor side lengths / 16, three ratios each. closed: x2 is the last pixel inside (the
    decoded width loses one). smallest: least width and height in pixels at scale 1, 0 for any;
    with it small boxes go before the ranking, so they do not use up a place among the
    ``considered``. plus_one: Caffe's IoU. considered, kept: before and after suppression at 0.7.
    """

    scales: tuple[int, ...]
    closed: bool
    smallest: int
    plus_one: bool
    considered: int = 6000
    kept: int = 300
    overlap: float = 0.7


class Proposals(nn.Module):
    """C4 map (1, 1024, H, W) to at most ``kept`` boxes (N, 4), best first."""

    anchors: Tensor

    def __init__(self, channels: int, convention: Convention) -> None:
        super().__init__()
        self.convention = convention
        # Never random, and in the published files only at times: not part of the state.
        self.register_buffer("anchors", anchor_table(convention.scales), persistent=False)  # (A, 4)
        count = len(self.anchors)
        self.conv = nn.Conv2d(1024, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, count, 1)
        self.deltas = nn.Conv2d(channels, 4 * count, 1)

    def forward(self, features: Tensor, height: int, width: int, scale: float) -> Tensor:
        """Boxes in network-input pixels, clipped to it.

        features: (1, 1024, H, W). height, width: of the network input. scale: input pixels per
        original pixel, which the smallest allowed box follows.
        """
        hidden = self.conv(features).relu()
        scores = self.objectness(hidden)[0].permute(1, 2, 0).flatten().float()  # (H*W*A,)
        deltas = self.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4).float()  # (H*W*A, 4)
        boxes = self._decode(deltas, self._grid(features.shape[2], features.shape[3]))
        limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        return self._best(boxes, scores, scale)

    def _grid(self, rows: int, columns: int) -> Tensor:
        """(rows*columns*A, 4) the anchors at every cell, row-major, anchors fastest."""
        y = torch.arange(rows, device=self.anchors.device) * STRIDE
        x = torch.arange(columns, device=self.anchors.device) * STRIDE
        y, x = torch.meshgrid(y, x, indexing="ij")
        shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (rows*columns, 1, 4)
        return (self.anchors + shift).reshape(-1, 4)

    def _decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        size = anchors[:, 2:] - anchors[:, :2] + 1
        centre = anchors[:, :2] + 0.5 * size + deltas[:, :2] * size
        half = 0.5 * size * deltas[:, 2:].clamp(max=_LARGEST).exp()
        return torch.cat([centre - half, centre + half - float(self.convention.closed)], 1)

    def _best(self, boxes: Tensor, scores: Tensor, scale: float) -> Tensor:
        rule = self.convention
        if rule.smallest:
            size = boxes[:, 2:] - boxes[:, :2] + 1
            large = (size >= rule.smallest * scale).all(1)
            boxes, scores = boxes[large], scores[large]
        scores, ranked = scores.sort(descending=True, stable=True)
        scores, boxes = scores[: rule.considered], boxes[ranked[: rule.considered]]
        return boxes[suppress(boxes, scores, rule.overlap, rule.plus_one)[: rule.kept]]


def anchor_table(scales: tuple[int, ...]) -> Tensor:
    """(3 * len(scales), 4) float32: py-faster-rcnn's anchors around a 16-pixel cell, ratio-major.

    Its rounding matters: width = round(sqrt(256 / ratio)), height = round(width * ratio), for
    ratio = height / width in 0.5, 1, 2.
    """
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = round(math.sqrt(STRIDE * STRIDE / ratio))
        height = round(width * ratio)
        for scale in scales:
            x, y = 0.5 * (width * scale - 1), 0.5 * (height * scale - 1)
            rows.append([7.5 - x, 7.5 - y, 7.5 + x, 7.5 + y])
    return torch.tensor(rows)
