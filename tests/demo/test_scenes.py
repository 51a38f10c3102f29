"""The demo's pictures: deterministic, varied, five sentences each, unseen pairs in test only."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from precap.demo import grammar
from precap.demo.drawing import render
from precap.demo.grammar import HELD_OUT, Scene, Thing, describe, draw_scene
from precap.demo.scenes import make_scenes
from precap.errors import ConfigError
from precap.store.datasets.dataset import Dataset, load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(make_scenes(tmp_path_factory.mktemp("scenes"), images=600, seed=3))


def digests(data: Dataset) -> list[str]:
    return [hashlib.sha256(ref.path.read_bytes()).hexdigest() for ref in data.images()]


def test_splits_and_captions_are_complete(made: Dataset) -> None:
    assert made.splits == {"train": 480, "val": 60, "test": 60}
    for captions in made.captions().values():
        assert len(set(captions)) == len(captions) == 5
    assert made.path is not None
    assert '"problems": {}' in (made.path / "dataset.json").read_text()


def test_the_seed_decides_everything(made: Dataset, tmp_path: Path) -> None:
    same = load(make_scenes(tmp_path / "same", images=600, seed=3))
    assert (digests(same), same.items) == (digests(made), made.items)
    other = load(make_scenes(tmp_path / "other", images=600, seed=4))
    assert not set(digests(other)) & set(digests(made))


def test_no_two_pictures_are_alike(made: Dataset) -> None:
    assert len(set(digests(made))) == 600


def test_a_larger_set_begins_with_the_smaller_one(made: Dataset, tmp_path: Path) -> None:
    larger = load(make_scenes(tmp_path, images=610, seed=3))
    assert digests(larger)[:600] == digests(made)


def test_pictures_are_jpegs_of_many_sizes_and_shapes(made: Dataset) -> None:
    sizes, upright = set(), 0
    for ref in made.images():
        with Image.open(ref.path) as picture:
            assert picture.format == "JPEG"
            upright += picture.getexif().get(0x0112, 1) == 1
            sizes.add(ImageOps.exif_transpose(picture).size)
    assert len(sizes) > 100
    assert len({round(width / height, 1) for width, height in sizes}) >= 5
    assert 160 <= max(max(size) for size in sizes) <= 320
    assert upright == 585


def test_held_out_pairs_are_seen_in_the_test_split_only(made: Dataset) -> None:
    pairs = "|".join(f"{colour} {shape}" for colour, shape in HELD_OUT)
    phrase = re.compile(rf"\b({pairs})(e?s)?\b")
    told = {id: bool(phrase.search(" ".join(texts))) for id, texts in made.captions().items()}
    assert not any(told[id] for split in ("train", "val") for id in made.ids(split))
    assert {id for id in told if told[id]} == set(made.domains()["unseen-pair"])
    assert len(made.domains()["unseen-pair"]) == 20


def test_all_words_of_the_test_split_were_seen_in_training(made: Dataset) -> None:
    def words(split: str) -> set[str]:
        captions = made.captions(split).values()
        return {word for texts in captions for text in texts for word in text.lower().split()}

    assert words("test") <= words("train")


def test_asking_again_keeps_what_is_there(tmp_path: Path) -> None:
    out = make_scenes(tmp_path, images=10, seed=0)
    first = (out / "images.jsonl").stat().st_mtime_ns
    assert make_scenes(tmp_path, images=10, seed=0) == out
    assert (out / "images.jsonl").stat().st_mtime_ns == first
    make_scenes(tmp_path, images=12, seed=0)
    assert len(load(out).items) == 12


def test_fewer_pictures_than_before_leave_no_others_behind(tmp_path: Path) -> None:
    make_scenes(tmp_path, images=12, seed=0)
    data = load(make_scenes(tmp_path, images=10, seed=0))
    assert sorted(p.name for p in data.root.iterdir()) == [r.path.name for r in data.images()]


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 10"):
        make_scenes(tmp_path, images=9)


def test_sentences_tell_what_is_there() -> None:
    star, cross = (
        Thing("star", "blue", "plain", "small"),
        Thing("cross", "orange", "dotted", "large"),
    )
    rng = np.random.default_rng(0)
    pair = describe(Scene((star, cross), "grey", relation="above"), rng)
    allowed = {
        "A blue star above an orange cross .",
        "An orange cross below a blue star .",
        "A small blue star above an orange cross .",
        "There is a blue star above a large dotted orange cross .",
        "A blue star above an orange cross on a grey background .",
        "A blue star and an orange cross on a grey background .",
    }
    assert set(pair) < allowed
    assert len(pair) == 5
    group = describe(Scene((cross,), "black", count=3), rng)
    assert sum("three large dotted orange crosses" in text.lower() for text in group) >= 3
    single = describe(Scene((star,), "white", place="top"), rng)
    assert sum("at the top of" in text or text.endswith("at the top .") for text in single) >= 4


def test_pictures_show_what_is_told() -> None:
    """Where a relation says left or above, the pixels of that colour lie there."""
    red, blue = Thing("circle", "red", "plain", "large"), Thing("square", "blue", "plain", "large")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for relation, axis in (("left", 1), ("above", 0)):
            scene = Scene((red, blue), "white", relation=relation)  # type: ignore[arg-type]
            pixels = np.asarray(render(scene, rng), np.int16)  # (H, W, 3)
            reddish = np.argwhere(pixels[..., 0] - pixels[..., 2] > 90)
            bluish = np.argwhere(pixels[..., 2] - pixels[..., 0] > 90)
            assert reddish[:, axis].max() < bluish[:, axis].mean()
            assert reddish[:, axis].mean() < bluish[:, axis].min()


def test_things_stay_inside_the_centre_crop() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, unseen=False)
        scene = Scene(scene.things, "black", scene.place, scene.relation, scene.count)
        pixels = np.asarray(render(scene, rng), np.int16).max(-1)  # (H, W)
        height, width = pixels.shape
        unit = min(height, width)
        rows, columns = np.nonzero(pixels > 120)
        assert rows.min() >= (height - unit) // 2
        assert rows.max() <= (height + unit) / 2
        assert columns.min() >= (width - unit) // 2
        assert columns.max() <= (width + unit) / 2


def test_every_held_out_pair_has_seen_parts() -> None:
    assert {colour for colour, _ in HELD_OUT} <= set(grammar.COLOURS)
    assert {shape for _, shape in HELD_OUT} <= set(grammar.SHAPES)
