"""The small parts: reading ahead, copies, views, preprocessing, weights, signals."""

import argparse
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from precap.errors import ConfigError, Interrupted
from precap.extract import views, weights
from precap.extract.ahead import ahead
from precap.extract.duplicates import arranged
from precap.extract.extractors._pixels import Pixels
from precap.signals import stoppable
from precap.types import ImageRef
from tests.extract import pictures


def test_ahead_keeps_order_and_its_distance() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with ThreadPoolExecutor(4) as pool:
        stream = ahead(pool, slow, items(), window=5)
        assert next(stream) == 0
        assert len(taken) == 5
        assert list(stream) == [n * n for n in range(1, 30)]


def test_ahead_raises_in_turn() -> None:
    def work(number: int) -> float:
        return 1 / (3 - number)

    with ThreadPoolExecutor(2) as pool:
        stream = ahead(pool, work, range(9), window=4)
        assert [next(stream) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(stream)


def _files(tmp_path: Path, contents: str) -> list[ImageRef]:
    """One file per letter; equal letters are equal files."""
    refs = []
    for number, letter in enumerate(contents):
        path = tmp_path / f"{number}"
        path.write_bytes(letter.encode() * 9000)
        refs.append(ImageRef(f"{letter}{number}", path))
    return refs


def test_copies_follow_their_first_one_in_shards_of_their_own(tmp_path: Path) -> None:
    refs = _files(tmp_path, "abcadb")
    assert arranged(refs, 100) == [(["c2", "d4"], 100), (["a0", "a3", "b1", "b5"], 100)]
    assert arranged(refs, 3) == [(["c2", "d4"], 3), (["a0", "a3", "b1", "b5"], 2)]
    distinct = _files(tmp_path, "efgh")
    assert arranged(distinct, 2) == [([ref.id for ref in distinct], 2)]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_copies_never_straddle_two_shards_when_they_fit_into_one(size: int, tmp_path: Path) -> None:
    refs = _files(tmp_path, "abcdaefbghcdabzz")
    plans = arranged(refs, size)
    assert sorted(image for ids, _ in plans for image in ids) == sorted(ref.id for ref in refs)
    assert all(whole <= size for _, whole in plans)
    for letter in "abcdz":
        count = sum(ref.id[0] == letter for ref in refs)
        shards = {
            (number, place // whole)
            for number, (ids, whole) in enumerate(plans)
            for place, image in enumerate(ids)
            if image[0] == letter
        }
        assert len(shards) == 1 or count > size


@pytest.mark.timeout(20)
def test_pipes_are_not_read_to_find_copies(tmp_path: Path) -> None:
    refs = [ImageRef(name, tmp_path / name) for name in ("one", "two", "empty")]
    os.mkfifo(refs[0].path)
    os.mkfifo(refs[1].path)
    refs[2].path.write_bytes(b"")
    assert arranged(refs, 10) == [(["one", "two", "empty"], 10)]


def test_copies_that_differ_in_the_middle_are_not_copies(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * 100_000)
    two.write_bytes(b"y" + b"x" * 99_999)
    refs = [ImageRef("one", one), ImageRef("gone", tmp_path / "gone"), ImageRef("two", two)]
    assert arranged(refs, 10) == [(["one", "gone", "two"], 10)]


def test_every_operation_of_the_policy_keeps_size_and_changes_pixels() -> None:
    image = pictures.scene(160, 120).resize((320, 240), Image.Resampling.BICUBIC)
    changed = 0
    for operation in views.POLICY:
        found = operation(image, np.random.default_rng(4))
        assert (found.size, found.mode) == (image.size, "RGB")
        changed += not np.array_equal(np.asarray(found), np.asarray(image))
    assert changed >= len(views.POLICY) - 2  # identity, and autocontrast on full contrast


def test_views_are_drawn_from_the_digest_alone() -> None:
    image = pictures.scene(160, 120)
    digest, other = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    assert views.view(image, digest, 0) is image
    shown = {
        (d, n): np.asarray(views.view(image, d, n)).tobytes()
        for d in (digest, other)
        for n in range(1, 9)
    }
    again = np.asarray(views.view(image, digest, 3)).tobytes()
    assert again == shown[digest, 3]
    assert len(set(shown.values())) > 12


def test_translation_is_eighty_pixels_of_grits_canvas() -> None:
    assert views._shift(Image.new("RGB", (640, 480))) == pytest.approx(100)  # drawn at 0.8
    assert views._shift(Image.new("RGB", (640, 384))) == pytest.approx(80)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (97, 1200), (30, 20)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_preprocessing_is_torchvisions(size: tuple[int, int], fit: Any) -> None:
    from torchvision import transforms

    draw = np.random.default_rng(2)
    image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), np.uint8))
    pixels = Pixels(fit, (224, 224), 256)
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = 256 if fit == "crop" else (256, 256)
    reference = transforms.Compose(
        [
            transforms.Resize(resize, bicubic),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(pixels.mean, pixels.std),
        ]
    )
    found = pixels.tensor([pixels.array(image)], "cpu")[0]
    torch.testing.assert_close(found, reference(image), rtol=0, atol=1e-6)


