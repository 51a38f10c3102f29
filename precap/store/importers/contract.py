"""What an import layout is: find the images of a foreign source, then read them one by one."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from precap import atomic
from precap.errors import ImageError, ResourceError
from precap.store.importers.names import Names, safe_id
from precap.types import Features, Field

#: The most bytes that one array of one image may take; more is refused before it is allocated.
MAX_ARRAY = 64 << 20
#: The most bytes of one line of a text source; a longer line is recorded and skipped.
MAX_LINE = 32 << 20
#: Problems are all counted; this many of them are also kept word for word.
MAX_KEPT = 10_000

#: Where one image lies in its source: offsets, a key or file names; only its layout reads it.
At = Any


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of a source that became no row, or a row that could not be read. All text."""

    where: str
    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a layout learned about a source while indexing it.

    fields: the arrays of every image, in the dtypes of the source. config: identity facts that a
    reader of the store needs (box units, class names ...), plain JSON. files: what was read.
    row_bytes: about how many bytes one image takes, from the largest seen.
    """

    fields: tuple[Field, ...]
    config: Mapping[str, Any]
    files: Sequence[Path]
    row_bytes: int = 1 << 20


@dataclass
class Scan:
    """Collects what a layout finds; the one place that decides on ids, duplicates and damage.

    names: source keys to image ids; None for a key that the user's dataset does not have.
    usable: which keys may be ids by themselves.
    The first sound row of an id wins; a damaged row counts as failed only if no sound one follows.
    """

    names: Names = field(default_factory=Names)
    usable: Callable[[str], bool] = safe_id
    found: dict[str, At] = field(default_factory=dict)
    failed: dict[str, Problem] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, key: str, at: At, where: str) -> None:
        """A sound row of the image ``key``."""
        image = self._name(key, where)
        if image is None:
            return
        if image in self.found:
            self.note(Problem(where, key, "duplicate", "an earlier row with this id is kept"))
            return
        self.found[image] = at
        if earlier := self.failed.pop(image, None):
            self.note(earlier)

    def damage(self, key: str, where: str, reason: str, detail: str = "") -> None:
        """A row of the image ``key`` that cannot be used."""
        image = self._name(key, where)
        if image is None:
            return
        problem = Problem(where, key, reason, detail)
        if image in self.found or image in self.failed:
            self.note(problem)
        else:
            self.failed[image] = problem

    def note(self, problem: Problem) -> None:
        """Count a problem that belongs to no image, and keep its words while there is room."""
        self.counts[problem.reason] += 1
        if len(self.problems) < MAX_KEPT:
            self.problems.append(problem)

    def _name(self, key: str, where: str) -> str | None:
        if self.names.table is None and not self.usable(key):
            self.note(Problem(where, ascii(key[:200]), "bad-id", "not usable as a name"))
            return None
        image = self.names.find(key)
        if image is None:
            self.note(Problem(where, ascii(key[:200]), "not-in-dataset"))
        return image


@contextmanager
def reading(where: str, broken: tuple[type[Exception], ...]) -> Iterator[None]:
    """Failures in ``broken`` blame the file: ImageError("damaged"). A full disk or too many open
    files blame the machine: ResourceError, so that no image is recorded as failed for them.
    """
    try:
        with atomic.explained(Path(where), "read"):
            yield
    except (ImageError, ResourceError):
        raise
    except broken as error:
        raise ImageError("damaged", f"{where}: {error}"[:200]) from error


def stored_dtype(dtype: Any) -> str:
    """The dtype in which an array of ``dtype`` is kept: the same, or the next that a store has."""
    found = np.dtype(dtype)
    if found.kind == "f":
        return "float16" if found.itemsize == 2 else "float32"
    return found.name if found.name in ("int64", "int32", "uint8", "bool") else "int64"


class Layout(Protocol):
    """One foreign layout; one file in ``layouts/``, its class named by ``PLUGIN``.

    Built as ``PLUGIN(source, allow_pickle)``. ``index`` is one streaming pass in bounded memory;
    ``read`` may then be called for any row it found, in any order. Raises DataError for a source
    that is not of this layout at all, ImageError (from ``read``) for one image.
    """

    #: One line for ``--help`` and the documentation.
    summary: ClassVar[str]

    def __init__(self, source: Path, allow_pickle: bool = False) -> None: ...

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether the content of ``source`` (never its name) is of this layout."""
        ...

    def index(self, scan: Scan) -> Facts:
        """Find every image, report each to ``scan``, and say what fields the images have."""
        ...

    def read(self, at: At) -> Features:
        """The arrays of one image, exactly as the source has them."""
        ...
