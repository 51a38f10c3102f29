"""Every detector through the command line, from JPEG files to a store that verifies."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precap.store.reader import open_store
from tests.command import Precap

pytestmark = pytest.mark.timeout(1200)

SMALL = ("--set", "short=64", "--set", "long=96", "--set", "proposals=4")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two JPEGs and a boxes file for the first."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(4)
    (folder / "photos").mkdir()
    for name, width, height in (("one", 120, 90), ("two", 80, 100)):
        coarse = draw.integers(0, 256, (6, 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / "photos" / f"{name}.jpg", quality=90)
    boxes = {"one.jpg": {"width": 240, "height": 180, "boxes": [[20, 20, 200, 160]]}}
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("grit", ("--set", "canvas=[64, 64]"), "grid mask region boxes size"),
        ("bottomup", SMALL, "region boxes scores classes attributes attribute_scores size"),
        ("vinvl:agnostic", SMALL, "region boxes scores classes attributes attribute_scores size"),
        ("region", SMALL, "region boxes scores classes size"),
    ],
)
def test_photographs_become_regions(
    name: str, options: tuple[str, ...], fields: str, photos: Path, tmp_path: Path, precap: Precap
) -> None:
    data = tmp_path / "data"
    precap("data", "prepare", photos / "photos", "--out", data)
    precap(
        "extract", name, "--data", data, "--out", tmp_path, "--weights", "random:0", *options
    )  # fmt: skip
    store = open_store(tmp_path / name.replace(":", "-"))
    assert [field.name for field in store.spec.fields] == fields.split()
    for image, size in (("one", [90, 120]), ("two", [100, 80])):
        row = store.read(image)
        assert row["size"].tolist() == size
        assert len(row["boxes"]) == len(row["region"]) > 0
    precap("store", "verify", tmp_path / name.replace(":", "-"))


def test_boxes_of_a_file_and_a_picture_that_has_none(
    photos: Path, tmp_path: Path, precap: Precap
) -> None:
    data = tmp_path / "data"
    precap("data", "prepare", photos / "photos", "--out", data)
    out = precap(
        *("extract", "region:grid", "--data", data, "--out", tmp_path, "--weights", "random:0"),
        *("--set", f"boxes={photos / 'boxes.json'}", "--set", "grid={model: mobilenetv2_035}"),
        code=3,
    )
    assert "no-boxes" in out
    store = open_store(tmp_path / "region-grid")
    row = store.read("one")
    np.testing.assert_allclose(row["boxes"], [[10, 10, 100, 80]])
    assert row["region"].shape == (1, 1280)
    found = store.outcome("two")
    assert found is not None
    assert (found.status, found.reason) == ("skipped", "no-boxes")
