"""Plans: frozen generations, many callers at once, ids that cannot be planned."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from precap.errors import DataError, StoreError
from precap.store import plan
from precap.store.plan import Plan, extend
from precap.store.writer import Writer, create
from precap.types import Outcome
from tests.store import toy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "s", toy.spec())
    return tmp_path / "s"


def test_new_ids_make_new_shards_and_old_ones_never_change(path: Path) -> None:
    assert extend(path, toy.ids(10), shard_size=4) == 10
    before = Plan(path)
    shards = [before.ids(shard) for shard in range(before.shards)]
    assert [len(shard) for shard in shards] == [4, 4, 2]
    assert extend(path, toy.ids(10), shard_size=4) == 0
    assert extend(path, toy.ids(13)[::-1], shard_size=2) == 3
    after = Plan(path)
    assert [after.ids(shard) for shard in range(3)] == shards
    assert sorted(after.ids(3) + after.ids(4)) == sorted(toy.ids(3, 10))
    assert [after.members(shard) for shard in range(5)] == [4, 4, 2, 2, 1]
    assert (after.planned, after.shards) == (13, 5)


def test_an_id_given_twice_is_planned_once(path: Path) -> None:
    assert extend(path, ["b", "a", "b"]) == 2
    assert Plan(path).ids(0) == ["b", "a"]


def test_callers_at_once_plan_each_id_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda n: extend(path, toy.ids(20, n), shard_size=3), range(8)))
    plan = Plan(path)
    planned = [image for shard in range(plan.shards) for image in plan.ids(shard)]
    assert sorted(planned) == sorted(toy.ids(27))
    assert sum(counts) == 27


@pytest.mark.parametrize("image", ["", "a\nb", "a\0", "\udc80"])
def test_ids_that_cannot_be_planned_are_refused(path: Path, image: str) -> None:
    with pytest.raises(DataError):
        extend(path, ["fine", image])
    assert Plan(path).shards == 0


@pytest.mark.parametrize("image", ["../../etc/passwd", "a b", "\u2028", "ü/ö.jpg", "a\r", "-"])
def test_odd_ids_are_only_names(path: Path, image: str) -> None:
    extend(path, [image, "x"])
    assert Plan(path).ids(0) == [image, "x"]


def test_failed_ids_are_tried_again_in_a_supplement(path: Path) -> None:
    ids = toy.ids(120)
    extend(path, ids, shard_size=8)
    toy.fill(path)
    failed = [image for image in ids if toy.outcome(image).status == "failed"]
    assert len(failed) > 1
    assert extend(path, ids) == 0
    assert extend(path, ids, shard_size=99, again=plan.failed) == len(failed)
    assert extend(path, ids, again=plan.failed) == 0, "they are planned and not done yet"
    with Writer(path) as writer:
        (shard,) = writer.remaining()
        assert writer.ids(shard) == failed
        first, *others = failed
        outcomes = [Outcome(first, "ok"), *(Outcome(i, "failed", "still") for i in others)]
        writer.commit(shard, outcomes, {first: toy.features(first)})
    from precap.store.reader import open_store

    store = open_store(path)
    assert store.outcome(first) == Outcome(first, "ok")
    assert store.statuses()["failed"] == ({"still": len(others)} if others else {})
    assert extend(path, ids, again=plan.failed) == len(others)


def test_a_shard_beyond_the_plan_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="no shard 0"):
        Plan(path).ids(0)
