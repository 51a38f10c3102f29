"""ENOSPC, EIO, EDQUOT, EMFILE at every open, write, fsync and rename that a commit makes."""

import errno
import shutil
from pathlib import Path

import pytest
from PIL import Image

from precap.errors import ResourceError
from precap.store.plan import extend
from precap.store.reader import open_store
from precap.store.verify import verify
from precap.store.writer import Writer, create
from tests.command import Precap
from tests.extract import edges
from tests.store import sabotage, toy

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EMFILE")
FIELDS = toy.FIELDS[1:2]
KINDS = ("open", "write", "fsync", "rename")


def claim_and_commit(path: Path) -> None:
    with Writer(path) as writer:
        assert writer.claim(0)
        toy.commit(writer, 0)


def new_store(path: Path, format: str) -> Path:
    create(path, toy.spec(FIELDS), format=format)
    extend(path, toy.ids(6), shard_size=6)
    return path


def calls(path: Path, format: str) -> dict[str, int]:
    """How many calls of each kind one claim and commit makes."""
    new_store(path, format)
    with sabotage.counting() as counts:
        claim_and_commit(path)
    return {kind: counts[kind] for kind in KINDS}


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_every_failing_call_is_a_typed_error_and_never_a_false_complete(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = calls(tmp_path / "count", format)
    hit = 0
    for kind in KINDS:
        path = new_store(tmp_path / kind, format)
        for number in range(1, counts[kind] + 1):
            hit += sum(fail_once(path, kind, number, name) for name in ERRORS)
        toy.fill(path)
        toy.check_all(path, 6)
    with capsys.disabled():
        print(f"\n{format}: calls of one commit {counts}; {hit} failures: each call, each error")
    assert hit == len(ERRORS) * sum(counts.values())


def fail_once(path: Path, kind: str, number: int, name: str) -> int:
    """One commit with one failing call: a ResourceError; the store is as before, or committed."""
    failing = sabotage.failing(kind, number, getattr(errno, name))
    with failing as counts, pytest.raises(ResourceError) as caught:
        claim_and_commit(path)
    assert counts[kind] >= number
    assert caught.value.exit_code == 6
    assert str(path) in str(caught.value)
    report = verify(path, full=True)
    assert report.sound
    if report.shards:  # the line stood there when its fsync failed: then all it names is there too
        toy.check_all(path, 6)
        for file in (path / "ledger").iterdir():
            file.unlink()  # as if the machine had lost it, too
    else:
        assert len(open_store(path)) == 0
        assert report.remaining == 1
    return 1


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_a_write_that_fails_halfway_leaves_no_half_record(tmp_path: Path, format: str) -> None:
    path = new_store(tmp_path / "s", format)
    for number in range(1, calls(tmp_path / "count", format)["write"] + 1):
        failing = sabotage.failing("write", number, errno.ENOSPC, half=True)
        with failing, pytest.raises(ResourceError):
            claim_and_commit(path)
        assert verify(path).sound
        assert verify(path).remaining == 1
    toy.fill(path)
    toy.check_all(path, 6)


def test_the_same_writer_goes_on_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "s"
    create(path, toy.spec())
    extend(path, toy.ids(12), shard_size=6)
    writes = 0
    with Writer(path) as writer:
        toy.commit(writer, 0)
        with sabotage.counting() as counts:
            assert writer.claim(1)
        for number in range(1, 40):
            with sabotage.failing("write", number, errno.ENOSPC, half=True) as counts:
                try:
                    toy.commit(writer, 1)
                except ResourceError:
                    writes += 1
                    assert writer.remaining() == [1]
                else:
                    break
    assert writes == counts["write"] >= 2
    toy.check_all(path, 12)
    kinds = {finding.kind for finding in verify(path).findings}
    assert kinds == {"torn"}  # half a ledger line remains, and the next one went into a new file


def test_a_power_cut_at_every_call_loses_nothing_committed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    create(path, toy.spec())
    extend(path, toy.ids(12), shard_size=6)
    with Writer(path) as writer:
        toy.commit(writer, 0)
    number = 0
    while verify(path).remaining:
        number += 1
        assert number < 200
        with sabotage.power_cut(number):
            try:
                writer = Writer(path)
                assert writer.claim(1)
                toy.commit(writer, 1)
            except sabotage.PowerCut:
                pass
        for lease in (path / "leases").iterdir():
            lease.unlink()  # the process that held it is gone
        assert verify(path).sound
        toy.check(open_store(path), toy.ids(6))
        for file in (path / "ledger").iterdir():
            if b"\n" not in file.read_bytes():
                file.unlink()  # else every next attempt would make one call more
    assert number > 20
    toy.check_all(path, 12)


@pytest.mark.parametrize("kind", ["write", "fsync", "rename"])
def test_the_command_line_leaves_with_6_and_goes_on_when_repeated(
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    precap = Precap(capsys, monkeypatch)
    monkeypatch.syspath_prepend(edges.install(tmp_path / "code"))
    request.addfinalizer(edges.forget)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for shade in range(3):
        Image.new("RGB", (40, 40), (80 * shade, 9, 9)).save(folder / f"{shade}.png")
    precap("data", "prepare", folder, "--out", tmp_path / "data")
    store = tmp_path / "features"
    command = ("extract", edges.NAME, "--data", tmp_path / "data", "--out", store)
    with sabotage.counting() as counts:
        precap(*command)
    (made,) = store.iterdir()
    for number in {1, counts[kind] // 2}:  # the last ones keep the index, which is only a cache
        shutil.rmtree(made)
        with sabotage.failing(kind, number, errno.ENOSPC):
            said = precap.refused(*command, code=6)
        assert "disk is full" in said
        assert not (made / "store.json").exists() or verify(made).sound
    precap(*command)
    assert len(open_store(made)) == 3
    assert verify(made).findings == []
