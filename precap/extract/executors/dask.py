"""Shard numbers on a Dask cluster: on this machine, at an address, or in jobs of a batch system.

Dask only says who computes which shard next. What is done is on disk (ledger, leases), so the
scheduler, the workers and this process may die at any moment.
"""

import contextlib
import inspect
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker

from precap.errors import ConfigError, LockedError, ResourceError
from precap.plugins import guess
from precap.store.leases import STALE
from precap.store.ledger import ShardRecord

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
#: Tasks that the scheduler knows at a time: four for each of 1,000 workers, whatever the plan.
WINDOW = 4096
#: Workers that may die with the same shard before it is taken to be what kills them.
DEATHS = 10
POLL, RETRY = 0.1, 2.0  # seconds
#: Leave the queue this long before the wall time, at most a tenth of it.
LEAD = 300.0
CONNECT = "60s"


@dataclass(frozen=True)
class Work:
    """What workers do: ``compute(shard)`` in tasks, ``leave()`` when they stop; both picklable."""

    run: str
    compute: Callable[[int], ShardRecord | None]
    leave: Callable[[], None]


def run(
    client: Any, work: Work, shards: Sequence[int], check: Callable[[], None]
) -> Iterator[tuple[int, ShardRecord | None]]:
    """Each shard with its record once it is durable; None: another process has committed it.

    check: raises to stop. A shard that another live process keeps is tried again until nothing has
    happened for longer than a dead process's lease lasts, and is then left to it.
    """
    waiting, locked = deque(shards), deque[int]()
    running: dict[Any, int] = {}  # futures
    begun = time.monotonic()
    try:
        while waiting or running or locked:
            check()
            _still_there(client)
            while waiting and len(running) < WINDOW:
                shard = waiting.popleft()
                running[_submit(client, work, shard)] = shard
            for future in [future for future in running if future.done()]:
                shard = running.pop(future)
                try:
                    yield shard, _result(future, shard)
                    begun = time.monotonic()
                except LockedError:
                    locked.append(shard)
            if locked and not running and not waiting:
                if time.monotonic() - begun > STALE + 10 * RETRY:
                    return
                time.sleep(RETRY)
                waiting, locked = locked, waiting
            time.sleep(POLL)
    finally:
        if client.status == "running":
            client.cancel(list(running), force=True)


def _submit(client: Any, work: Work, shard: int) -> Any:
    return client.submit(work.compute, shard, key=f"shard-{shard}-{work.run}-{time.time_ns()}")


def _result(future: Any, shard: int) -> ShardRecord | None:
    try:
        record: ShardRecord | None = future.result()
        return record
    except KilledWorker as error:
        raise ResourceError(
            f"{DEATHS} workers died while they had shard {shard} ({error}). "
            f"Too little memory is the usual reason: ask for more, or for a smaller --batch-size. "
            f"Everything committed is safe; repeat the command to go on."
        ) from error
    except (CancelledError, CommClosedError) as error:  # it went while it was handing this over
        raise _lost() from error


def _still_there(client: Any) -> None:
    if client.status != "running":
        raise _lost()


def _lost() -> ResourceError:
    return ResourceError(
        "The Dask scheduler is gone. All committed shards are safe; start it again if it is "
        "yours, and repeat the command to go on."
    )


class Guest(WorkerPlugin):
    """This run's part of a worker: choose its GPU, and give leases back when it stops."""

    def __init__(self, work: Work) -> None:
        self.name = f"precap-{work.run}"
        self._work = work

    def setup(self, worker: Any) -> None:
        """The n-th worker of a machine or job sees its n-th GPU alone."""
        gpus = visible_gpus()
        number = re.search(r"\d+$", str(worker.name))
        if len(gpus) > 1 and number:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(number.group()) % len(gpus)]

    def teardown(self, worker: Any) -> None:
        """Whoever is told to stop frees its shard at once."""
        self._work.leave()


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to here, one GPU each."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def connected(where: str, options: Mapping[str, Any], work: Work) -> Iterator[Any]:
    """A client of the cluster that ``where`` names; what was started for it ends with the block.

    where: local, local:N, tcp://host:port, slurm, pbs, lsf or sge. options: those of Dask's
    LocalCluster or of dask_jobqueue's classes, and ``jobs``, ``minimum`` (how many at most and at
    least). Raises ConfigError, ResourceError when no scheduler answers.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}))
        connect: Any = Client
        target = where if "://" in where else stack.enter_context(_cluster(where, options))
        try:
            client = stack.enter_context(connect(target, timeout=CONNECT, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ResourceError(
                f"No Dask scheduler answers at {where} ({error}). Start one: dask scheduler"
            ) from error
        guest = Guest(work)
        client.register_plugin(guest, name=guest.name)
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):  # a scheduler that is gone keeps nothing
                client.unregister_worker_plugin(guest.name)


def _cluster(where: str, options: Mapping[str, Any]) -> Any:
    kind, _, count = where.partition(":")
    if kind == "local" and (not count or count.isdecimal()):
        return local(int(count or 0), options)
    if kind in QUEUES and not count:
        return queue(kind, options)
    raise ConfigError(
        f"--cluster {where!r} is none of local, local:4, tcp://host:8786, slurm."
        + guess(kind, ["local", *QUEUES])
    )


def local(count: int, options: Mapping[str, Any]) -> Any:
    """``count`` processes here; 0: one per GPU, or per core where there is none."""
    known = sorted(inspect.signature(LocalCluster.__init__).parameters)
    for name in options:
        if name not in known:
            raise ConfigError(f"--cluster local has no option {name!r}.{guess(name, known)}")
    values: dict[str, Any] = {
        "n_workers": count or len(visible_gpus()) or _cores(),
        "threads_per_worker": 1,
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
        **options,
    }
    return _made(LocalCluster, values)


def queue(kind: str, options: Mapping[str, Any]) -> Any:
    """Jobs of a batch system, as many as there is work for, that leave before their wall time."""
    import dask_jobqueue

    values: dict[str, Any] = {"processes": 1, "cores": 1, **options}
    if isinstance(values.get("walltime"), int):  # YAML reads 01:00:00 as a number of base 60
        minutes, seconds = divmod(values["walltime"], 60)
        values["walltime"] = f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    jobs, minimum = values.pop("jobs", 4), values.pop("minimum", 1)
    extra = ["--nthreads", "1", "--memory-limit", "0", *lifetime(values.get("walltime"))]
    values["worker_extra_args"] = [*extra, *values.get("worker_extra_args", [])]
    cluster = _made(getattr(dask_jobqueue, QUEUES[kind]), values)
    cluster.adapt(minimum_jobs=minimum, maximum_jobs=jobs, wait_count=10)
    return cluster


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--cluster options: {error}. Correct them and repeat.") from error


def lifetime(walltime: str | None) -> list[str]:
    """Worker options for leaving before ``walltime`` ("[D-]HH:MM:SS", "MM:SS", "MM")."""
    if walltime is None:
        return []
    days, _, clock = str(walltime).rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]) or len(parts) > 3:
        raise ConfigError(f"walltime {walltime!r} is not of the form HH:MM:SS.")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1:
        numbers = [0, *numbers, 0]
    hours, minutes, seconds = [0] * (3 - len(numbers)) + numbers
    total = int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    lead = min(LEAD, total / 10)
    return ["--lifetime", f"{total - lead:.0f}s", "--lifetime-stagger", f"{lead / 2:.0f}s"]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
