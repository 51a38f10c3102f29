"""Merging: ok anywhere is ok in the result, whatever was merged before; and what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precap.errors import ConfigError, StoreError
from precap.store import plan
from precap.store.manifest import info
from precap.store.merge import merge
from precap.store.reader import Store, open_store
from precap.store.verify import verify
from precap.store.writer import Writer, create
from precap.types import FeatureSpec, Field, Outcome
from tests.store import toy

FIELDS = (Field("grid", "grid", (2,)),)


def make(path: Path, images: dict[str, bool], *, pending: int = 0, **changes: Any) -> Path:
    """A store in which each image is ok or failed, and ``pending`` more are only planned."""
    made = FeatureSpec(**{"extractor": "toy", "version": 1, "weights": "none", **changes,
                          "fields": FIELDS})  # fmt: skip
    create(path, made, provenance={"source": f"{path.name}.tsv"})
    plan.extend(path, list(images), shard_size=3)
    with Writer(path) as writer:
        for shard in writer.remaining():
            ids = writer.ids(shard)
            outcomes = [Outcome(i, "ok") if images[i] else Outcome(i, "failed", "x") for i in ids]
            writer.commit(shard, outcomes, {i: row(i) for i in ids if images[i]})
    plan.extend(path, [f"later {n}" for n in range(pending)], shard_size=2)
    return path


def row(image: str) -> dict[str, Any]:
    return {"grid": np.full(2, sum(image.encode()), np.float32)}


def check(path: Path, ok: set[str], absent: set[str]) -> Store:
    store = open_store(path)
    assert set(store.ids) == ok
    assert set(store.absent) == absent
    for image in ok:
        np.testing.assert_array_equal(store.read(image)["grid"], row(image)["grid"])
    assert verify(path).sound
    return store


def test_an_image_that_failed_before_is_ok_when_a_later_store_has_it(tmp_path: Path) -> None:
    a = make(tmp_path / "a", {"x": False, "y": True, "z": False})
    b = make(tmp_path / "b", {"x": True, "w": True})
    out = tmp_path / "out"
    assert (merge([a], out).ok, merge([a], out).absent) == (1, 2)
    merged = merge([a, b], out)
    assert (merged.ok, merged.absent, merged.repeated) == (3, 1, 1)
    check(out, {"x", "y", "w"}, {"z"})
    generations = len(list((out / "plan").iterdir()))
    assert merge([b, a], out).ok == 3
    assert len(list((out / "plan").iterdir())) == generations  # z is not tried again and again


def test_what_an_interrupted_merge_planned_again_is_not_planned_twice(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", {"x": False}), make(tmp_path / "b", {"x": True})
    out = tmp_path / "out"
    merge([a], out)
    assert plan.append(out, ["x"], 512, "retry", 1, 1)  # and then it was killed
    merge([a, b], out)
    check(out, {"x"}, set())


def test_images_of_an_earlier_merge_whose_store_is_not_named_are_an_error(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", {"x": True}), make(tmp_path / "b", {"y": True})
    out = tmp_path / "out"
    merge([a], out)
    plan.extend(out, ["y"])
    with pytest.raises(StoreError, match=r"waits for image 'y'.*Name the stores"):
        merge([a], out)
    merge([a, b], out)
    check(out, {"x", "y"}, set())


def test_images_that_are_not_processed_yet_are_told(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", {"x": True}, pending=3), make(tmp_path / "b", {"y": True})
    merged = merge([a, b], tmp_path / "out")
    assert (merged.ok, merged.pending) == (2, {str(a): 3})
    assert not merged.complete
    assert "3 images are not processed yet" in str(merged)
    assert merged.as_json()["pending"] == {str(a): 3}
    assert merge([b], tmp_path / "b only").complete


def imported(path: Path, images: dict[str, bool], weights: str, **changes: Any) -> Path:
    return make(path, images, extractor="import-hin", weights=weights, **changes)


def test_imports_of_several_files_are_joined_when_asked(tmp_path: Path) -> None:
    train = imported(tmp_path / "train", {"x": True, "y": True}, "1" * 64)
    val = imported(tmp_path / "val", {"z": True}, "2" * 64)
    with pytest.raises(StoreError, match=r"(?s)weights.*--join-sources") as caught:
        merge([train, val], tmp_path / "out")
    assert "store rm" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    merged = merge([train, val], tmp_path / "out", join_sources=True)
    assert merged.complete
    store = check(tmp_path / "out", {"x", "y", "z"}, set())
    assert merge([val, train], tmp_path / "out", join_sources=True).ok == 3  # in any order
    assert store.spec.weights not in ("1" * 64, "2" * 64)
    sources = info(tmp_path / "out").provenance["sources"]
    assert [(s["source"], s["weights"]) for s in sources] == [
        ("train.tsv", "1" * 64),
        ("val.tsv", "2" * 64),
    ]


def test_what_differs_in_more_than_the_file_is_not_joined(tmp_path: Path) -> None:
    a = imported(tmp_path / "a", {"x": True}, "1" * 64)
    b = imported(tmp_path / "b", {"y": True}, "2" * 64, config={"boxes": "relative"})
    with pytest.raises(StoreError, match="boxes"):
        merge([a, b], tmp_path / "out", join_sources=True)
    c = make(tmp_path / "c", {"y": True}, weights="3" * 64)
    with pytest.raises(ConfigError, match="only imports"):
        merge([a, c], tmp_path / "out", join_sources=True)
    with pytest.raises(StoreError, match="weights") as caught:
        merge([c, make(tmp_path / "d", {"z": True}, weights="4" * 64)], tmp_path / "out")
    assert "join" not in str(caught.value)


def test_every_view_is_kept_bit_for_bit(tmp_path: Path) -> None:
    made = toy.spec(views=2)
    a = toy.build(tmp_path / "a", 30, 8, made)
    b = toy.build(tmp_path / "b", 45, 16, made)
    merged = merge([a, b], tmp_path / "c")
    assert merged.repeated == 30
    store, whole = open_store(tmp_path / "c"), open_store(b)
    toy.check(store, toy.ids(45))
    for image in whole.ids:
        for name, value in whole.read(image, 1).items():
            assert np.array_equal(value, store.read(image, 1)[name])
    assert merge([a, b], tmp_path / "c").ok == merged.ok
    other = toy.build(tmp_path / "d", 5, 8)
    with pytest.raises(StoreError, match="views"):
        merge([a, other], tmp_path / "e")
    with pytest.raises(ConfigError, match="another folder"):
        merge([a, b], tmp_path / "x" / ".." / "a")
