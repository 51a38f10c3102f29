"""How pictures reach the detectors: sizes, scales and resizing of the published code."""

import numpy as np
import pytest
import torch

from precap.extract.extractors import bottomup, grit, vinvl


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (512, 384)),
        ((640, 427), (575, 384)),
        ((640, 360), (640, 360)),
        ((480, 640), (288, 384)),
        ((427, 640), (256, 384)),
        ((640, 640), (384, 384)),
    ],
)
def test_grit_fits_pictures_into_its_canvas(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert grit.fitted(*size, (384, 640)) == expected


def test_bottom_up_scales_the_short_side_to_600_and_caps_the_long_one() -> None:
    assert bottomup.fitting_scale(640, 480) == 1.25
    assert bottomup.fitting_scale(480, 640) == 1.25
    assert bottomup.fitting_scale(1000, 400) == 1.0
    assert bottomup.fitting_scale(100, 2000) == 0.5


def test_vinvl_sizes_round_down_like_the_original() -> None:
    assert vinvl.fitted(640, 480) == (800, 600)
    assert vinvl.fitted(427, 640) == (600, 899)
    assert vinvl.fitted(1000, 400) == (1000, 400)
    assert vinvl.fitted(333, 1000) == (333, 1000)
    assert vinvl.fitted(1, 5000) == (1, 5000)
    assert vinvl.fitted(3, 10000) == (1, 3333)


def test_enlarging_is_bilinear_with_repeated_edges() -> None:
    pixels = np.array([[0, 10], [20, 30]], np.float32)[..., None]
    row = bottomup.resized(pixels, 2.0)[0, :, 0]
    np.testing.assert_allclose(row, [0, 2.5, 7.5, 10])


def test_shrinking_samples_without_averaging() -> None:
    """torch's bilinear with a given scale and no antialiasing is the same rule."""
    draw = np.random.default_rng(0)
    pixels = draw.random((61, 47, 3), dtype=np.float32)
    found = bottomup.resized(pixels, 0.37)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(),
        scale_factor=0.37,
        mode="bilinear",
        recompute_scale_factor=False,
    )
    expected = wide[0].permute(1, 2, 0).numpy()
    assert found.shape == (23, 17, 3)
    rows, columns = expected.shape[:2]
    np.testing.assert_allclose(found[:rows, :columns], expected, atol=1e-5)
