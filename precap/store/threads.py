"""Work on many rows that is bound by memory, shared by a few threads of this process."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_WORTH = 1 << 21  # bytes from which handing a part of the work to another thread pays
_MOST = 4  # threads: two or three saturate the memory of most machines


def spread(work: Callable[[range], None], count: int, nbytes: int) -> None:
    """``work`` on all of range(count), in several threads when ``nbytes`` make that worth it."""
    workers = min(_MOST, _cores(), count)
    if workers < 2 or nbytes < _WORTH:
        work(range(count))
        return
    share = -(-count // workers)
    pool = _pool(os.getpid())
    others = [
        pool.submit(work, range(start, min(start + share, count)))
        for start in range(share, count, share)
    ]
    work(range(share))
    for other in others:
        other.result()


@functools.cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    """The threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(_MOST - 1, thread_name_prefix="precap-rows")
