"""Who works on which shard: exclusive lease files with a heartbeat, taken over when stale."""

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from precap.store import files

BEAT, STALE = 10.0, 120.0  # seconds


class Leases:
    """The leases that one process holds on shards of the store at ``path``.

    A lease is the file ``leases/SHARD.N``; a stale one is taken over by creating SHARD.N+1, which
    exactly one process can do. The holder touches its files every BEAT seconds.
    """

    def __init__(self, path: Path, stale: float = STALE) -> None:
        self._folder = path / "leases"
        self._stale = stale
        self._held: dict[int, Path] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, shard: int) -> bool:
        """Take the lease; False when another live process holds it."""
        if shard in self._held:
            return True
        taken = self._files(shard)
        if taken and not self._is_stale(taken[-1]):
            return False
        number = int(taken[-1].suffix[1:]) + 1 if taken else 0
        mine = self._folder / f"{shard:06d}.{number}"
        if not files.create_exclusively(mine, json.dumps(identity()).encode(), durable=False):
            return False
        for old in taken:
            old.unlink(missing_ok=True)
        self._held[shard] = mine
        self._beat()
        return True

    def live(self) -> list[str]:
        """Who holds a lease that is not stale, for a message."""
        shards = sorted({int(path.stem) for path in self._folder.glob("[0-9]*.*")})
        latest = [self._files(shard)[-1:] for shard in shards]
        held = [
            shard for shard, f in zip(shards, latest, strict=True) if f and not self._is_stale(*f)
        ]
        return [self.holder(shard) for shard in held]

    def holds(self, shard: int) -> bool:
        """Whether this process still has the lease (it may have slept and lost it)."""
        mine = self._held.get(shard)
        return mine is not None and self._files(shard)[-1:] == [mine]

    def release(self, shard: int) -> None:
        """Give the lease back; nothing when it is not held."""
        mine = self._held.pop(shard, None)
        if mine is not None:
            mine.unlink(missing_ok=True)

    def holder(self, shard: int) -> str:
        """Who holds the lease, for a message: host, pid, since when."""
        taken = self._files(shard)
        found = _read(taken[-1]) if taken else {}
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.get("time", 0)))
        return f"host {found.get('host', '?')}, pid {found.get('pid', '?')}, since {since}"

    def close(self) -> None:
        """Release everything and stop the heartbeat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for shard in list(self._held):
            self.release(shard)

    def _files(self, shard: int) -> list[Path]:
        found = self._folder.glob(f"{shard:06d}.*")
        return sorted(found, key=lambda path: int(path.suffix[1:]))

    def _is_stale(self, lease: Path) -> bool:
        found = _read(lease)
        mine = identity()
        if found.get("space") == mine["space"]:
            return found.get("started") != _started(found.get("pid", 0))
        try:
            age = self._now() - lease.stat().st_mtime
        except FileNotFoundError:
            return True
        return age > self._stale

    def _now(self) -> float:
        """The file system's clock: those of two machines may differ."""
        probe = self._folder / f".clock-{os.getpid()}-{os.urandom(4).hex()}.partial"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, daemon=True, name="precap-lease")
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            for lease in list(self._held.values()):
                try:
                    os.utime(lease)
                except OSError:
                    continue  # taken over or released meanwhile: holds() tells


def identity() -> dict[str, Any]:
    """Host, pid, process start, and the space in which the pid means something."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "space": _space(),
        "time": time.time(),
    }


def _space() -> str:
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it does not run (any more)."""
    if not Path("/proc/self/stat").exists():
        return _runs(pid)
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state in "ZX" else int(rest[18])


def _runs(pid: int) -> int:
    """Without /proc: 1 when there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        return 1
    return 1


def _read(lease: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(lease.read_text())
        return found
    except (FileNotFoundError, ValueError):  # given back meanwhile
        return {}
