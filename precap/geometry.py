"""Box arithmetic in numpy: relative boxes, pairwise geometry, how boxes cover a grid of cells."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def relative(boxes: Array, size: Array) -> Array:
    """Pixel boxes (N, 4) x1, y1, x2, y2 over the size (height, width), clipped to [0, 1]."""
    height, width = np.asarray(size, np.float64)[:2]
    scale = np.array([width, height, width, height])
    unit: Array = np.clip(np.asarray(boxes, np.float64) / scale, 0.0, 1.0)
    return unit.astype(np.float32)


def areas(boxes: Array) -> Array:
    """Areas (N,) of boxes (N, 4); 0 for a box turned inside out."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    area: Array = sides[..., 0] * sides[..., 1]
    return area


def iou(a: Array, b: Array) -> Array:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    both = sides[..., 0] * sides[..., 1]  # (N, M)
    either = areas(a)[:, None] + areas(b)[None] - both
    shares: Array = np.zeros(both.shape, np.result_type(both, np.float32))
    np.divide(both, either, out=shares, where=either > 0)
    return shares


def pairwise(boxes: Array) -> Array:
    """Object Relation Transformer's four terms (N, N, 4) for every pair of boxes (N, 4).

    Herdade et al. 2019, eq. 6: log of offsets over the first box's sides and of ratios of sides.
    Sides are x2 - x1 + 1 whatever the unit, as the published code has it; offsets are at least
    1e-3 of a side.
    """
    boxes = np.asarray(boxes, np.float32)
    x1, y1, x2, y2 = boxes.T
    centre = np.stack([(x1 + x2) * np.float32(0.5), (y1 + y2) * np.float32(0.5)])  # (2, N)
    sides = np.stack([x2 - x1 + 1, y2 - y1 + 1])
    offsets = np.abs(centre[:, :, None] - centre[:, None]) / sides[:, :, None]  # (2, N, N)
    ratios = sides[:, :, None] / sides[:, None]
    terms = np.concatenate([np.log(np.maximum(offsets, np.float32(1e-3))), np.log(ratios)])
    return terms.transpose(1, 2, 0)  # (N, N, 4)


def waves(terms: Array, dim: int = 64, wavelength: float = 1000.0) -> Array:
    """Sines then cosines of ``pairwise`` terms (..., 4) at dim / 8 frequencies: (..., dim).

    Herdade et al. 2019: 100 * term * wavelength^(-8k / dim), term by term.
    """
    steps = np.arange(dim // 8, dtype=np.float32)
    frequencies = np.float32(wavelength) ** (-steps / np.float32(dim / 8))
    angles = np.float32(100) * terms[..., None] * frequencies  # (..., 4, dim / 8)
    angles = angles.reshape(*terms.shape[:-1], dim // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def cover(boxes: Array, cells: int) -> tuple[Array, Array]:
    """How much of each row and each column of a cells x cells grid relative boxes (N, 4) cover.

    Two arrays (N, cells) in [0, 1]: rows (over y), columns (over x); in the boxes' float dtype.
    """
    x1, y1, x2, y2 = (side[:, None] for side in np.clip(boxes, 0, 1).T)  # (N, 1) each
    edges = np.arange(cells + 1) / cells
    low, high = edges[:-1], edges[1:]

    def covered(start: Array, stop: Array) -> Array:
        shared: Array = cells * np.maximum(0, np.minimum(stop, high) - np.maximum(start, low))
        return shared

    return covered(y1, y2), covered(x1, x2)


def grid_weights(boxes: Array, cells: int, mode: Literal["cell", "area", "box"] = "cell") -> Array:
    """Spatial weights (N, cells * cells), row-major: the share of each cell that a box covers.

    Spatial-Image-Captioning publishes the interface, not the script: this is precap's own
    definition. mode "area" divides by the number of cells, "box" by the box's own sum.
    """
    rows, columns = cover(boxes, cells)
    weights: Array = (rows[:, :, None] * columns[:, None]).reshape(len(rows), cells * cells)
    if mode == "area":
        return weights / (cells * cells)
    if mode == "box":
        total: Array = weights.sum(-1, keepdims=True)
        return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return weights