def test_a_strip_of_pixels_does_not_eat_the_memory() -> None:
    pixels = Pixels("crop", (224, 224), 224)
    for size in ((1, 5000), (5000, 1), (1, 1)):
        assert pixels.array(Image.new("RGB", size, (9, 8, 7))).shape == (224, 224, 3)


SOURCE = weights.Source("some-model", repo="", url="https://example.org/files/some-model.pth")


def test_missing_weights_are_answered_with_file_place_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAP_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        weights.find("auto", SOURCE)
    for part in ("some-model.safetensors", str(tmp_path), "example.org", "random:0"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pt"):
        weights.find(str(tmp_path / "gone.pt"), SOURCE)
    with pytest.raises(ConfigError, match="whole number"):
        weights.find("random:x", SOURCE)


def test_weights_in_the_folder_are_found_and_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAP_WEIGHTS", str(tmp_path))
    save_file({"w": torch.ones(3)}, tmp_path / "some-model.safetensors")
    found = weights.find("auto", SOURCE)
    assert found.path == tmp_path / "some-model.safetensors"
    assert found.digest == weights.sha256(found.path)
    assert len(found.digest) == 64


class Exploit:
    """What a hostile pickle looks like: loading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"model": {"w": torch.ones(2)}, "x": Exploit(mark)}, file)
    with pytest.raises(ConfigError, match="save_file"):
        weights.load_state(file)
    assert not mark.exists()


def test_the_way_to_convert_works_on_what_training_scripts_save(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    tied = {"a.w": network.weight, "b.w": network.weight}
    for content in (
        {"model": tied, "args": argparse.Namespace(lr=1.0), "epoch": 3},
        {"model": network, "step": 1},
        network,
    ):
        file = tmp_path / "model.pth"
        torch.save(content, file)
        with pytest.raises(ConfigError, match="could run code") as caught:
            weights.load_state(file)
        command = re.search(r'python -c "(.*?)"', str(caught.value))
        assert command is not None
        exec(command[1], {})
        assert len(weights.load_state(tmp_path / "model.safetensors")) == 2


def test_cut_short_and_no_checkpoint_at_all_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    for legacy in (False, True):
        torch.save({"w": torch.ones(5000)}, file, _use_new_zipfile_serialization=not legacy)
        file.write_bytes(file.read_bytes()[:3000])
        with pytest.raises(ConfigError, match="is damaged") as caught:
            weights.load_state(file)
        assert "save_file" not in str(caught.value)
    for text in ("<!DOCTYPE html><html>404", "version https://git-lfs.github.com/spec/v1", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match="no checkpoint.*download it again"):
            weights.load_state(file)


def test_weights_that_no_hub_has_do_not_blame_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAP_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vinvl_x.*no hub offers them"):
        weights.find("auto", weights.Source("vinvl_x", files=()))


def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(ConfigError, match=name):
            weights.load_state(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="list"):
        weights.load_state(tmp_path / "list.pth")


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_wrappers_and_prefixes_are_taken_off(wrapper: str | None, tmp_path: Path) -> None:
    state: Any = {"module.w": torch.arange(3.0)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pth")
    assert weights.load_state(tmp_path / "a.pth").keys() == {"w"}


def test_weights_of_another_model_are_refused_by_name() -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(ConfigError, match=r"1 missing \(e\.g\. bias\).*1 unknown \(e\.g\. b\)"):
        weights.fit(module, {"weight": torch.ones(2, 3), "b": torch.ones(2)}, "file.pth")
    with pytest.raises(ConfigError, match=r"weight \(3, 3\) instead of \(2, 3\)"):
        weights.fit(module, {"weight": torch.ones(3, 3), "bias": torch.ones(2)}, "file.pth")


def test_random_weights_depend_on_seed_and_name_alone() -> None:
    def made(seed: int, first: bool) -> torch.nn.Module:
        parts = {"a": torch.nn.Linear(8, 8), "b": torch.nn.Conv2d(3, 4, 3)}
        names = ("a", "b") if first else ("b", "a")
        module = torch.nn.Module()
        for name in names:
            module.add_module(name, parts[name])
        weights.randomise(module, seed)
        return module

    one, two, three = made(0, True), made(0, False), made(1, True)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.get_parameter("a.weight"), three.get_parameter("a.weight"))
    kernel = one.get_parameter("b.weight")
    assert kernel[0, 0, 0, 0].item() == pytest.approx(0.1437, abs=1e-3) or kernel.std() < 1
    assert one.get_parameter("a.bias").abs().max() == 0


def test_signals_become_interrupted_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with stoppable("All of it is") as check:
        check()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="SIGUSR1") as caught:
            check()
        assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGUSR1) is before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    found: list[bool] = []

    def inside() -> None:
        with stoppable("All of it is") as check:
            check()
            found.append(True)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [True]
