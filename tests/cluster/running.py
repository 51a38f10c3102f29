"""Run precap in processes of its own, watch its store, and say what two stores must share."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from precap.store.ledger import Ledger

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "precap.cli")
#: Generous: the machine may be busy with anything else.
PATIENCE = 500.0


def environment(**more: str | Path) -> dict[str, str]:
    """One compute thread in every process; this project's tests can be imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    more = {"PYTHONPATH": path, **threads, **more}
    return {**os.environ, **{name: str(value) for name, value in more.items()}}


def start(*words: str | Path, **variables: str | Path) -> subprocess.Popen[str]:
    """``precap WORDS`` in a process, stdout and stderr together; ``finish`` it."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What the process has said, once it has left with ``code``."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, f"exit code {process.returncode}:\n{said[-4000:]}"
    return said


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition``; fails when it takes for ever."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")


def committed(store: Path) -> int:
    """Whole lines in the ledger of the store."""
    return sum(file.read_bytes().count(b"\n") for file in (store / "ledger").glob("*.jsonl"))


def holders(store: Path) -> list[int]:
    """The process of every lease that there is."""
    found = []
    for lease in (store / "leases").glob("[0-9]*.*"):
        try:
            found.append(json.loads(lease.read_text())["pid"])
        except (FileNotFoundError, ValueError):  # given back meanwhile
            continue
    return found


def alive(process: int) -> bool:
    """Whether a process runs, zombies excepted."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def contents(store: Path) -> dict[str, Any]:
    """All that must not depend on where a store was made: shards, ledger without times and hosts.

    Also checks what holds for every store: one line per shard, one writing process per file.
    """
    ledger = Ledger(store)
    assert not ledger.bad
    lines = Counter({shard: len(found) for shard, found in ledger.lines.items()})
    assert set(lines.values()) <= {1}, f"committed more than once: {lines}"
    for file in (store / "ledger").glob("*.jsonl"):
        writers = {(r["host"], r["pid"]) for r in map(json.loads, file.read_bytes().splitlines())}
        assert len(writers) == 1
    times = ("seconds", "time", "host", "pid", "sum")
    records = {
        record.shard: {k: v for k, v in record.as_json().items() if k not in times}
        for record in ledger.records.values()
    }
    shards = {file.name: file.read_bytes() for file in sorted((store / "shards").iterdir())}
    return {"shards": shards, "records": records}
