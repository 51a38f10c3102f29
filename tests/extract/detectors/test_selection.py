"""The selection rules keep exactly the proposals that the published code keeps, in its order."""

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from precap.extract.extractors import _selection
from tests.extract.golden import FOLDER, Case

BOTTOMUP = {
    "butd_10_100": (10, 100, 0.2),
    "butd_fixed_36": (36, 36, 0.2),
    "butd_1_5": (1, 5, 0.2),
    "butd_10_100_conf_0.9": (10, 100, 0.9),
}
VINVL = {
    "10_100": (10, 100, 0.2),
    "1_5": (1, 5, 0.2),
    "36_36": (36, 36, 0.2),
    "10_100_thresh_0.9": (10, 100, 0.9),
}


@pytest.fixture(scope="module")
def case() -> Case:
    with np.load(FOLDER / "selection_rule.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads((FOLDER / "selection_rule.json").read_text("utf-8"))
    return Case("selection_rule", arrays, meta)


def given(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(case.expected["boxes"]), torch.from_numpy(case.expected["class_probs"])


@pytest.mark.parametrize("name", BOTTOMUP)
def test_bottom_up_rule(case: Case, name: str) -> None:
    kept = _selection.bottomup(*given(case), *BOTTOMUP[name])
    np.testing.assert_array_equal(kept.numpy(), case.expected[name])


@pytest.mark.parametrize("filter_", [1, 2])
@pytest.mark.parametrize("name", VINVL)
def test_vinvl_rules(case: Case, filter_: int, name: str) -> None:
    rule = {1: _selection.vinvl_per_class, 2: _selection.vinvl_agnostic}[filter_]
    kept, labels, scores = rule(*given(case), *VINVL[name])
    key = f"vinvl_filter{filter_}_{name}"
    np.testing.assert_array_equal(kept.numpy(), case.expected[key])
    np.testing.assert_array_equal(labels.numpy(), case.expected[f"{key}_labels"])
    case.close(f"{key}_scores", scores.numpy(), atol=1e-6)


def greedy(boxes: NDArray[np.float32], scores: NDArray[np.float32], plus: float) -> set[int]:
    """Suppression at 0.3 by its definition, one pair at a time."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            lap = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            inside = np.prod(np.clip(lap + plus, 0, None))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2] + plus) for k in (i, j)]
            if inside / (sum(areas) - inside) > 0.3:
                break
        else:
            kept.append(int(i))
    return set(kept)


@pytest.mark.parametrize("plus_one", [True, False])
def test_all_classes_at_once_equal_one_class_at_a_time(plus_one: bool) -> None:
    draw = np.random.default_rng(5)
    start = draw.uniform(0, 60, (40, 2))
    boxes = np.concatenate([start, start + draw.uniform(1, 40, (40, 2))], 1).astype(np.float32)
    scores = draw.random((40, 7), dtype=np.float32)
    alive = _selection.survivors(torch.tensor(boxes), torch.tensor(scores), 0.3, plus_one).numpy()
    for column in range(7):
        expected = greedy(boxes, scores[:, column], float(plus_one))
        assert set(alive[:, column].nonzero()[0].tolist()) == expected
        assert 1 < len(expected) < 40


def test_plain_suppression_is_torchvisions_own() -> None:
    draw = torch.Generator().manual_seed(1)
    start = torch.rand(200, 2, generator=draw) * 50
    boxes = torch.cat([start, start + 1 + 30 * torch.rand(200, 2, generator=draw)], 1)
    scores = torch.rand(200, 3, generator=draw)
    alive = _selection.survivors(boxes, scores, 0.3, plus_one=False)
    for column in range(3):
        kept = nms(boxes, scores[:, column], 0.3)
        assert alive[:, column].nonzero()[:, 0].tolist() == sorted(kept.tolist())


def test_one_box_and_boxes_without_area_survive_alone() -> None:
    one = torch.tensor([[3.0, 3.0, 3.0, 9.0]])
    probs = torch.tensor([[0.5, 0.25, 0.25]])
    assert _selection.bottomup(one, probs, 10, 100, 0.2).tolist() == [0]
    kept, labels, scores = _selection.vinvl_per_class(one, probs, 10, 100, 0.2)
    assert (kept.tolist(), labels.tolist(), scores.tolist()) == ([0], [1], [0.25])
