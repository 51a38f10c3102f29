"""Extraction end to end on real files: counts, resume, kills, signals, copies, views."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precap.errors import ConfigError, Interrupted, LockedError, StoreError
from precap.extract import images, runner
from precap.extract.contract import Setting
from precap.extract.flow import computed
from precap.extract.reading import reader
from precap.store import plan, writer
from precap.store.ledger import Ledger
from precap.store.reader import open_store
from precap.types import ImageRef
from tests.extract import edges, pictures
from tests.extract.conftest import write_photos
from tests.extractor_contract import ExtractorContract

Photos = Callable[[int], list[ImageRef]]
ROOT = Path(__file__).parents[2]


class TestEdges(ExtractorContract):
    extractor = edges.NAME

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def imported(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = edges.install(tmp_path_factory.mktemp("elsewhere"))
        sys.path.insert(0, str(folder))
        yield
        sys.path.remove(str(folder))
        edges.forget()


def contents(path: Path) -> dict[str, Any]:
    """Everything a store says that must not depend on how it was made: files, outcomes, rows."""
    shards = {file.name: file.read_bytes() for file in sorted((path / "shards").iterdir())}
    records = {r.shard: (r.digest, r.ok, r.absent) for r in Ledger(path).records.values()}
    return {"shards": shards, "records": records}


def run(refs: list[ImageRef], out: Path, name: str = edges.NAME, **options: Any) -> runner.Report:
    """Extract with small batches on the CPU."""
    options = {"device": "cpu", "batch_size": 4, "shard_size": 8, "weights": "random:0", **options}
    return runner.extract(refs, out, name, **options)


def test_every_image_of_the_corpus_is_accounted_for(tmp_path: Path, edges_extractor: str) -> None:
    refs = []
    for kind, make in pictures.KINDS.items():
        if kind == "jpeg-damaged-exif":
            continue  # Pillow warns of it; test_images covers it
        path = tmp_path / f"{kind}{pictures.suffix(kind)}"
        path.write_bytes(make())
        refs.append(ImageRef(kind, path))
    refs.append(ImageRef("gone", tmp_path / "gone.jpg"))
    out = tmp_path / "store"
    report = run(refs, out)
    store = open_store(out)
    expected = {k: v for k, v in pictures.EXPECTED.items() if k != "jpeg-damaged-exif"}
    for kind, result in expected.items():
        outcome = store.outcome(kind)
        assert outcome is not None
        wanted = ("failed", result) if isinstance(result, str) else ("ok", "")
        assert (outcome.status, outcome.reason) == wanted
    bad = sum(isinstance(result, str) for result in expected.values())
    assert (report.ok, report.failed) == (len(expected) - bad, bad + 1)
    assert report.reasons["failed: missing"] == 1
    assert report.lost == bad + 1
    assert "gone" in store.absent
    assert "failed: truncated" in str(report)


def test_features_do_not_depend_on_batches_shards_or_threads(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(20)
    run(refs, tmp_path / "one", batch_size=1, shard_size=3, workers=1)
    run(refs[::-1], tmp_path / "two", batch_size=7, shard_size=16, workers=4)
    one, two = open_store(tmp_path / "one"), open_store(tmp_path / "two")
    for ref in refs:
        np.testing.assert_array_equal(one.read(ref.id)["edges"], two.read(ref.id)["edges"])


def test_repeating_computes_nothing_and_new_images_only_themselves(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(20)
    first = run(refs[:12], tmp_path / "store")
    before = contents(tmp_path / "store")
    again = run(refs[:12], tmp_path / "store")
    assert (first.computed, again.computed) == (12, 0)
    assert contents(tmp_path / "store") == before
    more = run(refs, tmp_path / "store")
    assert (more.computed, more.ok) == (8, 20)
    after = contents(tmp_path / "store")["shards"]
    assert before["shards"].items() <= after.items()


def test_failed_images_are_retried_only_when_asked(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(10)
    good = refs[3].path.read_bytes()
    refs[3].path.write_bytes(good[: len(good) // 2])
    assert run(refs, tmp_path / "store").failed == 1
    refs[3].path.write_bytes(good)
    assert run(refs, tmp_path / "store").failed == 1
    report = run(refs, tmp_path / "store", retry_failed=True)
    assert (report.failed, report.ok, report.computed) == (0, 10, 1)


def test_another_configuration_is_another_store(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(3)
    run(refs, tmp_path / "store")
    with pytest.raises(StoreError, match=r"config\.cells"):
        run(refs, tmp_path / "store", settings={"cells": 3})
    with pytest.raises(ConfigError, match="cels"):
        run(refs, tmp_path / "other", settings={"cels": 3})
    with pytest.raises(ConfigError, match="float64"):
        run(refs, tmp_path / "other", dtype="float64")
    with pytest.raises(ConfigError, match="more than once"):
        run([*refs, refs[0]], tmp_path / "third")


@pytest.fixture
def forwarded(edges_extractor: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures in every forward."""
    from mylab.edges import Edges  # type: ignore[import-not-found]

    seen: list[int] = []
    real = Edges.extract

    def counting(self: Any, batch: Any) -> Any:
        seen.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Edges, "extract", counting)
    return seen


