"""A corpus of the kinds of image files that real collections hold, made here byte by byte.

``KINDS[name]`` makes the bytes; ``EXPECTED[name]`` is the (width, height) and the colour of the
top left corner that decoding must give, or the reason it must fail with.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 60), (20, 40, 210), (255, 255, 255)

Corner = tuple[int, int, int]


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Red in the top left quarter, green right of it, blue below: no symmetry."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = BLUE
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """``image`` as a file of the format ``kind``."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(orientation: int) -> bytes:
    """A JPEG that shows ``scene`` upright only if its EXIF orientation is applied."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = scene() if back is None else scene().transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", quality=95, exif=exif)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: for what Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_rgb() -> bytes:
    """16 bits per sample, three samples per pixel, all pixels (0x8000, 0x4000, 0xffff)."""
    row = b"\x00" + struct.pack(">3H", 0x8000, 0x4000, 0xFFFF) * WIDTH
    return png(WIDTH, HEIGHT, 16, 2, row * HEIGHT)


def deep_grey() -> bytes:
    """A 16-bit grey PNG whose samples are all half of the range."""
    return saved(Image.fromarray(np.full((HEIGHT, WIDTH), 32768, np.uint16)), "PNG")


def translucent() -> Image.Image:
    """The scene, its top left quarter fully transparent."""
    image = scene().convert("RGBA")
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[: HEIGHT // 2, : WIDTH // 2] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def transparent_palette() -> bytes:
    """A palette PNG whose colour of the top left quarter is declared transparent."""
    image = scene().quantize(4)
    return saved(image, "PNG", transparency=image.getpixel((0, 0)))


def wrong_checksum() -> bytes:
    """A PNG whose pixel data do not match their checksum."""
    data = bytearray(saved(scene(), "PNG"))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    return bytes(data)


def damaged_exif() -> bytes:
    """A JPEG whose EXIF block is noise."""
    return saved(scene(), "JPEG", quality=95, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")


def _frames() -> list[Image.Image]:
    return [scene(), Image.new("RGB", (WIDTH, HEIGHT), BLUE)]


def _animated(kind: str, **options: Any) -> bytes:
    first, *rest = _frames()
    return saved(first, kind, save_all=True, append_images=rest, **options)


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(scene(), "JPEG", quality=95),
    "jpeg-progressive": lambda: saved(scene(), "JPEG", quality=95, progressive=True),
    "jpeg-grey": lambda: saved(scene().convert("L"), "JPEG", quality=95),
    "jpeg-cmyk": lambda: saved(scene().convert("CMYK"), "JPEG", quality=95),
    "jpeg-on-its-side": lambda: oriented(6),
    "jpeg-mirrored": lambda: oriented(2),
    "jpeg-damaged-exif": damaged_exif,
    "jpeg-bytes-after-the-end": lambda: saved(scene(), "JPEG", quality=95) + b"\x00" * 100,
    "jpeg-cut-in-half": lambda: (lambda d: d[: len(d) // 2])(saved(scene(400, 300), "JPEG")),
    "jpeg-cut-by-two-bytes": lambda: saved(scene(400, 300), "JPEG")[:-2],
    "mpo": lambda: _animated("MPO", quality=95),
    "png": lambda: saved(scene(), "PNG"),
    "png-named-jpg": lambda: saved(scene(), "PNG"),
    "png-palette": lambda: saved(scene().quantize(4), "PNG"),
    "png-palette-transparent": transparent_palette,
    "png-rgba": lambda: saved(translucent(), "PNG"),
    "png-grey-alpha": lambda: saved(translucent().convert("LA"), "PNG"),
    "png-1-bit": lambda: saved(Image.new("1", (WIDTH, HEIGHT), 1), "PNG"),
    "png-16-bit-grey": deep_grey,
    "png-16-bit-rgb": deep_rgb,
    "png-animated": lambda: _animated("PNG"),
    "png-cut-in-half": lambda: (lambda d: d[: len(d) // 2])(saved(_noise(), "PNG")),
    "png-wrong-checksum": wrong_checksum,
    "png-bomb": lambda: png(60_000, 60_000, 8, 2, b""),
    "png-large-bomb": lambda: png(10_000, 10_000, 8, 2, b""),
    "png-1-pixel": lambda: saved(Image.new("RGB", (1, 1), RED), "PNG"),
    "png-very-tall": lambda: saved(Image.new("RGB", (1, 5000), RED), "PNG"),
    "gif": lambda: saved(scene().quantize(4), "GIF"),
    "gif-animated": lambda: _animated("GIF"),
    "webp": lambda: saved(scene(), "WEBP", lossless=True),
    "webp-animated": lambda: _animated("WEBP", lossless=True),
    "bmp": lambda: saved(scene(), "BMP"),
    "tiff": lambda: saved(scene(), "TIFF"),
    "tiff-cmyk": lambda: saved(scene().convert("CMYK"), "TIFF"),
    "tiff-pages": lambda: _animated("TIFF"),
    "tiff-float": lambda: saved(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"),
    "tiff-int32": lambda: saved(Image.fromarray(np.full((9, 9), 32768, np.int32)), "TIFF"),
    "tiff-nan": lambda: saved(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"),
    "ppm": lambda: saved(scene(), "PPM"),
    "ico": lambda: saved(scene(), "ICO"),
    "empty": lambda: b"",
    "html-named-jpg": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "noise": lambda: np.random.default_rng(0).bytes(5000),
}

_PLAIN = ((WIDTH, HEIGHT), RED)
_GREY = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
EXPECTED: dict[str, tuple[tuple[int, int], Corner] | str] = {
    **dict.fromkeys(KINDS, _PLAIN),
    "jpeg-grey": ((WIDTH, HEIGHT), (_GREY, _GREY, _GREY)),
    "jpeg-cut-in-half": "truncated",
    "jpeg-cut-by-two-bytes": "truncated",
    "png-palette-transparent": ((WIDTH, HEIGHT), WHITE),
    "png-rgba": ((WIDTH, HEIGHT), WHITE),
    "png-grey-alpha": ((WIDTH, HEIGHT), WHITE),
    "png-1-bit": ((WIDTH, HEIGHT), WHITE),
    "png-16-bit-grey": ((WIDTH, HEIGHT), (128, 128, 128)),
    "png-16-bit-rgb": ((WIDTH, HEIGHT), (128, 64, 255)),
    "png-cut-in-half": "truncated",
    "png-wrong-checksum": "corrupt",
    "png-bomb": "too-large",
    "png-large-bomb": "too-large",
    "png-1-pixel": ((1, 1), RED),
    "png-very-tall": ((1, 5000), RED),
    "tiff-float": ((9, 9), (128, 128, 128)),
    "tiff-int32": ((9, 9), (128, 128, 128)),
    "tiff-nan": "corrupt",
    "ico": "not-an-image",
    "empty": "empty",
    "html-named-jpg": "not-an-image",
    "svg": "not-an-image",
    "noise": "not-an-image",
}


def _noise() -> Image.Image:
    draw = np.random.default_rng(3)
    return Image.fromarray(draw.integers(0, 256, (200, 200, 3), np.uint8))


def suffix(name: str) -> str:
    """The file name ending that a collection would have for this kind."""
    if name.endswith("named-jpg") or name.startswith(("jpeg", "empty", "noise")):
        return ".jpg"
    return f".{name.partition('-')[0]}"
