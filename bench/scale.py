"""What each image costs besides its features: planning, finding what remains, committing.

The extractor does nothing and no row is written: what is left is the plan, the leases and the
ledger, each made durable as in a real run. Every size runs in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import report

SIZES = (10**4, 10**5, 10**6, 10**7)
SHARD = 256  # the command line's default
MICROSECONDS, BYTES = 20.0, 200.0
#: Per-image cost of the largest size over that of the smallest that is not all start-up.
GROWTH = 1.5
#: Tasks for Dask: scheduling is by shard, so that many shards tell what one costs.
TASKS = 2000


def main() -> None:
    """Measure each size, then what Dask adds per shard."""
    args = report.arguments(
        __doc__,
        largest={"type": int, "default": SIZES[-1], "help": "leave out sizes above this"},
        child={"type": int, "default": 0, "help": "(measure one size and print it)"},
        folder={"default": tempfile.gettempdir(), "help": "where the stores are made"},
    )
    if args.child:
        print(json.dumps(measure(args.child, Path(args.folder))))
        return
    made = report.Report("scale: overhead per image, no-op extractor")
    found: dict[int, dict[str, float]] = {}
    for size in (size for size in SIZES if size <= args.largest):
        found[size] = values = in_a_process(size, args.folder)
        case = f"{size:,} images"
        for name in ("plan", "remaining", "commit"):
            made.row(case, f"{name} per image", values[name] / size * 1e6, "us")
        made.row(case, "all per image", values["all"] / size * 1e6, "us")
        made.row(case, "of this, processor time", values["cpu"] / size * 1e6, "us")
        made.row(case, "peak memory per image", values["memory"] / size, "bytes")
        made.row(case, "on disk per image", values["disk"] / size, "bytes")
    claim(made, found)
    made.row(f"{TASKS:,} shards", "Dask per shard, one worker", dask_per_shard() * 1e6, "us")
    made.finish(args.json)


def claim(made: report.Report, found: dict[int, dict[str, float]]) -> None:
    """Every size under both bounds; the largest no dearer per image than the one of 1e5."""
    for size, values in found.items():
        made.at_most(f"us per image at {size:,}", values["all"] / size * 1e6, MICROSECONDS)
        if size >= 10**5:  # below, memory is the interpreter's noise
            made.at_most(f"bytes of memory per image at {size:,}", values["memory"] / size, BYTES)
    few, many = min(s for s in found if s >= min(10**5, max(found))), max(found)
    growth = (found[many]["all"] / many) / (found[few]["all"] / few)
    made.at_most(f"us per image at {many:,} over that at {few:,} (linear)", growth, GROWTH)


def in_a_process(size: int, folder: str) -> dict[str, float]:
    """``measure`` where no memory of another size lies around."""
    command = [sys.executable, "-m", "bench.scale", "--child", str(size), "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def measure(size: int, folder: Path) -> dict[str, float]:
    """Seconds of each step and of all, bytes of memory above the ids' own, bytes on disk."""
    from precap import allocator
    from precap.store import plan, writer
    from precap.types import FeatureSpec, Field

    ids = [f"{number:012d}" for number in range(size)]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "store"
        spec = FeatureSpec("noop", 1, "none", (Field("x", "global", (1,), "float16"),))
        writer.create(path, spec)
        before, cpu = allocator.peak(), time.process_time()
        planned = report.seconds(lambda: plan.extend(path, ids, shard_size=SHARD))
        begun = time.perf_counter()
        with writer.Writer(path) as out:
            todo = out.remaining()
            found = time.perf_counter() - begun
            committed = report.seconds(lambda: commit(path, out, todo))
        begun = time.perf_counter()
        with writer.Writer(path) as out:  # a rerun: reads the whole ledger, finds nothing to do
            assert out.remaining() == []
        found += time.perf_counter() - begun
        return {
            "cpu": time.process_time() - cpu,
            "plan": planned,
            "remaining": found,
            "commit": committed,
            "all": planned + found + committed,
            "memory": float(allocator.peak() - before),
            "disk": float(sum(f.stat().st_size for f in path.rglob("*") if f.is_file())),
        }


def commit(path: Path, out: Any, todo: list[int]) -> None:
    """For each shard: lease, digest of its ids, durable ledger line, lease back. No shard file."""
    from precap.store import files
    from precap.store.ledger import LedgerWriter, ShardRecord, stamp

    lines = LedgerWriter(path)
    for shard in todo:
        assert out.claim(shard)
        ids = out.ids(shard)
        record = ShardRecord(
            shard=shard,
            file=f"shards/{shard:06d}.h5",
            bytes=0,
            digest="0" * 32,
            ids=files.digest("\n".join(ids).encode()),
            ok=len(ids),
            absent=(),
            layout={"x": ["", 4096, [len(ids), 1], "<f2"]},
            **stamp(),
        )
        lines.append(record.as_json())
        out.release(shard)
    lines.close()


def dask_per_shard() -> float:
    """Seconds per task that computes nothing, through one worker of a LocalCluster."""
    from precap.extract.executors import dask

    work = dask.Work(os.urandom(4).hex(), nothing, leave)
    with dask.connected("local:1", {}, work) as client:
        list(dask.run(client, work, range(8), lambda: None))
        return (
            report.seconds(lambda: list(dask.run(client, work, range(8, TASKS), lambda: None)))
            / TASKS
        )


def nothing(shard: int) -> None:
    """A task without work."""


def leave() -> None:
    """Nothing to give back."""


if __name__ == "__main__":
    main()
