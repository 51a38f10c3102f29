"""Which proposals become regions: the rules of bottom-up attention and of VinVL, as pure functions.

Both run non-maximum suppression inside every class over the same boxes; a proposal's score is the
best probability among the classes in which it survived. They differ in what IoU means (Caffe counts
pixels, so a box from 3 to 5 is 3 wide; VinVL's torchvision does not) and in the order they keep.
Boxes are (N, 4) x1 y1 x2 y2, probabilities (N, 1 + C) with the background first.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

#: Added to x2, y2 to turn plain IoU into Caffe's "+1 pixel" IoU.
_PIXEL = (0.0, 0.0, 1.0, 1.0)


def bottomup(boxes: Tensor, probs: Tensor, low: int, high: int, confidence: float) -> Tensor:
    """Indices kept by bottom-up attention (Anderson et al. 2018, generate_tsv.py).

    Those with score >= ``confidence``, in proposal order; if they are fewer than ``low`` or more
    than ``high``, the best ``low`` or ``high`` in descending score instead.
    """
    score = _best(boxes, probs, plus_one=True).amax(1)
    kept = (score >= confidence).nonzero()[:, 0]
    if low <= len(kept) <= high:
        return kept
    ranked = score.argsort(descending=True, stable=True)
    return ranked[: low if len(kept) < low else high]


def vinvl_per_class(
    boxes: Tensor, probs: Tensor, low: int, high: int, confidence: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(indices, 1-based classes, scores) of VinVL's NMS_FILTER 1, in descending score.

    A box suppressed in every class is gone. The clip of the count to ``low``..``high`` is by rank.
    """
    score, label = _best(boxes, probs, plus_one=False).max(1)
    alive = score.nonzero()[:, 0]
    ranked = alive[score[alive].argsort(descending=True, stable=True)]
    kept = ranked[: _count(score, low, high, confidence)]
    return kept, label[kept] + 1, score[kept]


def vinvl_agnostic(
    boxes: Tensor, probs: Tensor, low: int, high: int, confidence: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(indices, 1-based classes, scores) of VinVL's NMS_FILTER 2, in descending score.

    One suppression at IoU 0.5 over all classes, among boxes whose best class exceeds a hundredth
    of ``confidence``.
    """
    score, label = probs[:, 1:].max(1)
    likely = (score > confidence * 0.01).nonzero()[:, 0]
    ranked = likely[nms(boxes[likely], score[likely], 0.5)]
    kept = ranked[: _count(score[ranked], low, high, confidence)]
    return kept, label[kept] + 1, score[kept]


def _count(score: Tensor, low: int, high: int, confidence: float) -> int:
    return min(max(int((score >= confidence).sum()), low), high)


def _best(boxes: Tensor, probs: Tensor, plus_one: bool) -> Tensor:
    """(N, C) probabilities without background, zero where the class's suppression drops a box."""
    probs = probs[:, 1:]
    return probs * survivors(boxes, probs, 0.3, plus_one)


def survivors(boxes: Tensor, scores: Tensor, threshold: float, plus_one: bool) -> Tensor:
    """(N, C) bool: which boxes survive greedy suppression in each column of ``scores`` (N, C).

    The boxes are the same for every class, so the IoU is computed once and the greedy loop walks
    all classes together, one rank at a time.
    """
    over = iou(boxes, plus_one).double() > threshold  # (N, N)
    over.fill_diagonal_(False)
    order = scores.T.argsort(dim=1, descending=True, stable=True)  # (C, N)
    dead = torch.zeros_like(order, dtype=torch.bool)  # (C, N)
    rows = torch.arange(len(order), device=order.device)
    for best in order.T:  # (C,): each class's next box
        dead |= over[best] & ~dead[rows, best, None]
    return ~dead.T


def iou(boxes: Tensor, plus_one: bool = False) -> Tensor:
    """(N, N) intersection over union, in the arithmetic of the original kernels."""
    if plus_one:
        boxes = boxes + boxes.new_tensor(_PIXEL)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    start = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    stop = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inside = (stop - start).clamp(min=0).prod(2)  # (N, N)
    return inside / (area[:, None] + area[None] - inside)


def suppress(boxes: Tensor, scores: Tensor, threshold: float, plus_one: bool) -> Tensor:
    """Indices kept by one class-agnostic suppression, best first."""
    if plus_one:
        boxes = boxes + boxes.new_tensor(_PIXEL)
    return nms(boxes, scores, threshold)  # type: ignore[no-any-return]
