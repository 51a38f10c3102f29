"""Dask: the same bits as here; workers and schedulers that die lose and repeat next to nothing."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import numbers, running
from tests.cluster.conftest import BOTH, OPTIONS, SIZE, STORES, Extract

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_parts_in_any_order_give_the_same_bits(
    extract: Extract, reference: dict[str, Any], tmp_path: Path
) -> None:
    for part in ("3/3", "1/3", "2/3"):
        extract(tmp_path, part=part)
    for name in STORES:
        assert running.contents(tmp_path / name) == reference[name]


def test_four_processes_give_the_same_bits(
    reference: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    words = ("extract", BOTH, "--data", scenes, "--out", tmp_path, *OPTIONS)
    said = running.finish(running.start(*words, "--cluster", "local:4"))
    assert '"note": "dashboard http://127.0.0.1:' in said
    assert '"workers": {"' in said
    assert said.count('"pending": 0, "computed": 60') == 2
    for name in STORES:
        assert running.contents(tmp_path / name) == reference[name]
        assert not list((tmp_path / name).glob(".*"))
        assert not running.holders(tmp_path / name)


def test_workers_then_the_scheduler_are_killed(
    extract: Extract, reference: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    store, log = tmp_path / STORES[0], tmp_path / "log"
    words = ("extract", numbers.NAME, "--data", scenes, "--out", tmp_path, *OPTIONS)
    process = running.start(
        *words, "--cluster", "local:4", NUMBERS_DELAY="0.5", NUMBERS_LOG=log
    )  # fmt: skip
    choose, kills, killed = random.Random(7), 3, set[int]()
    try:
        for _ in range(kills):
            worker = choose.choice(
                running.until(
                    lambda: [p for p in running.holders(store) if running.alive(p)], "a worker"
                )
            )
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
            before = running.committed(store)
            running.until(lambda n=before: running.committed(store) > n, "a commit")  # type: ignore[misc]
        workers = {p for p in running.holders(store) if running.alive(p)}
    finally:
        process.kill()  # the scheduler lives in it
        process.communicate()
    running.until(
        lambda: not any(map(running.alive, {*workers, *running.holders(store)})), "the workers' end"
    )
    durable = running.committed(store)
    assert 0 < durable < 10
    assert len(running.holders(store)) <= 4 + kills
    os.environ["NUMBERS_LOG"] = str(log)
    try:
        (report,) = extract(tmp_path, numbers.NAME)
    finally:
        del os.environ["NUMBERS_LOG"]
    assert (report.ok, report.pending, report.computed) == (60, 0, 60 - SIZE * durable)
    assert running.contents(store) == reference[STORES[0]]
    assert 60 <= log.stat().st_size <= 60 + SIZE * (kills + 4)


def test_a_scheduler_at_an_address_dies(
    extract: Extract, reference: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "scheduler.json"
    scheduler = dask("scheduler", "--scheduler-file", file, "--port", "0", "--no-dashboard",
                     "--host", "127.0.0.1")  # fmt: skip
    worker = dask("worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard",
                  "--death-timeout", "5")  # fmt: skip
    try:
        address = running.until(lambda: address_in(file), "the scheduler")
        store = tmp_path / STORES[0]
        words = ("extract", numbers.NAME, "--data", scenes, "--out", tmp_path, *OPTIONS)
        process = running.start(*words, "--cluster", address, NUMBERS_DELAY="0.5")
        running.until(lambda: running.committed(store) >= 1, "a commit")
        scheduler.kill()
        said = running.finish(process, code=6)
        assert "The Dask scheduler is gone" in said
        assert not list(store.glob(".images*"))
    finally:
        for each in (worker, scheduler):
            each.kill()
            each.wait()
    running.until(lambda: not any(map(running.alive, running.holders(store))), "the worker's end")
    extract(tmp_path, numbers.NAME)
    assert running.contents(store) == reference[STORES[0]]


def dask(*words: str | Path) -> subprocess.Popen[bytes]:
    """One of Dask's own processes."""
    command = [sys.executable, "-m", "dask", *map(str, words)]
    env = running.environment(NUMBERS_DELAY="0.5")
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def address_in(file: Path) -> str:
    """The address that a scheduler has written to its file; "" so far."""
    import json

    try:
        return str(json.loads(file.read_text())["address"])
    except (FileNotFoundError, ValueError):
        return ""
