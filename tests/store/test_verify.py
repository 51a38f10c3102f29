"""Verification finds every flip, cut, deletion and swap; repair queues exactly what is damaged."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from precap.errors import LockedError, StoreError
from precap.store.ledger import Ledger
from precap.store.plan import append, extend
from precap.store.reader import open_store
from precap.store.verify import repair, verify
from precap.store.writer import Writer
from tests.store import toy

FLIPS = 40  # per file; the seed is fixed, so a miss can be repeated


@pytest.fixture(scope="module", params=["hdf5", "zarr"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = toy.FIELDS[:3]
    folder = tmp_path_factory.mktemp(request.param)
    return toy.build(folder / "s", 24, 8, toy.spec(fields), format=request.param)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def data_files(path: Path) -> list[Path]:
    """Everything that holds data: all but the index, which is a cache."""
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name != "index"]
    assert {p.parent.name for p in files} >= {"plan", "ledger"}
    return files


def test_a_sound_store_has_no_findings(store: Path) -> None:
    for full in (True, False):
        report = verify(store, full)
        assert report.sound
        assert report.findings == []
        assert (report.shards, report.remaining) == (3, 0)
        assert "sound" in str(report)


def test_every_single_bit_flip_is_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(5)
    flips = 0
    for file in data_files(store):
        original = file.read_bytes()
        for _ in range(FLIPS if file.suffix in (".h5", ".txt", ".jsonl") else 5):
            place, bit = draw.randrange(len(original)), draw.randrange(8)
            damaged = bytearray(original)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            assert not verify(store).sound, f"{file.name}: byte {place}, bit {bit}"
            flips += 1
        file.write_bytes(original)
    assert verify(store).findings == []
    with capsys.disabled():
        print(f"\n{flips} single-bit flips in {len(data_files(store))} files: all found")


@pytest.mark.parametrize("full", [True, False])
def test_every_truncation_and_deletion_is_found(store: Path, full: bool) -> None:
    for file in data_files(store):
        original = file.read_bytes()
        for length in {0, 1, len(original) // 2, len(original) - 1}:
            file.write_bytes(original[:length])
            report = verify(store, full)
            assert report.findings, f"{file.name} cut to {length}"
            assert not report.sound or file.parent.name == "ledger"
        file.unlink()
        assert verify(store, full).findings, f"{file.name} deleted"
        file.write_bytes(original)
    assert verify(store).findings == []


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["shards", "ledger", "plan"])
def test_a_lost_folder_is_damage(store: Path, name: str, full: bool) -> None:
    shutil.rmtree(store / name)
    assert not verify(store, full).sound
    assert str(verify(store, full))


@pytest.mark.parametrize("order", [1, -1])
def test_a_plan_made_anew_never_gives_a_row_to_another_image(store: Path, order: int) -> None:
    (store / "plan/000.txt").unlink()
    (store / "index").unlink(missing_ok=True)
    shards = {p: p.read_bytes() for p in (store / "shards").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="copy"):
        extend(store, toy.ids(24)[::order], shard_size=8)
    append(store, toy.ids(24)[::-1], 8, "new", 0, 0)  # as a hand might put it there
    for touch in (open_store, Writer):
        with pytest.raises(StoreError, match="copy"):
            touch(store)
    for full in (True, False):
        assert {f.kind for f in verify(store, full).damage} == {"plan"}
    assert repair(store).beyond
    assert {p: p.read_bytes() for p in shards} == shards


def test_shards_whose_ledger_was_lost_are_adopted_not_removed(store: Path) -> None:
    shutil.rmtree(store / "ledger")
    done = repair(store)
    assert len(done.adopted) == 3
    assert done.removed == []
    assert verify(store).findings == []
    assert toy.fill(store) == []
    toy.check(open_store(store), toy.ids(24))


def test_a_shard_that_is_not_whole_is_not_adopted(store: Path) -> None:
    for record in list(Ledger(store).records.values())[:2]:
        inner, offset, *_ = record.layout["fields/grid"]
        victim = store / record.file / inner if inner else store / record.file
        data = bytearray(victim.read_bytes())
        data[offset + 5] ^= 1
        victim.write_bytes(data if record.shard == 0 else data[: offset + 5])
    shutil.rmtree(store / "ledger")
    done = repair(store)
    assert [Path(name).stem for name in done.adopted] == ["000002"]
    assert sorted(Path(name).stem for name in done.removed) == ["000000", "000001"]
    assert toy.fill(store) == [0, 1]
    toy.check(open_store(store), toy.ids(24))


def test_thousands_of_brackets_are_damage(store: Path) -> None:
    (store / "store.json").write_bytes(b"[" * 100_000)
    assert [finding.kind for finding in verify(store).damage] == ["manifest"]


def test_a_lost_ledger_line_leaves_an_uncommitted_shard_to_see(store: Path) -> None:
    file = next((store / "ledger").iterdir())
    lines = file.read_bytes().splitlines(True)
    file.write_bytes(b"".join(lines[:-1]))
    report = verify(store, full=False)
    assert [finding.kind for finding in report.findings] == ["uncommitted"]
    assert report.remaining == 1
    toy.fill(store)
    assert verify(store).findings == []


def test_swapped_shards_are_found(store: Path) -> None:
    a, b, _ = sorted((store / "shards").iterdir())
    a.rename(a.with_name("x"))
    b.rename(a)
    a.with_name("x").rename(b)
    report = verify(store)
    assert {finding.shard for finding in report.damage} == {0, 1}


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_swapped_rows_are_found_and_named(tmp_path: Path, format: str) -> None:
    path = toy.build(tmp_path / "s", 24, 8, format=format)
    shard = path / Ledger(path).records[1].file
    if format == "hdf5":
        with h5py.File(shard, "r+") as file:
            ids = file["ids"].asstr()[...].tolist()
            swap(file["fields/grid"])
    else:
        group = zarr.open_group(shard, mode="r+")
        ids = list(group.attrs["ids"])
        swap(group["fields/grid"])
    report = verify(path)
    assert [finding.shard for finding in report.damage] == [1]
    assert set(report.damage[0].images) == set(ids[:2])


def swap(rows: Any) -> None:
    """The first two images change places, on disk."""
    rows[...] = rows[...][[1, 0, *range(2, rows.shape[0])]]


def test_repair_queues_exactly_the_damaged_shards(store: Path) -> None:
    shards = sorted((store / "shards").iterdir())
    victim = next(p for p in (shards[1].rglob("*") if shards[1].is_dir() else [shards[1]])
                  if p.is_file() and p.stat().st_size > 100)  # fmt: skip
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 16
    victim.write_bytes(data)
    done = repair(store)
    assert done.requeued == [1]
    assert done.beyond == []
    assert verify(store).findings == []
    assert toy.fill(store) == [1]
    toy.check(open_store(store), toy.ids(24))
    assert verify(store).findings == []


def test_repair_of_a_sound_store_does_nothing(store: Path) -> None:
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    done = repair(store)
    assert (done.requeued, done.mended, done.removed) == ([], [], [])
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before


def test_repair_cuts_damaged_ledger_lines_and_clears_what_crashes_leave(store: Path) -> None:
    file = next((store / "ledger").iterdir())
    lines = file.read_bytes().splitlines(True)
    lines[1] = lines[1].replace(b'"ok":', b'"oK":')
    file.write_bytes(b"".join(lines) + b'{"torn')
    (store / "shards" / ".000009.h5.partial").write_bytes(b"x")
    with pytest.raises(StoreError, match="repair"):
        open_store(store)
    done = repair(store)
    assert done.mended == [f"ledger/{file.name}"]
    assert "shards/.000009.h5.partial" in done.removed
    assert [Path(name).stem for name in done.adopted] == ["000001"]  # its line was cut
    assert verify(store).findings == []
    assert toy.fill(store) == []
    toy.check(open_store(store), toy.ids(24))


def test_repair_waits_for_writers(store: Path) -> None:
    extend(store, toy.ids(8, 24), shard_size=8)
    with Writer(store) as writer:
        assert writer.claim(3)
        with pytest.raises(LockedError, match="pid"):
            repair(store)


@pytest.mark.parametrize("name", ["store.json", "plan/000.txt"])
def test_what_only_a_copy_can_mend_is_said(store: Path, name: str) -> None:
    file = store / name
    file.write_bytes(file.read_bytes().replace(b"toy", b"tOy").replace(b"img1", b"img9"))
    done = repair(store)
    assert done.requeued == [] or name.startswith("plan")
    assert done.beyond
    assert "copy" in str(done)


def test_a_damaged_index_is_found_and_never_gives_a_wrong_row(store: Path) -> None:
    open_store(store)
    index = store / "index"
    original = index.read_bytes()
    draw = random.Random(3)
    for _ in range(12):
        data = bytearray(original)
        data[draw.randrange(4096, len(data))] ^= 1 << draw.randrange(8)
        index.write_bytes(data)
        assert [finding.kind for finding in verify(store).findings] == ["index"]
        toy.check(open_store(store), toy.ids(24))
        assert verify(store).findings == []  # reading has built it anew, or repair removes it
        index.write_bytes(original)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_damaged_shard_says_what_to_do(tmp_path: Path, damage: str) -> None:
    path = toy.build(tmp_path / "s", 24, 8)
    record = Ledger(path).records[2]
    store = open_store(path)
    DAMAGES[damage](path / record.file)
    image = next(i for i in toy.ids(8, 16) if toy.outcome(i).status == "ok")
    with pytest.raises(StoreError, match="precap store repair"):
        store.read(image)
    healthy = next(i for i in toy.ids(8) if toy.outcome(i).status == "ok")
    assert np.isfinite(store.read(healthy)["grid"]).all()
