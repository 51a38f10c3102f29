"""Box arithmetic on cases small enough to check by hand; the golden cases are in tests/extract."""

import numpy as np
import pytest

from precap import geometry


def test_relative_divides_by_the_size_and_clips() -> None:
    boxes = np.array([[64, 48, 320, 480], [-5, 0, 700, 500]])
    found = geometry.relative(boxes, np.array([480, 640]))
    np.testing.assert_allclose(found, [[0.1, 0.1, 0.5, 1], [0, 0, 1, 1]], atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_overlap_of_boxes(dtype: type) -> None:
    a = np.array([[0, 0, 4, 4], [0, 0, 0, 0]], dtype)
    b = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [9, 9, 10, 10], [0, 0, 0, 0]], dtype)
    np.testing.assert_allclose(geometry.iou(a, b), [[1, 4 / 28, 0, 0], [0, 0, 0, 0]], atol=1e-7)
    np.testing.assert_array_equal(geometry.areas(b), [16, 16, 1, 0])


def test_a_box_turned_inside_out_has_no_area() -> None:
    assert geometry.areas(np.array([[4.0, 4.0, 1.0, 1.0]])) == 0


def test_every_pair_is_there_and_ratios_are_antisymmetric() -> None:
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.9], [0, 0, 1, 1]], np.float32)
    terms = geometry.pairwise(boxes)
    assert terms.shape == (3, 3, 4)
    np.testing.assert_allclose(terms[0, 1], [-1.386294, -2.639057, -0.068993, -0.251314], atol=1e-5)
    np.testing.assert_allclose(terms[..., 2:], -terms.transpose(1, 0, 2)[..., 2:], atol=1e-6)
    np.testing.assert_allclose(np.diagonal(terms).T[:, :2], np.log(1e-3), atol=1e-5)
    assert geometry.waves(terms).shape == (3, 3, 64)


def test_the_whole_picture_covers_every_cell_and_an_empty_box_none() -> None:
    boxes = np.array([[0, 0, 1, 1], [0.3, 0.3, 0.3, 0.3]])
    np.testing.assert_allclose(geometry.grid_weights(boxes, 3), [[1] * 9, [0] * 9])
    np.testing.assert_allclose(geometry.grid_weights(boxes, 3, "area").sum(-1), [1, 0])
    np.testing.assert_allclose(geometry.grid_weights(boxes, 3, "box").sum(-1), [1, 0])
