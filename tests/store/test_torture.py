"""SIGKILL at random moments, 1 and 4 writers, both formats: nothing lost, doubled or unreadable."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from precap.store import sealed
from precap.store.files import digest_of
from precap.store.ledger import Ledger
from precap.store.plan import extend
from precap.store.verify import verify
from precap.store.writer import Writer, create
from tests.store import toy

IMAGES, SIZE = 192, 8
CASES = [(writers, format) for writers in (1, 4) for format in ("hdf5", "zarr")]
SERVER = multiprocessing.get_context("forkserver")


def work(path: Path, ready: int) -> None:
    """A writing process: claim and commit until nothing remains; notes each shard it begins."""
    notes = os.open(path.parent / "begun", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Writer(path) as writer:
        os.write(ready, b".")
        while remaining := writer.remaining():
            for shard in remaining:
                if writer.claim(shard):
                    os.write(notes, f"{shard}\n".encode())
                    toy.commit(writer, shard)
            time.sleep(0.002)


def ledger_lines(path: Path) -> list[dict[str, Any]]:
    """All records without times, hosts and checksums, sorted; torn lines are no records."""
    found = []
    for file in (path / "ledger").iterdir():
        lines = [line for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")]
        values = [sealed.unseal(line) for line in lines]
        assert len({(value["host"], value["pid"]) for value in values}) <= 1, (
            "two writers on a file"
        )
        for value in values:
            found.append({k: v for k, v in value.items() if k not in VOLATILE})
    return sorted(found, key=json.dumps)


VOLATILE = ("time", "host", "pid", "seconds", "sum")


@dataclass
class Torture:
    """Kills writers of stores in ``folder`` until ``kills`` processes have died while at work."""

    folder: Path
    format: str
    writers: int
    kills: int
    seed: int
    killed: int = 0
    stores: int = 0
    redone: int = 0
    path: Path = field(default_factory=Path)

    def run(self) -> None:
        reference = self.new("reference")
        toy.fill(reference)
        draw = random.Random(self.seed)
        while self.killed < self.kills:
            self.path = self.new(f"s{self.stores}")
            before = self.killed
            self.to_the_end(draw)
            self.compare(reference)
            begun = len((self.path.parent / "begun").read_text().split())
            (self.path.parent / "begun").unlink()
            redone = begun - IMAGES // SIZE
            assert redone <= self.killed - before, "more than one shard per killed writer redone"
            self.redone += redone
            self.stores += 1

    def new(self, name: str) -> Path:
        path = self.folder / name / "store"
        create(path, toy.spec(), format=self.format)
        extend(path, toy.ids(IMAGES), shard_size=SIZE)
        return path

    def to_the_end(self, draw: random.Random) -> None:
        """Kill and restart until the store is complete; what was committed stays committed."""
        known: dict[int, str] = {}
        processes: list[ForkServerProcess] = []
        while True:
            processes = [p for p in processes if p.is_alive()]
            while len(processes) < self.writers:
                processes.append(self.start())
            time.sleep(draw.uniform(0, 0.06))
            if self.killed < self.kills:
                victim = processes.pop(draw.randrange(len(processes)))
                victim.kill()
                victim.join()
                self.killed += victim.exitcode == -signal.SIGKILL
            else:
                for process in processes:
                    process.join()
            ledger = Ledger(self.path)
            now = {shard: record.digest for shard, record in ledger.records.items()}
            assert known.items() <= now.items(), "a committed shard was lost or changed"
            assert not [bad for bad in ledger.bad if not bad.torn]
            known = now
            if len(now) == IMAGES // SIZE:
                break
        for process in processes:
            process.join()

    def start(self) -> ForkServerProcess:
        reading, writing = os.pipe()
        process = SERVER.Process(target=_entry, args=(self.path, SERVER.reducer.DupFd(writing)))
        process.start()
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        return process

    def compare(self, reference: Path) -> None:
        """Bit-identical shards, equal ledgers, every row right."""
        report = verify(self.path, full=True)
        assert report.sound
        assert report.remaining == 0
        names = sorted(p.name for p in (reference / "shards").iterdir())
        left = sorted(p.name for p in (self.path / "shards").iterdir() if p.suffix != ".partial")
        assert left == names
        for name in names:
            assert digest_of(self.path / "shards" / name) == digest_of(reference / "shards" / name)
        lines = ledger_lines(self.path)
        unique = [line for k, line in enumerate(lines) if line not in lines[:k]]
        assert unique == ledger_lines(reference)
        toy.check_all(self.path, IMAGES)


def _entry(path: Path, ready: Any) -> None:
    work(path, ready.detach())


def torture(
    folder: Path, format: str, writers: int, kills: int, show: pytest.CaptureFixture[str]
) -> None:
    SERVER.set_forkserver_preload(["tests.store.test_torture", "h5py", "zarr"])
    case = Torture(folder, format, writers, kills, seed=int(os.environ.get("PRECAP_SEED", "1")))
    case.run()
    with show.disabled():
        print(
            f"\n{format}, {writers} writers: {case.killed} kills over {case.stores} stores; rows "
            f"lost 0, duplicated 0, unreadable 0; shards redone {case.redone}"
        )


@pytest.mark.parametrize(("writers", "format"), CASES)
def test_some_kills(
    tmp_path: Path, writers: int, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torture(tmp_path, format, writers, 13, capsys)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("writers", "format"), CASES)
def test_a_thousand_kills(
    tmp_path: Path,
    writers: int,
    format: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "torture" not in request.config.getoption("-m"):
        pytest.skip("250 kills per case take minutes: `make torture`")
    torture(tmp_path, format, writers, int(os.environ.get("PRECAP_KILLS", "250")), capsys)