@pytest.mark.parametrize("size", [3, 4, 8])
def test_nine_pictures_of_three_are_three_forwards(
    size: int, tmp_path: Path, photos: Photos, forwarded: list[int]
) -> None:
    refs = photos(9)
    for place in range(3, 9):
        shutil.copy(refs[place % 3].path, refs[place].path)
    report = run(refs, tmp_path / "store", shard_size=size)
    assert (report.ok, sum(forwarded)) == (9, 3)
    assert run(refs, tmp_path / "store", shard_size=size).computed == 0


def test_more_copies_than_a_shard_holds_and_copies_of_a_later_run_are_computed_again(
    tmp_path: Path, photos: Photos, forwarded: list[int]
) -> None:
    refs = photos(5)
    for ref in refs[1:]:
        shutil.copy(refs[0].path, ref.path)
    run(refs[:3], tmp_path / "store", shard_size=2)
    assert sum(forwarded) == 2
    run(refs, tmp_path / "store", shard_size=2)
    assert sum(forwarded) == 3


def test_copies_of_a_file_are_computed_once(
    tmp_path: Path, photos: Photos, forwarded: list[int]
) -> None:
    refs = photos(20)
    for place in (7, 15, 19):
        shutil.copy(refs[2].path, refs[place].path)
    report = run(refs, tmp_path / "store")
    assert (report.ok, sum(forwarded)) == (20, 17)
    store = open_store(tmp_path / "store")
    first = store.read(refs[2].id)["edges"]
    assert all(np.array_equal(store.read(refs[p].id)["edges"], first) for p in (7, 15, 19))


