"""fork, spawn and forkserver, with 0, 2 and 8 reading processes: no deadlock, no wrong row."""

import multiprocessing
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from precap.store.reader import Store, open_store
from tests.store import toy

STORES = [(f, c) for f in ("hdf5", "zarr") for c in ("none", "zstd")]
METHODS, COUNTS = ("fork", "spawn", "forkserver"), (0, 2, 8)
MADE = toy.spec(toy.FIELDS[:3])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return {
        f"{format}-{packed}": toy.build(
            folder / f"{format}-{packed}", 60, 16, MADE, format=format, compression=packed
        )
        for format, packed in STORES
    }


def read(store: Store, seed: int, results: Any = None) -> None:
    """Read random batches and compare every row; puts "right" or what went wrong."""
    try:
        draw = random.Random(seed)
        ids = list(store.ids)
        for _ in range(4):
            chosen = draw.sample(ids, 16)
            batch = store.read_many(chosen)
            for place, image in enumerate(chosen):
                row = {name: _row(rows, place) for name, rows in batch.items()}
                toy.same(row, toy.features(image, MADE), MADE)
        said = "right"
    except BaseException as error:
        said = repr(error)
    if results is None:
        assert said == "right"
    else:
        results.put(said)


def _row(rows: Any, place: int) -> Any:
    array = rows.array[place]
    return array if rows.lengths is None else array[: rows.lengths[place]]


def run(path: Path, method: str, count: int, seed: int) -> None:
    """The parent reads first, so that children inherit open files, maps and library threads."""
    store = open_store(path)
    read(store, seed)
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["tests.store.test_processes", "h5py", "zarr"])
    results = context.SimpleQueue()
    processes = [
        context.Process(target=read, args=(store, seed + n, results), daemon=True)
        for n in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)  # eight interpreters on a busy machine take their time
        assert process.exitcode == 0, f"{method}, {count} readers: a reader hangs or died"
    assert [results.get() for _ in processes] == ["right"] * count
    read(store, seed)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_right_in_every_process(
    stores: dict[str, Path], method: str, count: int
) -> None:
    names = list(stores)
    if method == "spawn" and count == 8:
        names = names[::2]  # a new interpreter per reader takes long; `make torture` runs all
    for name in names:
        run(stores[name], method, count, seed=count)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_two_hundred_runs(
    stores: dict[str, Path], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if "torture" not in request.config.getoption("-m"):
        pytest.skip("200 runs take minutes: `make torture`")
    cases = [(m, c, n) for m in METHODS for c in COUNTS for n in stores]
    for number in range(int(os.environ.get("PRECAP_RUNS", "200"))):
        method, count, name = cases[number % len(cases)]
        run(stores[name], method, count, seed=number)
    with capsys.disabled():
        print(f"\n{number + 1} runs over {len(cases)} cases: 0 deadlocks, 0 wrong rows")


def test_a_pickled_store_opens_again_and_refuses_another_store(tmp_path: Path) -> None:
    path = toy.build(tmp_path / "s", 20, 8, MADE)
    packed = pickle.dumps(open_store(path))
    assert len(packed) < 2000
    read(pickle.loads(packed), 1)
