"""A scene as pixels: shapes with textures, drawn with Pillow, jittered so that no two are alike."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from precap.demo.grammar import Scene, Thing

_PAINT = {
    "red": (214, 40, 40),
    "green": (44, 150, 60),
    "blue": (40, 84, 200),
    "yellow": (240, 208, 40),
    "purple": (132, 52, 160),
    "orange": (242, 132, 28),
    "white": (244, 244, 242),
    "grey": (140, 142, 146),
    "black": (28, 28, 32),
    "sandy": (218, 194, 148),
}
_ASPECTS = (1.0, 1.0, 4 / 3, 3 / 4, 1.2, 0.85)
_RADIUS = {"small": 0.105, "large": 0.17}  # of the shorter side
_FINE = 2  # drawn this much larger, then reduced: smooth edges


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """An RGB picture, 160 to 320 pixels along the longer side, of any of six aspect ratios.

    Everything lies in the central square, which a centre crop keeps.
    """
    longer, aspect = int(rng.integers(160, 321)), _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    width, height = (longer, longer / aspect) if aspect >= 1 else (longer * aspect, longer)
    size = (round(width) * _FINE, round(height) * _FINE)
    canvas = Image.new("RGB", size, _jittered(scene.background, rng))
    unit = min(size)
    left, top = (size[0] - unit) / 2, (size[1] - unit) / 2
    for thing, x, y in _layout(scene, rng):
        radius = unit * _RADIUS[thing.size] * rng.uniform(0.92, 1.08)
        _paint(canvas, thing, (left + x * unit, top + y * unit), radius, rng)
    return _noisy(canvas.reduce(_FINE), rng)


def _layout(scene: Scene, rng: np.random.Generator) -> list[tuple[Thing, float, float]]:
    """Things with the centres they are drawn at, in units of the central square."""
    if scene.relation is not None:
        across, along = rng.uniform(0.4, 0.6), rng.uniform(-0.02, 0.02, 2)
        first, second = 0.27 + along[0], 0.73 + along[1]
        if scene.relation == "left":
            spots = [(first, across), (second, across)]
        else:
            spots = [(across, first), (across, second)]
        return [(t, *spot) for t, spot in zip(scene.things, spots, strict=True)]
    thing = scene.things[0]
    if scene.count > 1:
        corners = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
        chosen = rng.permutation(4)[: scene.count]
        return [(thing, *(np.array(corners[i]) + rng.uniform(-0.02, 0.02, 2))) for i in chosen]
    x, y = _SPOTS[scene.place]
    return [(thing, x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03))]


_SPOTS = {
    "left": (0.27, 0.5),
    "right": (0.73, 0.5),
    "top": (0.5, 0.27),
    "bottom": (0.5, 0.73),
    "middle": (0.5, 0.5),
}


def _paint(
    canvas: Image.Image,
    thing: Thing,
    centre: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
) -> None:
    box = math.ceil(radius * 1.2)
    mask = Image.new("L", (2 * box, 2 * box))
    _shape(ImageDraw.Draw(mask), thing.shape, box, radius, rng.uniform(-8, 8))
    corner = (round(centre[0]) - box, round(centre[1]) - box)
    colour = _jittered(thing.colour, rng)
    canvas.paste(colour, corner, mask)
    if thing.texture != "plain":
        pale = tuple(round(channel * 0.35 + 255 * 0.65) for channel in colour)
        pattern = _pattern(thing.texture, 2 * box, radius)
        canvas.paste(pale, corner, ImageChops.multiply(mask, pattern))


def _shape(draw: ImageDraw.ImageDraw, shape: str, box: int, radius: float, tilt: float) -> None:
    if shape == "circle":
        draw.ellipse((box - radius, box - radius, box + radius, box + radius), fill=255)
        return
    turns, radii = _OUTLINES[shape]
    points = []
    for turn, reach in zip(turns, radii, strict=True):
        angle = math.radians(turn * 360 + tilt)
        points.append(
            (box + radius * reach * math.sin(angle), box - radius * reach * math.cos(angle))
        )
    draw.polygon(points, fill=255)


def _cross() -> tuple[list[float], list[float]]:
    """A plus sign: three corners per arm."""
    turns, radii = [], []
    for arm in range(4):
        for x, y in ((-0.3, 1.05), (0.3, 1.05), (0.3, 0.3)):
            turns.append(arm / 4 + math.atan2(x, y) / (2 * math.pi))
            radii.append(math.hypot(x, y))
    return turns, radii


#: shape -> clockwise turns from the top (in revolutions) and distances of its corners
_OUTLINES: dict[str, tuple[list[float], list[float]]] = {
    "square": ([1 / 8, 3 / 8, 5 / 8, 7 / 8], [1.2] * 4),
    "triangle": ([0, 1 / 3, 2 / 3], [1.15] * 3),
    "star": ([i / 10 for i in range(10)], [1.2, 0.5] * 5),
    "cross": _cross(),
}


def _pattern(texture: str, side: int, radius: float) -> Image.Image:
    pattern = Image.new("L", (side, side))
    draw = ImageDraw.Draw(pattern)
    pitch = radius * 0.55
    lines = [i * pitch for i in range(math.ceil(side / pitch) + 1)]
    for y in lines:
        if texture == "striped":
            draw.rectangle((0, y, side, y + pitch * 0.45), fill=255)
            continue
        for x in lines:
            spot = pitch * 0.27
            draw.ellipse((x - spot, y - spot, x + spot, y + spot), fill=255)
    return pattern


def _jittered(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(v + rng.integers(-12, 13), 0, 255)) for v in _PAINT[colour])
    return red, green, blue


def _noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels: NDArray[np.int16] = np.asarray(picture, np.int16)  # (H, W, 3)
    noise = rng.integers(-9, 10, pixels.shape, np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
