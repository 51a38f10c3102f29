"""Decoding: a documented result for every kind of file."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precap.errors import ImageError, ResourceError
from precap.extract import images
from tests.extract import pictures


def test_the_corpus_is_large_and_every_kind_has_an_expectation() -> None:
    assert len(pictures.KINDS) >= 30
    assert pictures.EXPECTED.keys() == pictures.KINDS.keys()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's remark; the result is checked
@pytest.mark.parametrize("kind", pictures.KINDS)
def test_every_kind_has_its_documented_result(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{pictures.suffix(kind)}"
    path.write_bytes(pictures.KINDS[kind]())
    expected = pictures.EXPECTED[kind]
    if isinstance(expected, str):
        with pytest.raises(ImageError) as caught:
            images.read(path)
        assert caught.value.reason == expected
        assert caught.value.reason in images.REASONS
        return
    found = images.read(path)
    size, corner = expected
    assert (found.image.mode, found.image.size) == ("RGB", size)
    np.testing.assert_allclose(np.asarray(found.image)[0, 0], corner, atol=6)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_refused_bomb_leaves_no_remark_of_pillow_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(pictures.KINDS["png-large-bomb"]())
    code = "import sys; from precap.extract import images; images.read(images.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert said.rstrip().splitlines()[-1].startswith("precap.errors.ImageError: too-large")
    assert "Warning" not in said


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = images.decode(pictures.oriented(orientation))
    difference = np.abs(np.asarray(upright, int) - np.asarray(pictures.scene(), int))
    assert upright.size == (pictures.WIDTH, pictures.HEIGHT)
    assert np.median(difference) <= 3


def test_sixteen_bit_samples_keep_their_order() -> None:
    ramp = np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
    grey = np.asarray(images.decode(pictures.saved(Image.fromarray(ramp), "PNG")))[..., 0]
    assert np.abs(grey.astype(float) - ramp / 257).max() <= 0.5


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "gone.jpg", "missing"), (tmp_path, "unreadable")):
        with pytest.raises(ImageError) as caught:
            images.read(path)
        assert caught.value.reason == reason
        assert str(path) in str(caught.value)


@pytest.mark.timeout(20)
def test_what_is_no_file_that_can_be_read_costs_one_image(tmp_path: Path) -> None:
    """A pipe would be waited for for ever; a link in a loop and a long name are OSErrors."""
    loop, pipe, door = tmp_path / "loop.jpg", tmp_path / "pipe.jpg", tmp_path / "door.jpg"
    loop.symlink_to(loop.name)
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(door))
        for path in (loop, pipe, door, Path("/dev/zero"), tmp_path / ("x" * 300)):
            with pytest.raises(ImageError) as caught:
                images.read(path)
            assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, ImageError),
        (errno.ESTALE, ImageError),
        (errno.EMFILE, ResourceError),
        (errno.ENFILE, ResourceError),
        (errno.ENOMEM, ResourceError),
    ],
)
def test_a_file_that_fails_is_no_machine_that_fails(
    number: int, kind: type[Exception], tmp_path: Path
) -> None:
    class Failing(type(tmp_path)):  # type: ignore[misc]
        def read_bytes(self) -> bytes:
            raise OSError(number, os.strerror(number))

    path = tmp_path / "picture.jpg"
    path.write_bytes(pictures.KINDS["jpeg"]())
    with pytest.raises(kind):
        images.read(Failing(path))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp"])
def test_damaged_bytes_never_crash(kind: str) -> None:
    data = pictures.KINDS[kind]()
    draw = np.random.default_rng(5)
    for _ in range(60):
        hurt = bytearray(data)
        for place in draw.integers(0, len(hurt), 4):
            hurt[place] = draw.integers(256)
        assert _result(bytes(hurt)) in ("RGB", *images.REASONS)


def _result(data: bytes) -> str:
    try:
        return images.decode(data).mode
    except ImageError as error:
        return error.reason