def test_views_keep_the_picture_first_and_are_the_same_for_copies(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(6)
    shutil.copy(refs[1].path, refs[4].path)
    run(refs, tmp_path / "plain")
    run(refs, tmp_path / "views", views=3)
    plain, store = open_store(tmp_path / "plain"), open_store(tmp_path / "views")
    assert store.spec.views == 3
    for ref in refs:
        shown = [store.read(ref.id, view)["edges"] for view in range(3)]
        np.testing.assert_array_equal(shown[0], plain.read(ref.id)["edges"])
        assert not np.array_equal(shown[0], shown[1])
        assert not np.array_equal(shown[1], shown[2])
    for view in range(3):
        one, copy = (store.read(refs[place].id, view)["edges"] for place in (1, 4))
        np.testing.assert_array_equal(one, copy)


def test_values_that_cannot_be_stored_are_refused_with_the_image(
    tmp_path: Path, photos: Photos, edges_extractor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mylab.edges import Edges

    refs = photos(6)
    target = images.read(refs[4].path).image.size
    real = Edges.prepare

    def spoilt(self: Any, item: Any) -> Any:
        prepared = real(self, item)
        return {"grey": prepared["grey"] * np.nan} if item.size == target else prepared

    monkeypatch.setattr(Edges, "prepare", spoilt)
    report = run(refs, tmp_path / "store")
    assert report.reasons == {"failed: non-finite": 1}
    assert [image for image, *_ in report.examples] == [refs[4].id]


def test_a_bug_in_an_extractor_names_the_image_and_loses_nothing(
    tmp_path: Path, photos: Photos, edges_extractor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mylab.edges import Edges

    refs = photos(20)
    poison = refs[17].path.read_bytes()
    real = images.read
    sizes = {real(ref.path).sha256: ref.id for ref in refs}
    assert len(sizes) == 20
    kept = Edges.prepare

    def broken(self: Any, item: Any) -> Any:
        if np.array_equal(np.asarray(item), np.asarray(images.decode(poison))):
            raise ZeroDivisionError("a bug")
        return kept(self, item)

    monkeypatch.setattr(Edges, "prepare", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        run(refs, tmp_path / "store")
    assert refs[17].id in caught.value.__notes__[0]
    monkeypatch.setattr(Edges, "prepare", kept)
    assert run(refs, tmp_path / "store").ok == 20


def test_int8_storage_is_close_and_small(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(5)
    run(refs, tmp_path / "exact", dtype="float32")
    run(refs, tmp_path / "small", dtype="int8")
    exact, small = open_store(tmp_path / "exact"), open_store(tmp_path / "small")
    for ref in refs:
        one, other = exact.read(ref.id)["edges"], small.read(ref.id)["edges"]
        step = np.abs(one).max(-1, keepdims=True) / 127
        assert (np.abs(one - other) <= 0.51 * step).all()


def test_a_dry_run_says_what_the_run_will_do(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs, out = photos(30), tmp_path / "store"
    good = refs[3].path.read_bytes()
    refs[3].path.write_bytes(good[: len(good) // 2])
    shutil.copy(refs[20].path, refs[25].path)
    run(refs[:12], out, part=(1, 2))
    made = runner.make_recipe(edges_extractor, weights="random:0", device="cpu")
    for options in (
        {"part": (2, 3)},
        {"part": (1, 2), "retry_failed": True},
        {"retry_failed": True},
        {},
    ):
        said = runner.dry_run(refs, out, made, shard_size=8, **options)  # type: ignore[arg-type]
        assert said.missing == run(refs, out, **options).computed
    assert said.missing == 0
    other = runner.make_recipe(edges_extractor, {"cells": 3}, weights="random:0", device="cpu")
    with pytest.raises(StoreError, match=r"config\.cells"):
        runner.dry_run(refs, out, other)
    with pytest.raises(StoreError, match="zarr"):
        runner.dry_run(refs, out, made, format="zarr")


def test_parts_share_the_work_without_overlap(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(40)
    one = run(refs, tmp_path / "store", part=(1, 2))
    two = run(refs, tmp_path / "store", part=(2, 2))
    assert (one.computed, one.pending, two.computed, two.pending) == (24, 16, 16, 0)
    run(refs, tmp_path / "whole")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_job_is_picklable_and_harmless_to_repeat(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(16)
    out = tmp_path / "store"
    recipe = runner.Recipe(edges_extractor, {"cells": 5}, Setting(storage="float16"))
    assert runner.Recipe.from_json(recipe.as_json()) == recipe
    writer.create(out, recipe.build().spec)
    plan.extend(out, [ref.id for ref in refs], shard_size=8)
    job = pickle.loads(pickle.dumps(runner.Job(out, 1, tuple(refs[8:]), recipe)))
    with writer.Writer(out) as other:
        assert other.claim(1)
        with pytest.raises(LockedError):
            runner.run_shard(job)
    record = runner.run_shard(job)
    assert record is not None
    assert record.ok == 8
    assert runner.run_shard(job) is None


def test_two_forwards_at_once_give_the_same_features_in_the_same_order(
    photos: Photos, edges_extractor: str
) -> None:
    refs = photos(23)
    made = runner.build(edges_extractor, {}, Setting(storage="float32"))
    read = reader(made, Setting())
    todo = [(4, refs[:9]), (2, refs[9:10]), (7, refs[10:])]
    found = [
        [
            (shard.number, shard.outcomes(), shard.rows())
            for shard in computed(made, read, todo, batch_size=2, workers=3, forwards=forwards)
        ]
        for forwards in (1, 2)
    ]
    assert [number for number, *_ in found[0]] == [4, 2, 7]
    for one, two in zip(*found, strict=True):
        assert one[:2] == two[:2]
        assert list(one[2]) == [outcome.id for outcome in one[1]]
        assert all(np.array_equal(one[2][k]["edges"], two[2][k]["edges"]) for k in one[2])


def test_events_count_up_to_the_total(tmp_path: Path, photos: Photos, edges_extractor: str) -> None:
    refs = photos(20)
    refs[5].path.write_bytes(b"")
    events: list[Mapping[str, Any]] = []
    run(refs, tmp_path / "store", on_event=events.append)
    done = [event["done"] for event in events]
    assert done == sorted(done)
    assert (done[-1], events[-1]["total"]) == (20, 20)
    assert events[-1]["reasons"] == {"failed: empty": 1}


def test_a_signal_stops_between_batches_and_the_rest_can_be_done_later(
    tmp_path: Path, photos: Photos, edges_extractor: str
) -> None:
    refs = photos(40)

    def stop(event: Mapping[str, Any]) -> None:
        if event["done"] >= 12:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(refs, tmp_path / "store", on_event=stop)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list((tmp_path / "store" / "leases").iterdir())
    done = len(open_store(tmp_path / "store"))
    assert 8 <= done < 40
    assert run(refs, tmp_path / "store").computed == 40 - done
    run(refs, tmp_path / "whole")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from precap.types import ImageRef
from tests.extract.test_runner import run
files = sorted((Path(sys.argv[3]).parent / "photos").iterdir())
print("ready", flush=True)
run([ImageRef(file.stem, file) for file in files], Path(sys.argv[3]), shard_size=4)
"""


def test_killed_at_any_moment_the_store_comes_out_the_same(
    tmp_path: Path, edges_extractor: str
) -> None:
    refs = write_photos(tmp_path / "photos", 60)
    run(refs, tmp_path / "whole", shard_size=4)
    out = tmp_path / "store"
    command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path / "elsewhere"), str(out)]
    draw = np.random.default_rng(int(os.environ.get("PRECAP_TEST_SEED", "1")))
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills > 0
    report = run(refs, out, shard_size=4)
    assert (report.ok, report.pending) == (60, 0)
    assert contents(out) == contents(tmp_path / "whole")
