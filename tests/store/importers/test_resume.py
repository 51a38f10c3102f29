"""An import that was interrupted goes on, ends the same, and never needs memory for the whole."""

import base64
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from precap.errors import StoreError
from precap.store.importers import run
from precap.store.importers.run import import_store
from precap.store.reader import open_store

IMAGES = 40


def write(path: Path, images: int = IMAGES, dim: int = 16, boxes: int = 3) -> Path:
    rng = np.random.default_rng(7)
    with path.open("wb") as file:
        for image in range(images):
            arrays = [rng.random((boxes, d), np.float32) for d in (4, dim)]
            cells = [base64.b64encode(a.tobytes()) for a in arrays]
            file.write(b"\t".join([b"%d" % image, b"640", b"480", b"%d" % boxes, *cells]) + b"\r\n")
    return path


class Stop(Exception):
    """Stands for a signal at a certain shard."""


def stop_at(shard: int) -> run.Progress:
    def progress(done: int, total: int) -> None:
        if done == shard:
            raise Stop

    return progress


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SHARD_IMAGES", 7)


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path: Path, format: str) -> None:
    source = write(tmp_path / "source.tsv")
    import_store(source, tmp_path / "whole", container=format)
    for shard in (0, 1, 3):  # each run stops before this one of its remaining shards
        with pytest.raises(Stop):
            import_store(source, tmp_path / "store", container=format, progress=stop_at(shard))
    assert len(open_store(tmp_path / "store")) == 4 * 7
    seen: list[tuple[int, int]] = []
    report = import_store(
        source, tmp_path / "store", container=format, progress=lambda *at: seen.append(at)
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert report.ok == IMAGES
    whole, store = open_store(tmp_path / "whole"), open_store(tmp_path / "store")
    assert list(store.ids) == list(whole.ids) == [str(i) for i in range(IMAGES)]
    for name, rows in whole.read_many(whole.ids).items():
        np.testing.assert_array_equal(rows.array, store.read_many(whole.ids)[name].array)


def test_a_finished_import_has_nothing_to_do(tmp_path: Path) -> None:
    source = write(tmp_path / "source.tsv")
    first = import_store(source, tmp_path / "store")
    assert import_store(source, tmp_path / "store", progress=lambda *_: None) == first


def test_a_changed_source_is_another_store(tmp_path: Path) -> None:
    source = write(tmp_path / "source.tsv")
    with pytest.raises(Stop):
        import_store(source, tmp_path / "store", progress=stop_at(2))
    write(source, IMAGES + 1)
    with pytest.raises(StoreError, match="weights"):
        import_store(source, tmp_path / "store")


def peak_of(source: Path, out: Path) -> int:
    tracemalloc.start()
    import_store(source, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SHARD_IMAGES", 512)
    monkeypatch.setattr(run, "SHARD_BYTES", 2 << 20)
    small = write(tmp_path / "small.tsv", 100, 2048, 10)
    large = write(tmp_path / "large.tsv", 400, 2048, 10)
    assert large.stat().st_size > 40e6
    peak_of(small, tmp_path / "warm")  # what is imported on first use does not count
    few, many = peak_of(small, tmp_path / "few"), peak_of(large, tmp_path / "many")
    assert many < 24 << 20
    assert many < 1.2 * few + (1 << 20)
