"""Opening a store and reading a first random batch of 64 by string id: seconds and memory."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report

report.pin_threads(1)

from precap.store import files, ledger, plan, writer  # noqa: E402
from precap.types import FeatureSpec, Field, Outcome  # noqa: E402

SHARD, WIDTH = 512, 64
CASES = {123_287: (0.3, 1e9), 10_000_000: (2.0, 1e9)}

#: What is timed, in a fresh process: imports are done before, the page cache is warm.
CHILD = """
import json, random, sys, time
import numpy
from pathlib import Path
from precap import allocator
from precap.store import reader
path, count = Path(sys.argv[1]), int(sys.argv[2])
ids = [f"COCO_{number:012d}" for number in random.Random(int(sys.argv[3])).sample(range(count), 64)]
begun = time.perf_counter()
store = reader.open_store(path)
batch = store.read_many(ids)
spent = time.perf_counter() - begun
assert len(store) == count and batch["x"].array.shape == (64, 64)
print(json.dumps([spent, allocator.peak()]))
"""


def simulate(path: Path, count: int) -> None:
    """A store of ``count`` images whose shards all are links to one real, committed shard."""
    spec = FeatureSpec("bench", 1, "none", (Field("x", "global", (WIDTH,), "float16"),))
    writer.create(path, spec)
    plan.extend(path, [f"COCO_{number:012d}" for number in range(count)], shard_size=SHARD)
    with writer.Writer(path) as out:
        import numpy as np

        ids = out.ids(0)
        rows = {image: {"x": np.full(WIDTH, k, np.float32)} for k, image in enumerate(ids)}
        record = out.commit(0, [Outcome(image, "ok") for image in ids], rows)
        lines = ledger.LedgerWriter(path)
        for shard in out.remaining():
            name = f"shards/{shard:06d}.h5"
            os.link(path / record.file, path / name)
            ids = out.ids(shard)
            planned = files.digest("\n".join(ids).encode())
            own = {"shard": shard, "file": name, "ok": len(ids), "ids": planned}
            lines.append({**record.as_json(), **own})
        lines.close()


def child(path: Path, count: int, seed: int) -> tuple[float, float]:
    """Seconds and peak memory of one fresh process."""
    command = [sys.executable, "-c", CHILD, str(path), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    spent, peak = json.loads(done.stdout)
    return spent, peak


def main() -> None:
    given = report.arguments(__doc__, runs={"type": int, "default": 7})
    out = report.Report("store_open")
    for count, (seconds, memory) in CASES.items():
        case = f"{count:,} images"
        folder = Path(tempfile.mkdtemp(prefix="precap-bench-"))
        try:
            simulate(folder / "s", count)
            first = child(folder / "s", count, 0)
            found = [child(folder / "s", count, seed) for seed in range(1, given.runs + 1)]
        finally:
            shutil.rmtree(folder)
        spent = report.median([value for value, _ in found])
        peak = report.median([value for _, value in found])
        out.row(case, "open and first batch", spent, "s", given.runs)
        out.row(case, "peak memory of the process", peak / 1e6, "MB", given.runs)
        out.row(case, "the very first time: builds the index", first[0], "s", 1)
        out.row(case, "its peak memory", first[1] / 1e6, "MB", 1)
        out.at_most(f"{case}: seconds to the first batch", spent, seconds)
        out.at_most(f"{case}: peak memory in bytes", max(peak, first[1]), memory)
    out.finish(given.json)


if __name__ == "__main__":
    main()
