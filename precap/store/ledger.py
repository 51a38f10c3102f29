"""What is committed: a fsynced line per shard, a file per writing process; the union is true."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from precap.atomic import explained, sync
from precap.store import files, sealed
from precap.types import Status

#: Member number in the shard, status, reason, detail: a planned image that has no features.
Absent = tuple[int, Status, str, str]


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A committed shard: what its file is, what it holds, who wrote it.

    file: relative to the store. layout: array name -> [file in the shard, byte offset or None,
    shape, dtype]; absent: members without features; ids: digest of its planned ids.
    """

    shard: int
    file: str
    bytes: int
    digest: str
    ids: str
    ok: int
    absent: tuple[Absent, ...]
    layout: Mapping[str, Any]
    seconds: float = 0.0
    time: float = 0.0
    host: str = ""
    pid: int = 0
    sum: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values without ``sum``."""
        values = asdict(self)
        del values["sum"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ShardRecord":
        """The record written by ``as_json``."""
        absent = tuple((m, s, r, d) for m, s, r, d in values["absent"])
        return ShardRecord(**{**values, "absent": absent})


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of a ledger file that is not a whole, unchanged record."""

    path: Path
    number: int
    torn: bool  # the last line, without an end: an append that a crash interrupted
    why: str


class Ledger:
    """The union of all ledger files of the store at ``path``; ``refresh`` reads what was added."""

    def __init__(self, path: Path) -> None:
        self.path = path / "ledger"
        self.records: dict[int, ShardRecord] = {}
        self.bad: list[BadLine] = []
        self.lines: dict[int, list[ShardRecord]] = {}  # per shard every line, void ones included
        self._void: set[str] = set()
        self._read: dict[str, tuple[int, int]] = {}  # file name -> bytes, lines read
        self.refresh()

    def refresh(self) -> None:
        """Read lines added since the last time, in all files."""
        if not self.path.is_dir():
            return
        self.bad = [line for line in self.bad if not line.torn]
        voided = len(self._void)
        changed: set[int] = set()
        for file in sorted(self.path.glob("*.jsonl")):
            for record in self._read_file(file):
                self.lines.setdefault(record.shard, []).append(record)
                changed.add(record.shard)
        for shard in changed if len(self._void) == voided else self.lines:
            self._settle(shard)

    def _settle(self, shard: int) -> None:
        """One record per shard, the latest; a shard is deterministic, so two of them are equal."""
        valid = [record for record in self.lines[shard] if record.sum not in self._void]
        self.records.pop(shard, None)
        if valid:
            self.records[shard] = max(valid, key=lambda record: (record.time, record.sum))

    @property
    def state(self) -> dict[str, int]:
        """Ledger file name -> bytes read: changes whenever the ledger does."""
        return {name: size for name, (size, _) in self._read.items()}

    def _read_file(self, file: Path) -> list[ShardRecord]:
        offset, number = self._read.get(file.name, (0, 0))
        if file.stat().st_size == offset:
            return []
        with file.open("rb") as handle:
            handle.seek(offset)
            data = handle.read()
        lines = data.split(b"\n")
        tail = lines.pop()
        found = []
        for line in lines:
            number += 1
            found += self._parse(file, number, line + b"\n")
        self._read[file.name] = (offset + len(data) - len(tail), number)
        if tail:
            torn = not _is_whole(tail[:-1])  # else it has an end, but one that was changed
            self.bad.append(BadLine(file, number + 1, torn, "the line has no end"))
        return found

    def _parse(self, file: Path, number: int, line: bytes) -> list[ShardRecord]:
        try:
            values = sealed.unseal(line)
            if "void" in values:
                self._void.update(values["void"])
                return []
            return [ShardRecord.from_json(values)]
        except (ValueError, TypeError, KeyError) as error:
            self.bad.append(BadLine(file, number, False, str(error)))
            return []


def _is_whole(line: bytes) -> bool:
    try:
        return bool(sealed.unseal(line + b"\n"))
    except ValueError:
        return False


class LedgerWriter:
    """The ledger file of one writing process: created by it, never opened by another."""

    def __init__(self, path: Path) -> None:
        self._folder = path / "ledger"
        self._handle: int | None = None

    def append(self, values: Mapping[str, Any]) -> str:
        """Add one line and fsync it; its checksum. After a failure the next one gets a new file."""
        line = sealed.seal(values)
        try:
            with explained(self._folder, "write the ledger in"):
                if self._handle is None:
                    self._handle = self._create()
                files.write_all(self._handle, line)
                os.fsync(self._handle)
        except BaseException:
            self.close()  # what stands there now may be half a line: never append to it
            raise
        return str(sealed.unseal(line)["sum"])

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _create(self) -> int:
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        handle = os.open(
            self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666
        )
        try:
            sync(self._folder)
        except BaseException:
            os.close(handle)
            raise
        return handle


def stamp() -> dict[str, Any]:
    """Who writes, and when: time (Unix seconds), host, pid."""
    return {"time": round(time.time(), 3), "host": socket.gethostname(), "pid": os.getpid()}
