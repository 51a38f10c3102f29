"""Augmented views of a picture, cached beside it: GRIT's RandAugment policy.

Nguyen et al. 2022 (GRIT) train with four operations per picture and step, drawn with replacement;
features cached without them cost 5 to 10 CIDEr. View 0 is always the picture as it is, so that
evaluation reads it; views 1, 2, ... are drawn from the picture's own bytes, so that they are the
same on every machine and for every copy of the picture.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = 4
#: GRIT translates by up to 80 pixels after fitting the picture into this canvas.
CANVAS, SHIFT = (640, 384), 80.0

Operation = Callable[[Image.Image, np.random.Generator], Image.Image]


def view(image: Image.Image, sha256: str, number: int) -> Image.Image:
    """Augmented version ``number`` of an RGB image whose file has this digest; 0 is ``image``."""
    if number == 0:
        return image
    draw = np.random.default_rng([int(sha256[:16], 16), number])
    for choice in draw.integers(len(POLICY), size=OPERATIONS):
        image = POLICY[choice](image, draw)
    return image


def _identity(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image)


def _rotate(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return image.rotate(draw.uniform(0, 8))  # degrees, never negative, as in GRIT


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def apply(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        return kind(image).enhance(draw.uniform(0.5, 1.5))

    return apply


def _affine(image: Image.Image, *rest: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, *rest))


def _shear_x(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return _affine(image, _signed(draw, 0.12), 0, 0, 1, 0)


def _shear_y(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return _affine(image, 0, 0, _signed(draw, 0.12), 1, 0)


def _translate_x(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return _affine(image, 0, _signed(draw, _shift(image)), 0, 1, 0)


def _translate_y(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return _affine(image, 0, 0, 0, 1, _signed(draw, _shift(image)))


def _signed(draw: np.random.Generator, limit: float) -> float:
    return float(draw.uniform(0, limit) * draw.choice((-1, 1)))


def _shift(image: Image.Image) -> float:
    """80 pixels of the canvas, in pixels of this picture: views are drawn before any resize."""
    scale = min(CANVAS[0] / image.width, CANVAS[1] / image.height)
    return SHIFT / scale


POLICY: tuple[Operation, ...] = (
    _identity,
    _autocontrast,
    _rotate,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
