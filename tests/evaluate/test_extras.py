"""Diversity, CLIPScore from cached embeddings, heat maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precap.errors import DataError
from precap.evaluate import clipscore, heatmaps, metrics
from precap.evaluate.diversity import diversity

# ---- diversity


def test_diversity_by_hand() -> None:
    found = diversity(
        {"1": "a dog runs", "2": "A dog runs.", "3": "a cat"}, ["a cat .", "the cat sits"]
    )
    assert found == {
        "vocabulary": 4,
        "distinct-1": 4 / 8,
        "distinct-2": 3 / 5,
        "unique": 1 / 3,
        "words": 8 / 3,
        "shortest": 2,
        "longest": 3,
        "novel": 2 / 3,
    }
    assert "novel" not in diversity({"1": "a dog"})
    assert diversity({}) == {}
    assert diversity({"1": ""})["distinct-2"] == 0


# ---- CLIPScore


class Words:
    """Text embeddings by hand: one axis per word, counting how often it is asked."""

    axes = ("dog", "cat", "red")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        self.asked += captions
        return np.array([[float(word in c) for word in self.axes] for c in captions])


CAPTIONS = {"1": "a dog", "2": "a red cat", "3": "nothing"}
REFERENCES = {"1": ["a dog", "a cat"], "2": ["a cat"], "3": ["a dog"]}
IMAGES = {
    "1": np.array([2.0, 0, 0], dtype=np.float16),
    "2": np.array([0, 1.0, 0], dtype=np.float16),
    "3": np.array([1.0, 1.0, 1.0], dtype=np.float16),
}


def base() -> metrics.Scores:
    found = metrics.score(CAPTIONS, REFERENCES, ["rouge", "clipscore"])
    assert "CLIP features" in found.unavailable["CLIPScore"]
    return found


def test_clipscore_by_hand() -> None:
    found = clipscore.add(base(), CAPTIONS, REFERENCES, IMAGES, clipscore.Texts(Words(), "m"))
    half = 2.5 * 0.5**0.5
    near = 0.5**0.5
    assert found.per_image["CLIPScore"] == pytest.approx({"1": 2.5, "2": half, "3": 0})
    expected = {"1": 2 * 2.5 / 3.5, "2": 2 * half * near / (half + near), "3": 0}
    assert found.per_image["RefCLIPScore"] == pytest.approx(expected)
    assert found.corpus["CLIPScore"] == pytest.approx((2.5 + half) / 3)
    assert "ROUGE-L" in found.corpus
    assert found.unavailable == {}


def test_a_caption_is_embedded_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "texts.npz"
    first, second = Words(), Words()
    clipscore.add(base(), CAPTIONS, REFERENCES, IMAGES, clipscore.Texts(first, "m", path))
    assert len(first.asked) == len(set(first.asked)) == 4
    assert all(text.startswith(clipscore.PROMPT) for text in first.asked)
    again = clipscore.add(base(), CAPTIONS, REFERENCES, IMAGES, clipscore.Texts(second, "m", path))
    assert second.asked == []
    assert again.corpus["CLIPScore"] > 0
    other = Words()
    clipscore.Texts(other, "another model", path).rows(["a dog"])
    assert len(other.asked) == 1


def test_clipscore_refuses_what_cannot_be_compared() -> None:
    texts = clipscore.Texts(Words(), "m")
    with pytest.raises(DataError, match="1 of 3 images have no CLIP features, such as 3"):
        clipscore.add(base(), CAPTIONS, REFERENCES, {i: IMAGES[i] for i in "12"}, texts)
    wide = {i: np.ones(4) for i in IMAGES}
    with pytest.raises(DataError, match="4 wide and the text model's 3"):
        clipscore.add(base(), CAPTIONS, REFERENCES, wide, texts)


# ---- heat maps


def grey(width: int = 60, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def test_a_grid_lights_up_where_the_weight_is() -> None:
    weights = np.zeros((2, 6))
    weights[0, 5] = weights[1, 0] = 0.3
    attention = heatmaps.Attention(["a", "dog"], weights, grid=(2, 3))
    drawn = np.asarray(heatmaps.overlay(grey(), attention, 0)).astype(int).sum(-1)
    assert drawn[35, 55] > drawn[5, 5] + 100
    other = np.asarray(heatmaps.overlay(grey(), attention, 1)).astype(int).sum(-1)
    assert other[5, 5] > other[35, 55] + 100


def test_a_box_lights_up_inside_only() -> None:
    boxes = np.array([[0, 0, 0.5, 1.0], [0.5, 0, 1.0, 1.0], [0.9, 0.9, 0.2, 0.2]])
    attention = heatmaps.Attention(["a"], np.array([[0.9, 0.1, 0.5]]), boxes=boxes)
    drawn = np.asarray(heatmaps.overlay(grey(), attention, 0)).astype(int).sum(-1)
    assert drawn[20, 10] > drawn[20, 50] + 100


def test_levels_are_per_word_and_survive_odd_numbers() -> None:
    weights = np.array([[0.1, 0.2], [0, 0], [np.nan, 3.0], [-1, 5]], dtype=np.float32)
    levels = heatmaps.Attention(list("abcd"), weights, grid=(1, 2)).levels()
    assert levels.tolist() == [[128, 255], [0, 0], [0, 255], [0, 255]]


def test_the_sheet_has_a_panel_per_word(tmp_path: Path) -> None:
    attention = heatmaps.Attention([f"w{i}" for i in range(6)], np.ones((6, 4)), grid=(2, 2))
    path = tmp_path / "heat.png"
    heatmaps.save(path, grey(), attention)
    with Image.open(path) as page:
        assert page.size == (5 * 248 + 8, 2 * (160 + 22 + 8) + 8)


@pytest.mark.parametrize(
    ("words", "places", "grid", "boxes", "message"),
    [
        (3, 4, (2, 2), None, "does not fit 3 words"),
        (2, 4, (2, 3), None, "over 4 places does not fit 6"),
        (2, 4, None, np.zeros((3, 4)), "over 4 places does not fit 3"),
        (2, 4, None, None, "a grid or boxes"),
    ],
)
def test_attention_that_does_not_fit_is_refused(
    words: int, places: int, grid: tuple[int, int] | None, boxes: np.ndarray | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        heatmaps.Attention(["w"] * words, np.zeros((2, places)), grid, boxes)
