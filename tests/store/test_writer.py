"""Writing: identity, commits, parts, leases, and two writers on one store."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from precap.errors import ConfigError, LockedError, StoreError
from precap.store import identity, leases
from precap.store import writer as writing
from precap.store.leases import Leases
from precap.store.ledger import Ledger
from precap.store.plan import extend
from precap.store.reader import open_store
from precap.store.verify import verify
from precap.store.writer import Writer, create
from precap.types import Outcome
from tests.store import toy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "s", toy.spec(), provenance={"torch": "2"})
    extend(tmp_path / "s", toy.ids(40), shard_size=8)
    return tmp_path / "s"


def test_creating_again_with_the_same_spec_changes_nothing(path: Path) -> None:
    before = (path / "store.json").read_bytes()
    create(path, toy.spec(), provenance={"torch": "3"})
    assert (path / "store.json").read_bytes() == before
    assert identity.load(path).provenance == {"torch": "2"}


def test_another_configuration_is_refused_field_by_field(path: Path) -> None:
    with pytest.raises(StoreError, match=r"(?s)weights.*'none'.*'other'.*precap store rm"):
        create(path, toy.spec(weights="other"))
    with pytest.raises(StoreError, match="format"):
        create(path, toy.spec(), format="zarr")
    with pytest.raises(StoreError, match="views"):
        open_store(path, toy.spec(views=2))
    with pytest.raises(ConfigError, match="hdf5"):
        create(path.parent / "t", toy.spec(), format="hdf6")
    with pytest.raises(ConfigError, match="zstd"):
        create(path.parent / "t", toy.spec(), compression="zip")


def test_a_folder_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no feature store"):
        open_store(tmp_path)


def test_bad_values_are_recorded_and_the_others_kept(path: Path) -> None:
    ids = toy.ids(8)
    rows = {image: toy.features(image) for image in ids}
    rows[ids[2]]["grid"][0, 0] = np.nan
    rows[ids[5]]["grid"][1, 1] = 1e6
    with Writer(path) as writer:
        record = writer.commit(0, [Outcome(image, "ok") for image in ids], rows)
    assert [(m, s, r) for m, s, r, _ in record.absent] == [
        (2, "failed", "non-finite"),
        (5, "failed", "overflow"),
    ]
    store = open_store(path)
    assert list(store.ids) == [image for k, image in enumerate(ids) if k not in (2, 5)]
    for image in store.ids:
        toy.same(store.read(image), toy.features(image), toy.spec())


def test_outcomes_and_rows_must_cover_the_shard(path: Path) -> None:
    ids = toy.ids(8)
    outcomes = [Outcome(image, "ok") for image in ids]
    rows = {image: toy.features(image) for image in ids}
    with Writer(path) as writer:
        for wrong in (outcomes[:-1], outcomes[::-1], [*outcomes, outcomes[0]]):
            with pytest.raises(StoreError, match="plan order"):
                writer.commit(0, wrong, rows)
        with pytest.raises(StoreError, match="rows and ok outcomes differ"):
            writer.commit(0, outcomes, {ids[0]: rows[ids[0]]})
        assert writer.remaining() == [0, 1, 2, 3, 4]


def test_parts_are_disjoint_and_cover_everything(path: Path) -> None:
    parts = [Writer(path, part=(k, 3)).remaining() for k in (1, 2, 3)]
    assert sorted(shard for part in parts for shard in part) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="1/n"):
        Writer(path, part=(0, 3))


def test_two_writers_at_once_lose_nothing_and_never_share_a_ledger(path: Path) -> None:
    threads = [threading.Thread(target=toy.fill, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    toy.check_all(path, 40)
    assert verify(path).findings == []
    assert sorted(len(lines) for lines in Ledger(path).lines.values()) == [1] * 5


def test_a_claimed_shard_is_refused_with_who_has_it(path: Path) -> None:
    with Writer(path) as first, Writer(path) as second:
        assert first.claim(0)
        assert first.claim(0)
        assert not second.claim(0)
        with pytest.raises(LockedError, match=f"pid {os.getpid()}"):
            toy.commit(second, 0)
        toy.commit(first, 0)
        assert not second.claim(0), "it is committed"
        first.claim(1)
        first.release(1)
        assert second.claim(1)


def test_a_dead_process_loses_its_lease(path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from precap.store.writer import Writer
writer = Writer(Path({str(path)!r}))
assert writer.claim(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list((path / "leases").iterdir())
    assert toy.fill(path) == [0, 1, 2, 3, 4]
    assert not list((path / "leases").iterdir())


def test_a_lease_of_another_host_is_stale_without_a_heartbeat(path: Path) -> None:
    held = Leases(path)
    assert held.claim(3)
    (file,) = (path / "leases").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "space": "elsewhere"}))
    assert not Leases(path).claim(3)
    os.utime(file, (0, 0))
    other = Leases(path)
    assert other.claim(3)
    assert other.holds(3)
    assert not held.holds(3)
    held.close()
    assert other.holds(3), "giving back what was taken over harms nobody"
    other.close()


def test_a_writer_that_slept_too_long_does_not_commit(path: Path) -> None:
    with Writer(path) as slow:
        assert slow.claim(0)
        (file,) = (path / "leases").iterdir()
        file.rename(file.with_name("000000.1"))
        with pytest.raises(LockedError, match="taken over"):
            toy.commit(slow, 0)
    assert 0 not in Ledger(path).records


def test_the_heartbeat_touches_the_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.01)
    held = Leases(path)
    held.claim(0)
    (file,) = (path / "leases").iterdir()
    os.utime(file, (0, 0))
    for _ in range(1000):
        if file.stat().st_mtime > 0:
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail("no heartbeat")
    held.close()


def test_a_plan_made_later_is_seen(path: Path) -> None:
    with Writer(path) as writer:
        extend(path, toy.ids(8, 40), shard_size=8)
        assert writer.remaining() == [0, 1, 2, 3, 4, 5]


def test_one_process_shares_one_writer(path: Path) -> None:
    assert writing.shared(path) is writing.shared(path)


def test_the_same_rows_give_the_same_shard_in_another_process(path: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.store import toy
toy.build(Path({str(tmp_path / "t")!r}), 40, 8)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    toy.fill(path)
    mine, theirs = Ledger(path).records, Ledger(tmp_path / "t").records
    assert {s: r.digest for s, r in mine.items()} == {s: r.digest for s, r in theirs.items()}
