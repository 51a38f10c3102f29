"""Reading: batches into the caller's buffers, views, quantised fields, who is missing and why."""

from pathlib import Path

import numpy as np
import pytest

from precap.errors import ConfigError, StoreError
from precap.store.manifest import info, ls
from precap.store.reader import Store, open_store
from precap.types import Field
from tests.store import toy

HOW = [(f, c) for f in ("hdf5", "zarr") for c in ("none", "zstd", "blosc")]


def ok(store: Store) -> list[str]:
    return list(store.ids)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("format", "compression"), HOW)
def test_every_row_of_every_view_is_right(
    tmp_path: Path, format: str, compression: str, views: int
) -> None:
    made = toy.spec(views=views)
    path = toy.build(tmp_path / "s", 40, 16, made, format=format, compression=compression)
    store = open_store(path, made)
    toy.check(store, toy.ids(40))
    chosen = ok(store)[::-3]
    turns = [k % views for k in range(len(chosen))]
    batch = store.read_many(chosen, view=turns)
    for place, (image, view) in enumerate(zip(chosen, turns, strict=True)):
        for name, value in store.read(image, view).items():
            rows = batch[name]
            length = None if rows.lengths is None else rows.lengths[place]
            assert np.array_equal(rows.array[place][:length], value)
            assert length is None or not rows.array[place][length:].any()


def test_a_batch_lands_in_the_callers_buffer(tmp_path: Path) -> None:
    store = open_store(toy.build(tmp_path / "s", 40))
    chosen = ok(store)[:6]
    out = {
        "grid": np.full((8, 3, 4), 7, np.float16),
        "regions": np.full((8, 6, 4), 7, np.float32),
        "pooled": np.full((8, 8), 7, np.float32),
    }
    batch = store.read_many(chosen, fields=out, out=out)
    plain = store.read_many(chosen, fields=out)
    for name, buffer in out.items():
        assert np.shares_memory(batch[name].array, buffer)
        assert batch[name].array.flags.c_contiguous
        assert np.array_equal(batch[name].array, plain[name].array)


@pytest.mark.parametrize(
    "buffer",
    [np.empty((1, 3, 4), np.float16), np.empty((9, 3, 4), np.float32),
     np.empty((9, 4, 3), np.float16).transpose(0, 2, 1)],
)  # fmt: skip
def test_a_buffer_that_does_not_fit_is_refused(tmp_path: Path, buffer: np.ndarray) -> None:
    store = open_store(toy.build(tmp_path / "s", 20))
    with pytest.raises(ConfigError, match="C-contiguous float16"):
        store.read_many(ok(store)[:6], out={"grid": buffer})


def test_missing_images_are_named_with_the_reason(tmp_path: Path) -> None:
    store = open_store(toy.build(tmp_path / "s", 60))
    skipped = next(i for i in toy.ids(60) if toy.outcome(i).status == "skipped")
    with pytest.raises(StoreError, match="too small"):
        store.read_many([ok(store)[0], skipped])
    with pytest.raises(StoreError, match="never extracted"):
        store.read("nobody")
    assert "nobody" not in store
    assert store.outcome("nobody") is None
    with pytest.raises(ConfigError, match="grid"):
        store.read_many(ok(store)[:1], fields=["gird"])
    with pytest.raises(ConfigError, match="view"):
        store.read(ok(store)[0], view=1)


def test_counts_add_up(tmp_path: Path) -> None:
    store = open_store(toy.build(tmp_path / "s", 200))
    outcomes = [toy.outcome(image) for image in toy.ids(200)]
    assert store.statuses() == {
        "ok": {"": sum(o.status == "ok" for o in outcomes)},
        "skipped": {"too small": sum(o.status == "skipped" for o in outcomes)},
        "failed": {"truncated": sum(o.status == "failed" for o in outcomes)},
    }
    assert ok(store) == [o.id for o in outcomes if o.status == "ok"]
    assert [store.ids[-1], store.ids[:2]] == [ok(store)[-1], ok(store)[:2]]


def test_an_empty_store_and_an_empty_batch_can_be_read(tmp_path: Path) -> None:
    store = open_store(toy.build(tmp_path / "s", 0))
    assert (len(store), ok(store)) == (0, [])
    full = open_store(toy.build(tmp_path / "t", 20))
    batch = full.read_many([])
    assert batch["grid"].array.shape == (0, 3, 4)


def test_fewer_open_files_than_shards(tmp_path: Path) -> None:
    store = open_store(toy.build(tmp_path / "s", 60, 2, toy.spec(toy.FIELDS[:2])))
    store._sources._limit = 3
    toy.check(store, toy.ids(60))
    assert len(store._sources._open) <= 3


def test_info_and_ls_show_what_is_there(tmp_path: Path) -> None:
    path = toy.build(tmp_path / "s", 60, provenance={"torch": "2.9"})
    found = info(path)
    values = found.as_json()
    assert values["statuses"]["ok"][""] == len(open_store(path))
    assert sum(values["lengths"]["regions"].values()) == len(open_store(path))
    assert values["remaining"] == 0
    assert abs(values["values"]["grid"]["std"] - 1) < 0.1
    for part in ("toy v1", "torch", "2.9", "too small", "rows regions", "grid"):
        assert part in str(found)
    (row,) = ls(tmp_path).rows
    assert (row["name"], row["state"]) == ("s", "complete")
    (path / "store.json").write_text("{}")
    assert "damaged" in str(ls(tmp_path))


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_one_number_per_image_is_a_field_too(tmp_path: Path, format: str) -> None:
    made = toy.spec((Field("count", "size", (), "int64"), Field("score", "scores", (), "float16")))
    store = open_store(toy.build(tmp_path / "s", 20, 8, made, format=format))
    toy.check(store, toy.ids(20))
    assert store.read_many(ok(store)[:5])["count"].array.shape == (5,)
