"""System calls that fail on purpose, at the n-th call: a full disk, a lost disk, or a power cut."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

#: Kind -> the functions behind it. Everything precap does to a disk goes through these.
CALLS: dict[str, tuple[tuple[Any, str], ...]] = {
    "open": ((os, "open"), (io, "open")),
    "write": ((os, "write"),),
    "fsync": ((os, "fsync"),),
    "rename": ((os, "replace"), (os, "link")),
    "remove": ((os, "unlink"), (os, "rmdir")),
}


class PowerCut(BaseException):
    """From here on nothing reaches the disk."""


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the calls of each kind."""
    counts: Counter[str] = Counter()

    def count(kind: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        counts[kind] += 1
        return real(*args, **kwargs)

    with _replaced(count):
        yield counts


@contextmanager
def failing(kind: str, number: int, error: int, *, half: bool = False) -> Iterator[Counter[str]]:
    """The ``number``-th call (from 1) of a kind raises OSError(error); others work.

    half: a failing write has written half of its data before.
    """
    counts: Counter[str] = Counter()

    def fail(called: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        counts[called] += 1
        if called == kind and counts[kind] == number:
            if half:
                real(args[0], memoryview(args[1])[: len(args[1]) // 2])
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    with _replaced(fail):
        yield counts


@contextmanager
def power_cut(number: int) -> Iterator[None]:
    """The ``number``-th call of any kind and all after it raise PowerCut and do nothing.

    A write at that moment reaches the disk by half.
    """
    counts: Counter[str] = Counter()

    def cut(kind: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        counts["all"] += 1
        if counts["all"] < number:
            return real(*args, **kwargs)
        if counts["all"] == number and kind == "write":
            real(args[0], memoryview(args[1])[: len(args[1]) // 2])
        raise PowerCut

    with _replaced(cut):
        yield


@contextmanager
def _replaced(wrapper: Callable[..., Any]) -> Iterator[None]:
    """Put ``wrapper(kind, real, ...)`` before every call of CALLS."""
    patches = []
    for kind, functions in CALLS.items():
        for module, name in functions:
            real = getattr(module, name)
            patches.append(patch.object(module, name, _bind(wrapper, kind, real)))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _bind(wrapper: Callable[..., Any], kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: wrapper(kind, real, *args, **kwargs)
