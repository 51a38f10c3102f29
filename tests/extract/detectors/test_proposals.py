"""Region proposals: anchors, decoding and filtering against the algorithm in plain loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from precap.extract.extractors._rpn import Convention, Proposals, anchor_table
from precap.extract.extractors.bottomup import _CONVENTION as CAFFE
from precap.extract.extractors.vinvl import _CONVENTION as VINVL


def test_anchors_are_py_faster_rcnns() -> None:
    """The table printed in py-faster-rcnn's generate_anchors.py (scales 8, 16, 32)."""
    expected = [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    np.testing.assert_array_equal(anchor_table((8, 16, 32)).numpy(), expected)
    assert len(anchor_table(CAFFE.scales)) == 12
    assert len(anchor_table(VINVL.scales)) == 15


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], plus: int) -> float:
    lap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + plus, 0, None)
    areas = [np.prod(box[2:] - box[:2] + plus) for box in (a, b)]
    union = sum(areas) - np.prod(lap)
    return float(np.prod(lap) / union) if union > 0 else 0.0


def by_hand(net: Proposals, maps: torch.Tensor, size: tuple[int, int], scale: float) -> list[Any]:
    """Caffe's proposal layer, or maskrcnn-benchmark's, one anchor at a time."""
    rule = net.convention
    hidden = net.conv(maps).relu()
    scores, deltas = net.objectness(hidden)[0], net.deltas(hidden)[0]
    found = []
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            for a, anchor in enumerate(anchor_table(rule.scales).tolist()):
                dx, dy, dw, dh = deltas[4 * a : 4 * a + 4, y, x].tolist()
                w, h = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
                cx, cy = anchor[0] + 16 * x + w / 2 + dx * w, anchor[1] + 16 * y + h / 2 + dy * h
                w, h = w * math.exp(min(dw, 4.135)), h * math.exp(min(dh, 4.135))
                stop = [cx + w / 2 - rule.closed, cy + h / 2 - rule.closed]
                box = np.array([cx - w / 2, cy - h / 2, *stop])
                box = box.clip(0, [size[1] - 1, size[0] - 1] * 2)
                if min(box[2:] - box[:2] + 1) >= rule.smallest * scale:
                    found.append((float(scores[a, y, x]), box))
    found.sort(key=lambda pair: -pair[0])
    kept: list[NDArray[np.float64]] = []
    for _, box in found[: rule.considered]:
        if all(overlap(box, other, rule.plus_one) <= rule.overlap for other in kept):
            kept.append(box)
    return [*kept[: rule.kept]]


@pytest.mark.parametrize("published", [CAFFE, VINVL], ids=["caffe", "vinvl"])
def test_proposals_equal_the_algorithm_written_out(published: Convention) -> None:
    torch.manual_seed(0)
    limits = {"considered": 80, "kept": 20}
    rule = Convention(**{**published.__dict__, **limits})
    net = Proposals(8, rule).eval()
    torch.nn.init.normal_(net.deltas.weight, std=0.3)
    maps = torch.randn(1, 1024, 4, 5)
    with torch.inference_mode():
        found = net(maps, 60, 75, 1.25)
        expected = by_hand(net, maps, (60, 75), 1.25)
    assert 5 < len(expected) <= 20
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-3)


def test_small_boxes_are_dropped_by_the_original_picture_size() -> None:
    torch.manual_seed(1)
    net = Proposals(8, CAFFE).eval()
    maps = torch.randn(1, 1024, 4, 4)
    with torch.inference_mode():
        sides = (net(maps, 64, 64, 1.0)[:, 2:] - net(maps, 64, 64, 1.0)[:, :2] + 1).amin()
        assert sides >= 16
        assert len(net(maps, 64, 64, 4.5)) == 0
