"""Small JPEGs of pictures, sized so that all of them fit a budget of bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

#: (longest side, JPEG quality) from best to smallest.
_STEPS = ((360, 82), (320, 78), (256, 76), (224, 72), (192, 70), (160, 66), (128, 60), (96, 50))
_SAMPLE = 24


def choose(paths: Sequence[Path], budget: int) -> tuple[int, int]:
    """The largest (side, quality) at which ``paths`` together fit ``budget`` base64 characters."""
    sample = paths[:: max(1, len(paths) // _SAMPLE)]
    for side, quality in _STEPS:
        sizes = [len(made) for path in sample if (made := encode(path, side, quality))]
        if not sizes or 1.1 * len(paths) * sum(sizes) / len(sizes) <= budget:
            return side, quality
    return _STEPS[-1]


def encode(path: Path, side: int, quality: int) -> str:
    """A JPEG at most ``side`` pixels long, as base64; "" for a picture that cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side * 2, side * 2))  # JPEG decodes at 1/2, 1/4, 1/8: much faster
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            upright.save(buffer, "JPEG", quality=quality, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_all(paths: Mapping[str, Path], budget: int) -> dict[str, str]:
    """Image id -> base64 JPEG, within ``budget`` characters together; unreadable ones are ""."""
    side, quality = choose(list(paths.values()), budget)
    with ThreadPoolExecutor() as pool:  # decoding and resizing release the interpreter's lock
        made = pool.map(lambda path: encode(path, side, quality), paths.values())
        return dict(zip(paths, made, strict=True))
