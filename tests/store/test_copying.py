"""Rows to their places, whatever the buffer's alignment, by any number of threads."""

import os
from pathlib import Path

import numpy as np
import pytest

from precap.store import copying, threads
from precap.store.reader import open_store
from tests.store import toy


@pytest.mark.parametrize("shift", [0, 2, 16, 30, 32, 34, 62])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8", "bool"])
def test_a_row_arrives_at_any_distance(shift: int, dtype: str) -> None:
    kind = np.dtype(dtype)
    shift -= shift % kind.itemsize
    source = copying.buffer((3, 4096), kind)
    source[:] = np.random.default_rng(0).integers(0, 2, source.shape)
    raw = copying.buffer((4 * 4096 * kind.itemsize,), np.dtype(np.uint8))
    target = raw[shift : shift + source.nbytes].view(kind).reshape(source.shape)
    put = copying.setter(target)
    for number, row in enumerate(source):
        put(target, number, row)
    assert np.array_equal(target, source)


def test_special_numbers_keep_their_bits_where_memcpy_is_avoided() -> None:
    odd = np.array([np.nan, -0.0, np.inf, 6e-8], np.float16)
    source = copying.buffer((1, 4), odd.dtype)
    source[0] = odd
    raw = copying.buffer((4096,), np.dtype(np.uint8))
    start = (source.ctypes.data - raw.ctypes.data) % 4096 % 4032 + 16
    target = raw[start : start + 8].view(np.float16).reshape(1, 4)
    copying.setter(target)(target, 0, source[0])
    assert target.tobytes() == source.tobytes()


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_every_row_is_done_once(cores: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    done = np.zeros(count, np.int64)

    def work(part: range) -> None:
        for k in part:
            done[k] += 1

    threads.spread(work, count, 1 << 30)
    assert (done == 1).all()


def test_an_error_in_another_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 2)

    def work(part: range) -> None:
        if 9 in part:
            raise ValueError("row 9")

    with pytest.raises(ValueError, match="row 9"):
        threads.spread(work, 10, 1 << 30)


def test_a_forked_child_copies_with_threads_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    monkeypatch.setattr(threads, "_WORTH", 1)
    store = open_store(toy.build(tmp_path / "s", 40))
    ids = list(store.ids)
    expected = store.read_many(ids)["grid"].array
    child = os.fork()
    if not child:
        same = np.array_equal(store.read_many(ids)["grid"].array, expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
