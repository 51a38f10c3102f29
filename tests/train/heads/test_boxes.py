"""Boxes and their unit: pixels need a size, and the size is that of the boxes' own store."""

import pytest
import torch

from precap import plugins
from precap.errors import ConfigError, DataError
from precap.train import heads
from precap.train.contract import Words
from precap.train.heads._boxes import relative
from precap.train.roles import resolve
from precap.types import FeatureSpec, Field

REGION = FeatureSpec(
    "region", 1, "none",
    (Field("region", "region", (None, 8)), Field("boxes", "boxes", (None, 4)),
     Field("size", "size", (2,), "int64")),
)  # fmt: skip
GEOMETRY = FeatureSpec("geometry", 1, "none", (Field("boxes", "boxes", (None, 4)),))


def test_pixel_boxes_are_divided_by_height_and_width() -> None:
    found = relative(torch.tensor([[[64.0, 48.0, 320.0, 240.0]]]), torch.tensor([[480, 640]]))
    assert torch.allclose(found, torch.tensor([[[0.1, 0.1, 0.5, 0.5]]]))


def test_pixel_boxes_without_a_size_are_refused() -> None:
    with pytest.raises(DataError, match="reach 320"):
        relative(torch.tensor([[[64.0, 48.0, 320.0, 240.0]]]), None)
    unit = torch.tensor([[[0.1, 0.1, 0.5, 1.01]]])
    assert relative(unit, None) is unit


def test_relative_boxes_of_one_store_are_not_divided_by_the_size_of_another() -> None:
    specs = {"r": REGION, "g": GEOMETRY}
    needs, takes = {"region", "boxes"}, {"size"}
    assert resolve(specs, needs, takes, {})["size"].store == "r"
    assert "size" not in resolve(specs, needs, takes, {"boxes": "g"})


@pytest.mark.parametrize("name", ["updown", "att2in"])
def test_a_head_that_attends_says_when_there_are_no_rows(name: str) -> None:
    kind = plugins.load(heads, name)
    with pytest.raises(ConfigError, match="region or grid"):
        kind(kind.Config(), {"global": 8}, Words(10, 0, 1, 2))
