"""Published weights and a real detector's boxes on real photographs; skipped where not at hand."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from precap.store.reader import Store, open_store
from tests.command import Precap

SHARED = Path(__file__).parents[3] / "shared" / "data"
DATA = Path(os.environ.get("PRECAP_BENCH_DATA", SHARED))
COCO, MOBILENET = DATA / "coco" / "images", DATA / "weights" / "mobilenetv2_100"
WEIGHTS, BOXES = MOBILENET / "imagenet.safetensors", COCO / "boxes_yolox_nano.json"
pytestmark = [
    pytest.mark.timeout(300),
    *(
        pytest.mark.skipif(not path.is_file(), reason=f"there is no {path}")
        for path in (WEIGHTS, BOXES)
    ),
]


#: Every extractor that reads pictures.
READERS = ("bottomup", "clip", "grid", "grit", "region", "tinyvit", "vinvl", "xvlm")


def extracted(precap: Precap, out: Path, name: str, count: int, *options: str | Path) -> Store:
    """The store of ``count`` photographs."""
    precap("data", "prepare", COCO / "captions.json", "--images", COCO, "--out", out / "data")
    precap(
        *("extract", name, "--data", out / "data", "--out", out, "--images", str(count)),
        *("--weights", WEIGHTS, "--device", "cpu", *options),
    )
    return open_store(out / name.replace(":", "-"))


def test_published_weights_see_what_is_on_the_photographs(tmp_path: Path, precap: Precap) -> None:
    """One of the five likeliest ImageNet classes is named in the captions: often, not by chance."""
    same = ("--set", "pad_type=same")
    store = extracted(precap, tmp_path, "grid:mobilenetv2_100", 24, *same)
    classifier = load_file(WEIGHTS)
    rows = (MOBILENET / "imagenet_labels.txt").read_text().splitlines()[1:]
    labels = [set(re.findall("[a-z]+", row.lower())) for row in rows]
    told = {
        str(entry["image_id"]): set(re.findall("[a-z]+", " ".join(entry["captions"]).lower()))
        for entry in json.loads((COCO / "captions.json").read_text())
    }
    hits, chance = 0, []
    for image in store.ids:
        pooled = store.read(image)["pooled"].astype(np.float32)
        logits = classifier["classifier.weight"] @ pooled + classifier["classifier.bias"]
        named = np.array([bool(label & told[image]) for label in labels])
        hits += bool(named[np.argsort(logits)[-5:]].any())
        chance.append(1 - (1 - named.mean()) ** 5)
    assert hits > 2 * sum(chance)


def test_boxes_of_a_detector_become_regions(tmp_path: Path, precap: Precap) -> None:
    options = ("--backend", "grid", "--boxes", BOXES)
    grid = ("--set", "grid={model: mobilenetv2_100, pad_type: same}")
    store = extracted(precap, tmp_path, "region", 6, *options, *grid)
    given = json.loads(BOXES.read_text())
    assert len(store.ids) == 6
    for image in store.ids:
        row, entry = store.read(image), given[f"train2017/{int(image):012d}.jpg"]
        np.testing.assert_allclose(row["boxes"], entry["boxes"], atol=0.1)
        np.testing.assert_allclose(row["scores"], entry["scores"], atol=1e-3)
        assert row["classes"].tolist() == entry["classes"]
        assert row["region"].shape == (len(entry["boxes"]), 1280)
        assert row["region"].std(0).max() > 0.1  # boxes of one picture differ


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*READERS, "geometry"])
def test_every_extractor_reads_photographs(
    name: str, tmp_path: Path, precap: Precap, request: pytest.FixtureRequest
) -> None:
    """At published sizes with random weights: each photograph ends as finite rows in its store."""
    if "torture" not in request.config.getoption("-m"):
        pytest.skip("networks of published sizes take minutes: `make torture`")
    lines = precap("extract", "--list", "--json").splitlines()
    assert {json.loads(line)["name"] for line in lines} == {*READERS, "geometry"}
    first = "region" if name == "geometry" else name
    store = extracted(precap, tmp_path, first, 2, "--weights", "random:0")
    if name == "geometry":
        data = ("--data", tmp_path / "data", "--out", tmp_path, "--images", "2")
        precap("extract", "geometry", *data, "--parent", tmp_path / "region")
        store = open_store(tmp_path / "geometry")
    assert len(store.ids) == 2
    for image in store.ids:
        for field, value in store.read(image).items():
            assert np.isfinite(value).all(), field
