"""Where each word looked: attention over a grid or boxes, as overlays on the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from precap.errors import DataError

#: Black-red-yellow-white, dark to bright, as (position, red, green, blue).
_COLOURS = np.array(
    [
        [0.0, 13, 8, 60],
        [0.25, 106, 23, 110],
        [0.5, 188, 55, 84],
        [0.75, 243, 120, 25],
        [1.0, 252, 255, 164],
    ]
)


@dataclass(frozen=True)
class Attention:
    """Attention of one caption over one picture.

    words: T words, each with the token it stands for. weights: (T, N), any non-negative scale.
    grid: (rows, columns) with N = rows * columns, row by row. boxes: (N, 4) corners x0 y0 x1 y1 as
    fractions of width and height. One of the two says where the N places are.
    """

    words: Sequence[str]
    weights: NDArray[np.floating]
    grid: tuple[int, int] | None = None
    boxes: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, with the numbers that do not fit."""
        steps, places = self.weights.shape if self.weights.ndim == 2 else (-1, -1)
        if steps != len(self.words):
            raise DataError(
                f"Attention of shape {self.weights.shape} does not fit {len(self.words)} words."
            )
        if (self.grid is None) == (self.boxes is None):
            raise DataError("Attention needs a grid or boxes, one of the two.")
        here = self.grid[0] * self.grid[1] if self.grid else len(self.boxes)  # type: ignore[arg-type]
        if here != places:
            raise DataError(f"Attention over {places} places does not fit {here} on the picture.")

    def levels(self) -> NDArray[np.uint8]:
        """(T, N) 0..255, each word's strongest place 255."""
        weights = np.nan_to_num(np.asarray(self.weights, dtype=np.float64)).clip(0)
        top = weights.max(1, keepdims=True)
        scaled = np.divide(weights, top, out=np.zeros_like(weights), where=top > 0)
        levels: NDArray[np.uint8] = (scaled * 255).round().astype(np.uint8)
        return levels


def overlay(picture: Image.Image, attention: Attention, word: int) -> Image.Image:
    """The RGB picture with the attention of one word on it."""
    size = picture.size
    level = attention.levels()[word]
    if attention.grid is not None:
        small = Image.fromarray(level.reshape(attention.grid))
        mask = small.resize(size, Image.Resampling.BICUBIC)
    else:
        assert attention.boxes is not None
        mask = _boxes_mask(size, attention.boxes, level)
    heat = np.asarray(mask, dtype=np.float64) / 255  # (H, W)
    colours = np.stack(
        [np.interp(heat, _COLOURS[:, 0], _COLOURS[:, channel]) for channel in (1, 2, 3)], axis=-1
    )
    ground = np.asarray(picture.convert("RGB"), dtype=np.float64)
    cover = (0.15 + 0.6 * heat)[..., None]
    return Image.fromarray((ground * (1 - cover) + colours * cover).round().astype(np.uint8))


def sheet(picture: Image.Image, attention: Attention, width: int = 240) -> Image.Image:
    """The picture and one panel per word, with the word below it, five in a row."""
    picture = picture.convert("RGB")
    height = max(1, round(width * picture.height / picture.width))
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    panels = [(picture, "")]
    panels += [(overlay(picture, attention, i), w) for i, w in enumerate(attention.words)]
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    gap, label = 8, 22
    page = Image.new(
        "RGB",
        (gap + columns * (width + gap), gap + rows * (height + label + gap)),
        "white",
    )
    draw = ImageDraw.Draw(page)
    for index, (panel, text) in enumerate(panels):
        x = gap + index % columns * (width + gap)
        y = gap + index // columns * (height + label + gap)
        page.paste(panel, (x, y))
        draw.text((x, y + height + 4), text, fill="black", font_size=14)
    return page


def save(path: Path, picture: Image.Image, attention: Attention) -> None:
    """Write ``sheet`` as a PNG."""
    from precap import atomic

    with atomic.replacing(path) as partial:
        sheet(picture, attention).save(partial, format="PNG")


def _boxes_mask(
    size: tuple[int, int], boxes: NDArray[np.floating], level: NDArray[np.uint8]
) -> Image.Image:
    """The strongest box that covers a pixel decides it."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    width, height = size
    for index in np.argsort(level, kind="stable"):
        x0, y0, x1, y1 = np.clip(boxes[index], 0, 1)
        if x1 > x0 and y1 > y0:
            corners = (x0 * width, y0 * height, x1 * width, y1 * height)
            draw.rectangle(corners, fill=int(level[index]))
    return mask
