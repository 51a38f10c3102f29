"""A small store whose every value follows from the image id: tests can say what must be there."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.store.plan import extend
from precap.store.reader import Store, open_store
from precap.store.writer import Writer, create
from precap.types import FeatureSpec, Field, Outcome

FIELDS = (
    Field("grid", "grid", (3, 4), "float16"),
    Field("regions", "region", (None, 4), "float32"),
    Field("pooled", "global", (8,), "int8"),
    Field("boxes", "boxes", (None, 4), "int8"),
    Field("classes", "classes", (None,), "int64"),
    Field("mask", "mask", (3,), "bool"),
)


def spec(fields: tuple[Field, ...] = FIELDS, **changes: Any) -> FeatureSpec:
    """The toy extractor's spec."""
    values: dict[str, Any] = {"version": 1, "weights": "none", "fields": fields, **changes}
    return FeatureSpec("toy", **values)


def ids(count: int, start: int = 0) -> list[str]:
    """``count`` ids of differing lengths, some with characters outside ASCII."""
    return [f"{'img' if n % 3 else 'bild-ä'}{n}" for n in range(start, start + count)]


def features(image: str, made: FeatureSpec | None = None) -> dict[str, Any]:
    """What the toy extractor computes for an image: float32, integers and bools from its id."""
    made = made or spec()
    random = np.random.default_rng(zlib.crc32(image.encode()))
    length = zlib.crc32(image.encode()) % 5
    return {field.name: _value(field, made.views, length, random) for field in made.fields}


def outcome(image: str) -> Outcome:
    """Every 11th image or so is skipped, every 13th fails."""
    key = zlib.crc32(image.encode())
    if key % 11 == 0:
        return Outcome(image, "skipped", "too small", "1x1")
    return Outcome(image, "failed", "truncated") if key % 13 == 0 else Outcome(image, "ok")


def commit(writer: Writer, shard: int) -> None:
    """Compute and commit one shard."""
    outcomes = [outcome(image) for image in writer.ids(shard)]
    rows = {o.id: features(o.id, writer.spec) for o in outcomes if o.status == "ok"}
    writer.commit(shard, outcomes, rows)


def fill(path: Path) -> list[int]:
    """Commit all that remains; the shards done."""
    done = []
    with Writer(path) as writer:
        for shard in writer.remaining():
            if writer.claim(shard):
                commit(writer, shard)
                done.append(shard)
    return done


def build(
    path: Path, count: int = 60, size: int = 16, made: FeatureSpec | None = None, **how: Any
) -> Path:
    """A complete store of ``count`` images at ``path``."""
    create(path, made or spec(), **how)
    extend(path, ids(count), shard_size=size)
    fill(path)
    return path


def check(store: Store, images: Iterable[str]) -> None:
    """Every image of ``images`` has exactly the outcome and the rows that it must have."""
    for image in images:
        assert store.outcome(image) == outcome(image)
        if outcome(image).status == "ok":
            for view in range(store.spec.views):
                same(store.read(image, view), features(image, store.spec), store.spec, view)


def check_all(path: Path, count: int) -> None:
    """The store is complete and right."""
    store = open_store(path)
    assert len(store) + len(store.absent) == count
    check(store, ids(count))


def same(
    row: Mapping[str, NDArray[Any]], truth: Mapping[str, Any], made: FeatureSpec, view: int = 0
) -> None:
    """``row`` is ``truth`` as stored: exact, or for int8 within half a step of each scale."""
    for field in made.fields:
        wanted = truth[field.name] if made.views == 1 else truth[field.name][view]
        got = row[field.name]
        assert got.shape == wanted.shape
        if field.dtype == "int8":
            step = np.abs(wanted).max(axis=-1, initial=0, keepdims=True) / 127 * (1 + 2**-15)
            assert (np.abs(got - wanted) <= step * 0.5001).all()
        else:
            assert got.dtype == field.dtype
            assert np.array_equal(got, wanted.astype(field.dtype))


def _value(field: Field, views: int, length: int, random: np.random.Generator) -> Any:
    lengths = [(length + view) % 5 for view in range(views)]
    parts = [_array(field, n, random) for n in lengths]
    if views == 1:
        return parts[0]
    return parts if field.ragged else np.stack(parts)


def _array(field: Field, length: int, random: np.random.Generator) -> NDArray[Any]:
    shape = tuple(length if n is None else n for n in field.shape)
    if field.dtype == "bool":
        return random.random(shape) < 0.5
    if np.dtype(field.dtype).kind in "iu" and field.dtype != "int8":
        return random.integers(0, 100, shape).astype(field.dtype)
    return random.normal(size=shape).astype(np.float32)
