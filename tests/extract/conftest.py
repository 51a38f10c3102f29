"""Real files on disk, and the extractor of the documentation."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precap.types import ImageRef
from tests.extract import edges, pictures


@pytest.fixture
def edges_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a third party's extractor that can be imported."""
    folder = edges.install(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(folder))
    yield edges.NAME
    edges.forget()


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[int], list[ImageRef]]:
    """A maker of n different JPEGs of differing sizes."""

    def make(count: int) -> list[ImageRef]:
        return write_photos(tmp_path / "photos", count)

    return make


def write_photos(folder: Path, count: int) -> list[ImageRef]:
    """``count`` different JPEGs below ``folder``."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(23)
    refs = []
    for number in range(count):
        small = draw.integers(0, 256, (6, 8, 3), np.uint8)
        size = (64 + 8 * (number % 5), 48 + 4 * (number % 7))
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        path = folder / f"{number:04d}.jpg"
        path.write_bytes(pictures.saved(image, "JPEG"))
        refs.append(ImageRef(path.stem, path))
    return refs
