"""Random batches of 64 from warm cache: precap beside the memory map (the limit) and its peers."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import report

report.pin_threads(1)

import h5py  # noqa: E402
import lmdb  # noqa: E402
import numpy as np  # noqa: E402
import tensorstore  # noqa: E402
import zarr  # noqa: E402

from precap.store import copying, plan, reader, writer  # noqa: E402
from precap.types import FeatureSpec, Field, Outcome  # noqa: E402

BATCH = 64
#: name, rows per image (0 = 10..100), width, images
CASES = (("36x2048 fp16", 36, 2048, 1024), ("256x1024 fp16", 256, 1024, 320),
         ("10..100x2048 fp16", 0, 2048, 640))  # fmt: skip


@dataclass
class Data:
    """The same images in every layout: flat (total, D) fp16 rows, offsets (n + 1,), ids."""

    folder: Path
    rows: np.ndarray
    offsets: np.ndarray
    fixed: int

    def __post_init__(self) -> None:
        self.ids = [f"COCO_train2014_{number:012d}" for number in range(len(self.offsets) - 1)]
        longest = int(np.diff(self.offsets).max())
        # The caller's buffer begins at a cache line, as a tensor's does: see precap.store.copying.
        self.out = copying.buffer((BATCH, longest, self.rows.shape[1]), np.dtype(np.float16))

    def one(self, number: int) -> np.ndarray:
        return self.rows[self.offsets[number] : self.offsets[number + 1]]

    def fill(self, numbers: list[int], get: Callable[[int], Any]) -> np.ndarray:
        """A padded batch from per-item arrays, in the buffer."""
        items = [get(number) for number in numbers]
        longest = max(len(item) for item in items)
        batch = self.out.reshape(-1)[: BATCH * longest * self.rows.shape[1]]
        batch = batch.reshape(BATCH, longest, -1)
        for place, item in zip(batch, items, strict=True):
            place[: len(item)] = item
            place[len(item) :] = 0
        return batch


def make(folder: Path, fixed: int, width: int, count: int) -> Data:
    random = np.random.default_rng(0)
    lengths = np.full(count, fixed) if fixed else random.integers(10, 101, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = random.random((int(offsets[-1]), width), np.float32).astype(np.float16)
    return Data(folder, rows, offsets, fixed)


def precap_store(data: Data, format: str) -> Callable[[list[int]], np.ndarray]:
    shape = (data.fixed or None, data.rows.shape[1])
    spec = FeatureSpec("bench", 1, "none", (Field("x", "region", shape, "float16"),))
    path = data.folder / format
    writer.create(path, spec, format=format)
    plan.extend(path, data.ids, shard_size=256)
    number = {image: k for k, image in enumerate(data.ids)}
    with writer.Writer(path) as out:
        for shard in out.remaining():
            ids = out.ids(shard)
            rows = {image: {"x": data.one(number[image])} for image in ids}
            out.commit(shard, [Outcome(image, "ok") for image in ids], rows)
    store = reader.open_store(path, spec)

    def read(numbers: list[int]) -> np.ndarray:
        batch = store.read_many([data.ids[k] for k in numbers], out={"x": data.out})
        return batch["x"].array

    return read


def memory_map(data: Data) -> Callable[[list[int]], np.ndarray]:
    np.save(data.folder / "limit.npy", data.rows)
    rows = np.load(data.folder / "limit.npy", mmap_mode="r")
    starts = data.offsets.tolist()
    if data.fixed:
        rows = rows.reshape(-1, data.fixed, rows.shape[1])
        plain = np.asarray(rows)

        def gather(numbers: list[int]) -> np.ndarray:
            for place, number in zip(data.out, numbers, strict=True):
                place[...] = plain[number]
            return data.out

        return gather
    plain = np.asarray(rows)
    return lambda numbers: data.fill(numbers, lambda k: plain[starts[k] : starts[k + 1]])


def h5py_once(data: Data) -> Callable[[list[int]], np.ndarray]:
    with h5py.File(data.folder / "one.h5", "w") as file:
        fixed = data.rows.reshape(-1, data.fixed, data.rows.shape[1]) if data.fixed else data.rows
        file["x"] = fixed
    dataset = h5py.File(data.folder / "one.h5", "r")["x"]
    starts = data.offsets.tolist()
    if data.fixed:
        return lambda numbers: data.fill(numbers, lambda k: dataset[k])
    return lambda numbers: data.fill(numbers, lambda k: dataset[starts[k] : starts[k + 1]])


def h5py_each_time(data: Data) -> Callable[[list[int]], np.ndarray]:
    path = data.folder / "each.h5"
    with h5py.File(path, "w") as file:
        for number in range(len(data.ids)):
            file[f"{number}_features"] = data.one(number)

    def get(number: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            return file[f"{number}_features"][()]

    return lambda numbers: data.fill(numbers, get)


def npz_folder(data: Data) -> Callable[[list[int]], np.ndarray]:
    folder = data.folder / "npz"
    folder.mkdir()
    for number in range(len(data.ids)):
        np.savez(folder / f"{number}.npz", feat=data.one(number))
    return lambda numbers: data.fill(numbers, lambda k: np.load(folder / f"{k}.npz")["feat"])


def lmdb_file(data: Data) -> Callable[[list[int]], np.ndarray]:
    size = data.rows.nbytes * 2 + (1 << 26)
    path = str(data.folder / "lmdb")
    environment = lmdb.open(path, map_size=size, sync=False)
    with environment.begin(write=True) as transaction:
        for number, image in enumerate(data.ids):
            transaction.put(image.encode(), data.one(number).tobytes())
    width = data.rows.shape[1]

    def read(numbers: list[int]) -> np.ndarray:
        with environment.begin(buffers=True) as transaction:

            def get(number: int) -> np.ndarray:
                value = transaction.get(data.ids[number].encode())
                return np.frombuffer(value, np.float16).reshape(-1, width)

            return data.fill(numbers, get)

    return read


def _zarr_path(data: Data) -> Path:
    """One uncompressed Zarr v3 array, one chunk per image (ragged: per 16 rows): its best case."""
    path = data.folder / "peer.zarr"
    if not path.exists():
        whole = data.rows.reshape(-1, data.fixed, data.rows.shape[1]) if data.fixed else data.rows
        chunks = (1 if data.fixed else 16, *whole.shape[1:])
        zarr.create_array(path, data=whole, chunks=chunks, compressors=None)
    return path


def zarr_python(data: Data) -> Callable[[list[int]], np.ndarray]:
    array = zarr.open_array(_zarr_path(data), mode="r")
    starts = data.offsets.tolist()
    if data.fixed:
        return lambda numbers: data.fill(numbers, lambda k: array[k])
    return lambda numbers: data.fill(numbers, lambda k: array[starts[k] : starts[k + 1]])


def tensor_store(data: Data) -> Callable[[list[int]], np.ndarray]:
    kvstore = {"driver": "file", "path": str(_zarr_path(data))}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    starts = data.offsets.tolist()
    if data.fixed:
        return lambda numbers: array[numbers].read().result()

    def read(numbers: list[int]) -> np.ndarray:
        futures = {k: array[starts[k] : starts[k + 1]].read() for k in numbers}
        return data.fill(numbers, lambda k: futures[k].result())

    return read


CONTENDERS: dict[str, Callable[[Data], Callable[[list[int]], np.ndarray]]] = {
    "memory map (limit)": memory_map,
    "precap hdf5": lambda data: precap_store(data, "hdf5"),
    "precap zarr": lambda data: precap_store(data, "zarr"),
    "h5py per item, opened once": h5py_once,
    "h5py per item, opened each time (M2, HIN)": h5py_each_time,
    "npz folder (self-critical)": npz_folder,
    "lmdb": lmdb_file,
    "zarr-python": zarr_python,
    "tensorstore": tensor_store,
}
SLOW = ("zarr-python", "h5py per item, opened each time (M2, HIN)")


def measure(data: Data, runs: int) -> dict[str, tuple[float, int]]:
    """Contender -> median seconds per batch and runs; every answer is compared to the truth."""
    readers = {name: build(data) for name, build in CONTENDERS.items()}
    batches = _batches(len(data.ids))
    for name, read in readers.items():
        numbers = next(batches)
        expected = data.fill(numbers, data.one).copy()
        assert np.array_equal(read(numbers), expected), f"{name} read wrong rows"
    turn = {name: (lambda read=read: read(next(batches))) for name, read in readers.items()}
    fast = {name: call for name, call in turn.items() if name not in SLOW}
    slow = {name: call for name, call in turn.items() if name in SLOW}
    few = max(5, runs // 10)
    times = {**report.side_by_side(fast, runs, warm=30), **report.side_by_side(slow, few)}
    return {name: (report.median(values), len(values)) for name, values in times.items()}


def _batches(count: int) -> Iterator[list[int]]:
    random = np.random.default_rng(1)
    while True:
        yield random.choice(count, BATCH, replace=False).tolist()


def claims(out: report.Report, case: str, found: dict[str, tuple[float, int]]) -> None:
    """The promises of the store's issue."""
    limit = found["memory map (limit)"][0]
    for format in ("hdf5", "zarr"):
        ours = found[f"precap {format}"][0]
        out.at_least(f"{case}: {format} of the memory map's speed", limit / ours, 0.8)
        if case == CASES[0][0]:
            for peer, times in (
                ("h5py per item, opened once", 3),
                ("h5py per item, opened each time (M2, HIN)", 10),
                ("tensorstore", 2),
                ("zarr-python", 50),
            ):
                out.at_least(f"{case}: {format} against {peer}", found[peer][0] / ours, times)


def main() -> None:
    given = report.arguments(__doc__, runs={"type": int, "default": 100})
    out = report.Report("store_read")
    for case, fixed, width, count in CASES:
        folder = Path(tempfile.mkdtemp(prefix="precap-bench-"))
        try:
            found = measure(make(folder, fixed, width, count), given.runs)
        finally:
            shutil.rmtree(folder)
        for name, (value, runs) in found.items():
            out.row(case, name, value * 1e3, "ms/batch", runs)
        claims(out, case, found)
    out.finish(given.json)


if __name__ == "__main__":
    main()
