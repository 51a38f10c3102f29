"""Boxes from a file: found by path, scaled, clipped, or refused with a reason."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from precap.errors import ConfigError, ImageError
from precap.extract.contract import Setting
from precap.extract.extractors._given import GivenBoxes
from precap.extract.reading import reader
from precap.extract.recipe import build
from precap.types import FeatureSpec, ImageRef

ENTRIES = {
    "a.jpg": {"width": 100, "height": 50, "boxes": [[10, 10, 50, 60], [0, 0, 5, 5]]},
    "deep/a.jpg": {"width": 100, "height": 50, "boxes": [[1, 2, 3, 4]]},
    "none.jpg": {"width": 10, "height": 10, "boxes": []},
    "flat.jpg": {"width": 10, "height": 10, "boxes": [[3, 3, 3, 9]]},
}


def boxes_file(folder: Path, entries: Any = ENTRIES) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(entries))
    return path


def image(path: str, size: tuple[int, int] = (100, 50)) -> Image.Image:
    picture = Image.new("RGB", size)
    picture.info["path"] = path
    return picture


def test_the_longest_ending_of_the_path_wins(tmp_path: Path) -> None:
    given = GivenBoxes(boxes_file(tmp_path))
    np.testing.assert_allclose(given.of(image("/data/deep/a.jpg"))["boxes"], [[1, 2, 3, 4]])
    assert len(given.of(image("/data/shallow/a.jpg"))["boxes"]) == 2


def test_boxes_follow_the_size_of_the_picture_and_stay_inside(tmp_path: Path) -> None:
    found = GivenBoxes(boxes_file(tmp_path)).of(image("a.jpg", (200, 200)))
    np.testing.assert_allclose(found["boxes"], [[20, 40, 100, 200], [0, 0, 10, 20]])
    assert found["boxes"].dtype == np.float32


def test_scores_and_classes_come_along_when_all_entries_have_them(tmp_path: Path) -> None:
    assert [f.name for f in GivenBoxes(boxes_file(tmp_path)).fields] == ["boxes"]
    full = {"a.jpg": {**ENTRIES["a.jpg"], "scores": [0.9, 0.1], "classes": [3, 7]}}
    given = GivenBoxes(boxes_file(tmp_path, full))
    found = given.of(image("a.jpg"))
    assert [f.name for f in given.fields] == ["boxes", "scores", "classes"]
    np.testing.assert_allclose(found["scores"], [0.9, 0.1])
    assert found["classes"].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("path", "reason", "skipped"),
    [("b.jpg", "no-boxes", True), ("none.jpg", "no-boxes", True), ("flat.jpg", "bad-boxes", False)],
)
def test_a_picture_without_usable_boxes_is_counted(
    path: str, reason: str, skipped: bool, tmp_path: Path
) -> None:
    with pytest.raises(ImageError) as caught:
        GivenBoxes(boxes_file(tmp_path)).of(image(path))
    assert (caught.value.reason, caught.value.skipped) == (reason, skipped)


@pytest.mark.parametrize("text", ["[1, 2]", '{"a.jpg": [1]}', "no json"])
def test_a_file_of_another_layout_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="boxes file"):
        GivenBoxes(path)
    with pytest.raises(ConfigError, match="Could not read"):
        GivenBoxes(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"boxes": [[1, 2, 3, 4], [1, 2]]}, "boxes must be a list"),
        ({"boxes": [[1, 2, 3, 4, 0.9]] * 4}, "boxes must be a list"),
        ({"boxes": [1, 2, 3, 4]}, "boxes must be a list"),
        ({"boxes": [["1", "2", "3", "4"]]}, "boxes must be a list"),
        ({"boxes": [[1, 2, None, 4]]}, "boxes must be a list"),
        ({"boxes": [[1, 2, float("nan"), 4]]}, "boxes must be a list"),
        ({"boxes": None}, "boxes must be a list"),
        ({"boxes": [[1, 2, 3, 4]], "width": 0, "height": 9}, "width is 0"),
        ({"boxes": [[1, 2, 3, 4]], "width": 9, "height": None}, "height is None"),
        ({"boxes": [[1, 2, 3, 4]], "height": "9"}, "height is '9'"),
        ({"boxes": [[1, 2, 3, 4]], "scores": None}, "scores must be 1 numbers"),
        ({"boxes": [[1, 2, 3, 4]], "scores": [0.1, 0.2]}, "scores must be 1 numbers"),
        ({"boxes": [[1, 2, 3, 4]], "classes": ["cat"]}, "classes must be 1 whole numbers"),
        ({"boxes": [[1, 2, 3, 4]], "classes": [1.5]}, "classes must be 1 whole numbers"),
    ],
)
def test_a_malformed_entry_is_named_when_the_file_is_read(
    entry: Any, said: str, tmp_path: Path
) -> None:
    path = boxes_file(tmp_path, {**ENTRIES, "set/odd.jpg": entry})
    with pytest.raises(ConfigError, match=rf"boxes\.json, 'set/odd\.jpg': {said}"):
        GivenBoxes(path)


def test_augmented_views_are_refused_with_given_boxes(tmp_path: Path) -> None:
    path = str(boxes_file(tmp_path))
    with pytest.raises(ConfigError, match="--views"):
        build("region", {"boxes": path}, Setting(weights="random:0", views=2))


def test_grid_backend_needs_boxes_and_the_whole_picture(tmp_path: Path) -> None:
    setting = Setting(weights="random:0")
    for options in ({}, {"boxes": str(boxes_file(tmp_path)), "grid": {"fit": "crop"}}):
        with pytest.raises(ConfigError, match="squashed"):
            build("region:grid", options, setting)


def test_a_map_is_averaged_over_each_box(tmp_path: Path) -> None:
    """A box over everything is the mean of the map; two halves differ and average to about it."""
    half = {"a.jpg": {"boxes": [[0, 0, 100, 50], [0, 0, 50, 50], [50, 0, 100, 50]]}}
    options = {"boxes": str(boxes_file(tmp_path, half)), "grid": {"model": "mobilenetv2_035"}}
    setting = Setting(weights="random:0", storage="float32")
    made = build("region:grid", options, setting)
    draw = np.random.default_rng(2)
    picture = Image.fromarray(draw.integers(0, 256, (50, 100, 3), np.uint8))
    picture.info["path"] = "a.jpg"
    row = made.extract([made.prepare(picture)])[0]
    plain = build("grid:mobilenetv2_035", {"fit": "squash"}, setting)
    tokens = plain.extract([plain.prepare(picture)])[0]["tokens"].reshape(7, 7, -1)
    whole, left, right = row["region"]
    assert row["region"].shape == (3, 1280)
    assert [field.name for field in made.spec.fields] == ["region", "boxes", "size"]
    largest = np.abs(whole).max()
    np.testing.assert_allclose(whole, tokens.mean((0, 1)), atol=1e-5 * largest)
    np.testing.assert_allclose((left + right) / 2, whole, atol=0.2 * largest)
    assert np.abs(left - right).max() > 0.05 * largest


class Fake:
    """An extractor that reads boxes from a file, or not."""

    reads = "image"
    spec = FeatureSpec("fake", 1, "none", ())

    def __init__(self, given: object) -> None:
        self.given = given

    def prepare(self, item: object) -> dict[str, Any]:
        return {}


def test_copies_with_boxes_of_their_own_are_no_copies(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    ref = ImageRef("a", tmp_path / "a.png")
    given: Any = Fake(object())
    plain: Any = Fake(None)
    assert reader(given, Setting())(ref).digest == ""
    assert len(reader(plain, Setting())(ref).digest) == 64
