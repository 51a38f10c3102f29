"""A captioned picture set made on the spot: JPEGs, five sentences each, unseen pairs in test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from precap import atomic
from precap.demo.drawing import render
from precap.demo.grammar import describe, draw_scene
from precap.errors import ConfigError
from precap.store.datasets.dataset import HEADER
from precap.store.datasets.prepare import prepare

VERSION = 1  # of the pictures and sentences: another one makes another set
_UPSIDE = 40  # every so many pictures one is stored on its side with an EXIF orientation
_ORIENTATION = 0x0112


def make_scenes(out: Path, *, images: int = 1500, seed: int = 0) -> Path:
    """Make ``images`` scenes in the folder ``out`` and prepare them; returns ``out``.

    80 % train, 10 % val, 10 % test. Colour-shape pairs of ``grammar.HELD_OUT`` occur in every
    third test picture (domain "unseen-pair") and in no other one. The same arguments give the
    same set; a set that is already there is left as it is.
    """
    if images < 10:
        raise ConfigError(f"{images} scenes are too few for three splits. Ask for at least 10.")
    out = Path(out)
    made = {"scenes": VERSION, "images": images, "seed": seed}
    recipe = out / "scenes.json"
    if recipe.exists() and (out / HEADER).exists() and json.loads(recipe.read_text()) == made:
        return out
    (out / "images").mkdir(parents=True, exist_ok=True)
    for stale in (out / "images").glob("scene-*.jpg"):  # of another recipe
        stale.unlink()
    records = list(_scenes(out / "images", images, seed))
    atomic.write_text(out / "captions.json", json.dumps(records, indent=1))
    prepare(out / "captions.json", out, format="list", images=out / "images", name="scenes")
    atomic.write_text(recipe, json.dumps(made))
    return out


def split_of(index: int) -> str:
    """The split of scene ``index``: of every ten, one is for validation and one for the test."""
    return {8: "val", 9: "test"}.get(index % 10, "train")


def _scenes(folder: Path, images: int, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(images):
        rng = np.random.default_rng([seed, index])
        split = split_of(index)
        scene = draw_scene(rng, unseen=split == "test" and index % 30 == 29)
        file = f"scene-{index:05d}.jpg"
        _save(render(scene, rng), folder / file, aside=index % _UPSIDE == 0, rng=rng)
        yield {
            "file": file,
            "image_id": index,
            "split": split,
            "captions": describe(scene, rng),
            "domain": "unseen-pair" if scene.unseen else "seen-pair",
        }


def _save(picture: Image.Image, path: Path, *, aside: bool, rng: np.random.Generator) -> None:
    exif = Image.Exif()
    if aside:  # as many cameras do: turned by a quarter, with a note to turn it back
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[_ORIENTATION] = 6
    picture.save(path, "JPEG", quality=int(rng.integers(75, 96)), exif=exif)
