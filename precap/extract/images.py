"""Decode one image to upright 8-bit RGB, or say in a word why it gives no features.

Pillow is the reference decoder; ``DECODE`` names the path in every fingerprint. What each kind of
file becomes (tests/extract/test_images.py generates one of each):

- the format is read from the bytes, never from the name; only ``FORMATS`` are tried;
- EXIF orientation is applied; a damaged EXIF block counts as upright;
- CMYK, YCbCr, LAB: Pillow's conversion to RGB, no colour profile;
- grey, 1-bit and palette images are expanded; alpha and transparent palettes are laid on white;
- 16-bit samples are scaled to 8 bits, 32-bit integers and floats by their range, never clipped;
- animations and multi-page files give their first frame;
- anything cut short, damaged, empty, too large or not an image fails with one of ``REASONS``.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from precap.atomic import explained
from precap.errors import ImageError

#: The decode path: enters the fingerprint, changes when the pixels of some file would change.
DECODE = "pillow-1"
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
#: Larger pictures are refused before they are decoded (Pillow's own warning level).
MAX_PIXELS = 89_478_485
REASONS = ("missing", "unreadable", "empty", "not-an-image", "truncated", "corrupt", "too-large")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CUT_SHORT = ("truncated", "unexpected end", "eof")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image and the sha256 of the bytes it came from."""

    image: Image.Image
    sha256: str


def read(path: Path) -> Decoded:
    """The image at ``path``. Raises ImageError with one of ``REASONS``."""
    data = _bytes(path)
    return Decoded(decode(data), hashlib.sha256(data).hexdigest())


def decode(source: bytes | Path) -> Image.Image:
    """``source`` as an upright RGB PIL image. Raises ImageError with one of ``REASONS``."""
    data = source if isinstance(source, bytes) else _bytes(source)
    if not data:
        raise ImageError("empty", "the file has no bytes")
    image = _open(data)
    try:
        image.load()
        return _rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        raise ImageError(_reason(error), f"{type(error).__name__}: {error}") from error


def _bytes(path: Path) -> bytes:
    with explained(path, "read"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageError("missing", f"there is no file {path}") from error
        except (PermissionError, IsADirectoryError) as error:
            raise ImageError("unreadable", f"{path}: {error.strerror}") from error
    raise AssertionError("unreachable")


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        allowed = ", ".join(FORMATS)
        raise ImageError("not-an-image", f"the bytes are none of {allowed}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too-large", str(error)) from error
    except Exception as error:
        raise ImageError(_reason(error), f"{type(error).__name__}: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError("too-large", f"{size} pixels; the limit is {MAX_PIXELS} in all")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError) or any(w in str(error).lower() for w in _CUT_SHORT):
        return "truncated"
    return "corrupt"


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # the pixels are fine, only the note beside them is not
        return image
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, image).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey: the full range of the sample type becomes 0..255."""
    values = np.asarray(image, dtype=np.float64)  # (H, W)
    if not np.isfinite(values).all():
        raise ValueError("the image holds NaN or infinite samples")
    if image.mode.startswith("I;16"):
        top = 65535.0
    else:
        peak = float(values.max())
        top = next((t for t in (1.0, 255.0, 65535.0) if peak <= t), peak)
        top = 65535.0 if image.mode == "I" and top < 65535.0 else top
    grey = np.rint(values.clip(min=0) * (255.0 / top)).astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")
