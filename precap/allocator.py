"""The memory of a process that computes: what it keeps, what lies apart, the most it held.

Freed memory stays: on a CPU, returning it costs more than the arithmetic it served.

A forward pass allocates and frees hundreds of megabytes of activations. glibc hands blocks that
large back to the kernel and gets them again, zeroed page by page; measured on a 2-core virtual
machine with MobileNetV2 at batch 32, page faults took two thirds of the time. ``bench.extract``
shows both figures.
"""

import ctypes
import mmap
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # malloc.h
_FOREVER = 2**31 - 1
_GROW_BY = 64 * 2**20  # bytes
_PAGE = mmap.PAGESIZE


@cache
def retain() -> bool:
    """Tell glibc's malloc to reuse memory instead of returning it; False where there is no glibc.

    Costs nothing but address space and a high-water mark that does not fall. Affects the whole
    process, so only entry points that own the process's work (extract, train) call it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _FOREVER), (_TOP_PAD, _GROW_BY), (_ARENA_MAX, 1))
    return all(mallopt(option, value) for option, value in settings)


def apart(array: NDArray[Any]) -> NDArray[Any]:
    """A copy of ``array`` in pages of its own, given back when it is freed.

    What lives longer than a batch would lie between the activations of the next ones, and the
    heap, which ``retain`` never shrinks, would grow until it has found room beside all of it.
    """
    if array.nbytes < _PAGE:
        return array.copy()
    kept = np.frombuffer(mmap.mmap(-1, array.nbytes), array.dtype).reshape(array.shape)
    np.copyto(kept, array)
    return kept


def peak() -> int:
    """The most memory this program has held at a time, in bytes.

    Not getrusage's figure where there is another: that one keeps, across exec, what the process
    which started the program held.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
