"""Boxes that come from a file, not a detector: ``{"FILE": {"width", "height", "boxes", ...}}``.

``boxes`` are x1 y1 x2 y2 in pixels of a width x height picture; another size of the same picture is
met by scaling. ``scores`` and ``classes`` beside them are passed on when every entry has them.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from precap.errors import ConfigError, ImageError
from precap.extract import weights
from precap.extract.contract import Setting
from precap.types import Field

#: Under this name an image carries the path it was read from (``Image.info``).
PATH = "path"


class GivenBoxes:
    """The boxes of every image in one file; ``digest`` (sha256 of the file) belongs in a spec."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; ConfigError when it is missing or an entry is of another layout."""
        self.path, self.entries = path, _read(path)
        self.digest = weights.sha256(path)
        self.extras = tuple(
            name
            for name in ("scores", "classes")
            if all(name in entry for entry in self.entries.values())
        )

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of ``of``: boxes, and scores and classes if the file has them."""
        known = (
            Field("boxes", "boxes", (None, 4)),
            Field("scores", "scores", (None,)),
            Field("classes", "classes", (None,), "int64"),
        )
        return tuple(f for f in known if f.name == "boxes" or f.name in self.extras)

    def of(self, image: Image.Image) -> dict[str, NDArray[Any]]:
        """boxes (N, 4) float32 in pixels of ``image``, clipped to it; ``extras`` (N,) beside them.

        Raises ImageError: "no-boxes" when the file has none for this image, "bad-boxes" when one
        is not a box.
        """
        entry = self._entry(image)
        boxes = entry["boxes"]
        if not len(boxes):
            raise ImageError("no-boxes", f"{self.path} lists no box for this image", skipped=True)
        width, height = entry.get("width", image.width), entry.get("height", image.height)
        boxes = boxes * np.array([image.width / width, image.height / height] * 2)
        boxes = boxes.clip(0, [image.width, image.height] * 2).astype(np.float32)
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ImageError("bad-boxes", f"{self.path} has a box without area for this image")
        found: dict[str, NDArray[Any]] = {"boxes": boxes}
        for name in self.extras:
            found[name] = entry[name]
        return found

    def _entry(self, image: Image.Image) -> Mapping[str, Any]:
        """The entry whose key is the longest ending of the image's path."""
        path = image.info.get(PATH)
        if path is None:
            raise ImageError("no-boxes", "the image does not say which file it came from")
        parts = PurePosixPath(path).parts
        for start in range(len(parts)):
            entry = self.entries.get("/".join(parts[start:]))
            if entry is not None:
                return entry
        name = parts[-1]
        raise ImageError("no-boxes", f"{self.path} has no entry for {name}", skipped=True)


def given_boxes(path: Path | None, setting: Setting) -> GivenBoxes | None:
    """The boxes of ``path``, None without one; ConfigError with --views, which would move them."""
    if path is None:
        return None
    if setting.views > 1:
        raise ConfigError("boxes=FILE fits the image as it is: leave out --views.")
    return GivenBoxes(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"Could not read the boxes file {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The boxes file {path} is not JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise ConfigError(
            f'The boxes file {path} must map image files to {{"width", "height", "boxes"}}, boxes '
            f"as lists of x1, y1, x2, y2 in pixels."
        )
    return {
        name: _checked(entry, f"The boxes file {path}, {name!r}") for name, entry in entries.items()
    }


def _checked(entry: Any, where: str) -> dict[str, Any]:
    """An entry with its lists as arrays: boxes (N, 4) float64, scores float32, classes int64."""
    boxes = _numbers(entry.get("boxes") if isinstance(entry, dict) else None, (4,))
    if boxes is None:
        raise ConfigError(f"{where}: boxes must be a list of x1, y1, x2, y2, finite numbers.")
    checked: dict[str, Any] = {"boxes": boxes.reshape(-1, 4)}
    for name in {"width", "height"} & entry.keys():
        size = _numbers([entry[name]])
        if size is None or size[0] <= 0:
            raise ConfigError(f"{where}: {name} is {entry[name]!r}; it must be above zero.")
        checked[name] = float(size[0])
    for name, kind in (("scores", np.float32), ("classes", np.int64)):
        if name not in entry:
            continue
        values = _numbers(entry[name])
        whole = values is not None and (name == "scores" or (values % 1 == 0).all())
        if values is None or len(values) != len(boxes) or not whole:
            what = "numbers" if name == "scores" else "whole numbers"
            raise ConfigError(f"{where}: {name} must be {len(boxes)} {what}, one for each box.")
        checked[name] = values.astype(kind)
    return checked


def _numbers(values: Any, row: tuple[int, ...] = ()) -> NDArray[np.float64] | None:
    """A JSON list of finite numbers, or of rows of them, as an array; None for anything else."""
    try:
        array = np.asarray(values if isinstance(values, list) else None)
    except ValueError:  # rows of several lengths
        return None
    fits = array.dtype.kind in "iuf" and (array.shape[1:] == row or not len(array))
    return array.astype(np.float64) if fits and np.isfinite(array).all() else None
