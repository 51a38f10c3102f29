"""Write throughput: committing shards beside np.save of the same bytes with the same fsyncs."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import report

report.pin_threads(1)

import numpy as np  # noqa: E402

from precap.store import plan, writer  # noqa: E402
from precap.types import FeatureSpec, Field, Outcome  # noqa: E402

SHARD = 512
CASES = {"36x2048 fp16": ((36, 2048), SHARD), "256x1024 fp16": ((256, 1024), 128)}


#: What a Zarr shard of one field has besides the rows: metadata files, row digests, folders.
ZARR_FILES = (
    "zarr.json",
    "digests/zarr.json",
    "digests/c/0",
    "fields/zarr.json",
    "fields/x/zarr.json",
)


def np_save_folder(path: Path, array: np.ndarray) -> None:
    """np.save into a folder like a Zarr shard's, with as many small files and fsyncs."""
    partial = path.with_suffix(".partial")
    (partial / "fields/x/c/0/0").mkdir(parents=True)
    (partial / "digests/c").mkdir(parents=True)
    for name in ZARR_FILES:
        (partial / name).write_bytes(b"x" * 1000)
    np.save(partial / "fields/x/c/0/0/0.npy", array)
    for place in [*partial.rglob("*"), partial]:
        _sync(place)
    partial.replace(path)
    _sync(path.parent)
    _ledger_line(path.parent)


def np_save(path: Path, array: np.ndarray) -> None:
    """np.save, then exactly the fsyncs of a commit: file, folder, ledger line."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync(path.parent)
    _ledger_line(path.parent)


def _ledger_line(folder: Path) -> None:
    with (folder / "ledger").open("ab") as file:
        file.write(b"x" * 500 + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
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

    def save(how: Callable[[Path, np.ndarray], None]) -> None:
        how(folder / "x", rows)
        done.append(folder / "x")

    done: list[Path] = []
    contenders: dict[str, Callable[[], None]] = {
        "np.save, the fsyncs of hdf5": lambda: save(np_save),
        "np.save, the files and fsyncs of zarr": lambda: save(np_save_folder),
        **{name: (lambda name=name: commit(name)) for name in writers},
    }
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
    for name, limit in zip(writers, list(contenders)[:2], strict=True):
        out.at_least(f"{case}: {name} of np.save's throughput", speed[name] / speed[limit], 0.7)


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
