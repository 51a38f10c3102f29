from collections.abc import Iterator

import numpy as np
import pytest
import torch

from precap.errors import ConfigError
from precap.train.cache import Held, Mapped, Memory
from precap.train.contract import Words
from precap.train.data import Loader, Prefetched, Split, derangement
from precap.train.roles import Source, choose_head, resolve
from precap.types import FeatureSpec, Field
from tests.train import toy

WORDS = Words(50, 0, 1, 2, 3)


def loader(count: int = 23, batch: int = 5, captions: int = 2, **more: int) -> Loader:
    features, _ = toy.images(count)
    ids = list(features)
    numbered = {i: [[4 + n] + [5] * k for k in range(n % 4)] for n, i in enumerate(ids)}
    split = Split.of(ids, numbered, WORDS, longest=6)
    store = Memory(toy.SPEC, features)
    readers = {f.role: Mapped(store, Source("toy", f, toy.SPEC), ids) for f in toy.SPEC.fields}
    return Loader(split, readers, WORDS, batch, captions, seed=3, **more)


def test_an_epoch_has_every_image_once_and_epochs_differ() -> None:
    one = loader()
    first, second = ([i for b in one.epoch(e) for i in b.ids] for e in (0, 1))
    assert sorted(first) == sorted(one.split.ids)
    assert sorted(second) == sorted(first)
    assert first != second
    assert [i for b in loader().epoch(0) for i in b.ids] == first


def test_skipping_gives_the_rest_of_the_same_epoch() -> None:
    whole, rest = list(loader().epoch(2)), list(loader().epoch(2, skip=3))
    assert len(whole) == len(rest) + 3
    for a, b in zip(whole[3:], rest, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.tokens, b.tokens)


def test_ranks_share_a_batch() -> None:
    whole = list(loader(batch=6).epoch(0))
    halves = [list(loader(batch=6, rank=r, world=2).epoch(0)) for r in (0, 1)]
    for batch, a, b in zip(whole, *halves, strict=True):
        assert batch.ids[0::2] == a.ids
        assert batch.ids[1::2] == b.ids


def test_captions_come_in_windows_and_missing_ones_are_padding() -> None:
    one = loader(captions=2)
    seen: dict[str, set[int]] = {}
    for epoch in range(12):
        for batch in one.epoch(epoch):
            for image, rows in zip(batch.ids, batch.tokens, strict=True):
                number = one.split.ids.index(image)
                real = [row for row in rows.tolist() if any(row)]
                assert len(real) == min(2, number % 4)
                seen.setdefault(image, set()).update(len(row) - row.count(0) for row in real)
    assert len(seen["im3"]) == 3  # three captions of different lengths, two at a time


def test_features_arrive_with_their_image() -> None:
    one = loader()
    features, _ = toy.images(23)
    for batch in one.epoch(0):
        for place, image in enumerate(batch.ids):
            rows = features[image]["rows"]
            real = batch.masks["region"][place]
            assert int(real.sum()) == len(rows)
            np.testing.assert_array_equal(batch.features["region"][place][real], rows)
            assert not batch.features["region"][place][~real].any()
            np.testing.assert_array_equal(batch.features["grid"][place], features[image]["cells"])


def test_held_rows_equal_mapped_rows() -> None:
    one = loader()
    positions = np.array([4, 0, 22, 7])
    for reader in one.readers.values():
        assert isinstance(reader, Mapped)
        held, mapped = Held(reader, torch.device("cpu"), chunk=5), reader
        (a, am), (b, bm) = held.gather(positions, None), mapped.gather(positions, None)
        assert torch.equal(a, b)
        assert (am is None and bm is None) or torch.equal(am, bm)  # type: ignore[arg-type]


def test_at_most_so_many_rows() -> None:
    features, _ = toy.images(9)
    mapped = Mapped(
        Memory(toy.SPEC, features), Source("toy", toy.SPEC.fields[1], toy.SPEC), list(features), 2
    )
    array, mask = mapped.gather(np.arange(9), None)
    assert array.shape[1] == 2
    assert mask is not None
    assert mask.sum(1).tolist() == [min(2, len(f["rows"])) for f in features.values()]


def test_the_control_moves_every_image() -> None:
    for n in (2, 3, 50):
        moved = derangement(n, seed=1)
        assert sorted(moved) == list(range(n))
        assert not (moved == np.arange(n)).any()


def test_prefetching_passes_errors_on() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    ready = iter(Prefetched(broken()))
    assert next(ready) == 1
    with pytest.raises(ValueError, match="no more"):
        next(ready)


def spec(name: str, **roles: int) -> FeatureSpec:
    fields = tuple(Field(role, role, (None, width)) for role, width in roles.items())  # type: ignore[arg-type]
    return FeatureSpec(name, 1, "none", fields)


def test_roles_find_their_stores() -> None:
    specs = {"vinvl": spec("a", region=8, boxes=4), "clip": spec("b", grid=6)}
    found = resolve(specs, {"region"}, {"grid", "boxes"}, {})
    assert {role: s.store for role, s in found.items()} == {
        "grid": "clip",
        "region": "vinvl",
        "boxes": "vinvl",
    }
    assert found["grid"].width == 6
    assert choose_head(specs, ["hin", "transformer"]) == "hin"
    assert choose_head({"clip": specs["clip"]}, ["hin", "transformer"]) == "transformer"


def test_ambiguity_is_answered_with_what_to_type() -> None:
    specs = {"one": spec("a", region=8, boxes=4), "two": spec("b", region=6, boxes=4)}
    with pytest.raises(ConfigError, match=r"--features region=one or --features region=two"):
        resolve(specs, {"region"}, {"boxes"}, {})
    found = resolve(specs, {"region"}, {"boxes"}, {"region": "two"})
    assert found["boxes"].store == "two"  # boxes follow their regions
    with pytest.raises(ConfigError, match="needs grid"):
        resolve(specs, {"grid"}, set(), {})
    with pytest.raises(ConfigError, match="no store 'three'"):
        resolve(specs, {"region"}, set(), {"region": "three"})
