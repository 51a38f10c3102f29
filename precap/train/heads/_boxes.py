"""Box arithmetic on the device: relative boxes, grid coverage, pairwise geometry."""

import torch
from torch import Tensor

from precap.errors import DataError

#: No relative coordinate is larger; some detectors overshoot 1 a little.
LIMIT = 2.0


def relative(boxes: Tensor, size: Tensor | None) -> Tensor:
    """(B, N, 4) corners over the pictures' ``size`` (B, 2) = height, width; or as they are.

    DataError for pixel boxes without a size: any picture of them would be wrong, silently.
    """
    if size is None:
        if boxes.numel() and boxes.amax() > LIMIT:
            raise DataError(
                f"The boxes reach {boxes.amax():.0f}, so they are pixels, and no store says how "
                f"large the pictures are. Use a store with a size field: extract the regions with "
                f"precap, or import them from a layout that knows the sizes."
            )
        return boxes
    return boxes / size.to(boxes.dtype)[:, [1, 0, 1, 0]].clamp_min(1)[:, None]


def coverage(boxes: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Relative boxes (B, N, 4) -> which share of each row and each column they cover, (B, N, g).

    h_c = g max(0, min(x2, (c+1)/g) - max(x1, c/g)), and likewise for rows.
    """
    edges = torch.arange(cells + 1, device=boxes.device, dtype=boxes.dtype) / cells
    x1, y1, x2, y2 = boxes.clamp(0, 1)[..., None].unbind(-2)  # (B, N, 1) each
    low, high = edges[:-1], edges[1:]
    columns = cells * (torch.minimum(x2, high) - torch.maximum(x1, low)).clamp_min(0)
    rows = cells * (torch.minimum(y2, high) - torch.maximum(y1, low)).clamp_min(0)
    return rows, columns


def sums(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of the g x g grid that rows and columns span, without making it."""
    return rows * columns.sum(-1, keepdim=True), columns * rows.sum(-1, keepdim=True)


def pairs(boxes: Tensor) -> Tensor:
    """(B, N, 4) -> (B, N, N, 4): ln of distance and size ratios (Herdade et al. 2019, eq. 6).

    With the original's pixel convention w = x2 - x1 + 1, whatever the unit of the boxes.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)  # (B, N)
    cx, cy = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    w, h = x2 - x1 + 1.0, y2 - y1 + 1.0

    def apart(c: Tensor, length: Tensor) -> Tensor:
        return ((c[:, :, None] - c[:, None]).abs() / length[:, :, None]).clamp_min(1e-3).log()

    def ratio(length: Tensor) -> Tensor:
        return (length[:, :, None] / length[:, None]).log()

    return torch.stack([apart(cx, w), apart(cy, h), ratio(w), ratio(h)], -1)


def waves(terms: Tensor) -> Tensor:
    """(..., 4) -> (..., 64): sines, then cosines, of 100 x terms at 8 rates 1000^(-k/8).

    In float64: the angles reach hundreds of radians, where float32 is off by 1e-4.
    """
    rates = 1000.0 ** (-torch.arange(8, device=terms.device, dtype=torch.float64) / 8)
    angles = (100.0 * terms.double()[..., None] * rates).flatten(-2)  # (..., 32)
    return torch.cat([angles.sin(), angles.cos()], -1).to(terms.dtype)
