"""A map over a stream that works a bounded number of items ahead, in threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(pool: Executor, work: Callable[[S], T], items: Iterable[S], window: int) -> Iterator[T]:
    """``work(item)`` for every item, in the order of ``items``, at most ``window`` under way.

    ``items`` is consumed by the calling thread. What ``work`` raises is raised here, in its turn.
    When the caller stops early, items not begun are dropped.
    """
    running: deque[Future[T]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) >= window:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
