"""Write throughput: committing shards beside np.save of the same bytes with the same fsyncs."""

import os
import shutil
import tempfile
from pathlib import Path

from bench import report

report.pin_threads(1)

import numpy as np  # noqa: E402

from precap.store import plan, writer  # noqa: E402
from precap.types import FeatureSpec, Field, Outcome  # noqa: E402

SHARD = 512
CASES = {"36x2048 fp16": ((36, 2048), SHARD), "256x1024 fp16": ((256, 1024), 128)}


def np_save(path: Path, array: np.ndarray) -> None:
    """np.save, then exactly the fsyncs of a commit: file, folder, ledger line."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync(path.parent)
    with (path.parent / "ledger").open("ab") as file:
        file.write(b"x" * 500 + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def open_writer(folder: Path, format: str, shape: tuple[int, ...], size: int) -> writer.Writer:
    """A writer of a store with more shards planned than any run needs."""
    spec = FeatureSpec("bench", 1, "none", (Field("x", "grid", shape, "float16"),))
    path = folder / format
    writer.create(path, spec, format=format)
    plan.extend(path, [f"{n:012d}" for n in range(size * 500)], shard_size=size)
    return writer.Writer(path)


def measure(out: report.Report, case: str, runs: int) -> None:
    """Rows and claims of one case; what was written is removed after each run."""
    shape, size = CASES[case]
    rows = np.random.default_rng(0).random((size, *shape), np.float32).astype(np.float16)
    folder = Path(tempfile.mkdtemp(prefix="precap-bench-"))
    writers = {name: open_writer(folder, name, shape, size) for name in ("hdf5", "zarr")}
    todo = {name: iter(range(500)) for name in writers}

    def commit(name: str) -> None:
        shard = next(todo[name])
        ids = writers[name].ids(shard)
        features = {image: {"x": rows[k]} for k, image in enumerate(ids)}
        record = writers[name].commit(shard, [Outcome(i, "ok") for i in ids], features)
        done.append(folder / name / record.file)

    def save() -> None:
        np_save(folder / "x.npy", rows)
        done.append(folder / "x.npy")

    done: list[Path] = []
    contenders = {"np.save (limit)": save, **{n: (lambda n=n: commit(n)) for n in writers}}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in range(runs + 1):
        for name, call in contenders.items():
            spent = report.seconds(call)
            if run:
                times[name].append(spent)
            _remove(done)
    for one in writers.values():
        one.close()
    shutil.rmtree(folder)
    speed = {name: rows.nbytes / report.median(values) / 1e6 for name, values in times.items()}
    for name, value in speed.items():
        out.row(case, name, value, "MB/s", runs)
    for name in writers:
        part = speed[name] / speed["np.save (limit)"]
        out.at_least(f"{case}: {name} of np.save's throughput", part, 0.7)


def _remove(done: list[Path]) -> None:
    for path in done:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done.clear()


def main() -> None:
    given = report.arguments(__doc__, runs={"type": int, "default": 15})
    out = report.Report("store_write")
    for case in CASES:
        measure(out, case, given.runs)
    out.finish(given.json)


if __name__ == "__main__":
    main()
