"""Shards to features: read and prepare ahead in threads, batch by shape, forward, assemble.

A batch never crosses a shard and is filled in the order of the shard's ids, so what is computed
together depends on the shard alone: same shard, same thread count, same bits.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from precap.allocator import apart
from precap.errors import ImageError, PrecapError, ResourceError
from precap.extract.ahead import ahead
from precap.extract.contract import Extractor, Prepared
from precap.types import Features, ImageRef, Outcome


@dataclass(frozen=True, slots=True)
class Item:
    """One image, read: prepared once per view, or the error that says why not."""

    id: str
    digest: str
    views: Sequence[Prepared] = ()
    error: ImageError | None = None


#: How an image is read; called in several threads.
Read = Callable[[ImageRef], Item]
Place = tuple[str, int]  # image id, view
Batch = list[tuple[Place, Prepared]]


@dataclass
class Shard:
    """A shard being computed: what is known so far of each of its images."""

    number: int
    ids: Sequence[str]
    views: int
    found: dict[str, list[Features]] = field(default_factory=dict)
    errors: dict[str, ImageError] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)  # id -> id of an identical image
    _firsts: dict[str, str] = field(default_factory=dict)  # digest -> id

    def accept(self, item: Item) -> Iterable[tuple[Place, Prepared]]:
        """What of ``item`` must be computed: nothing for an error or a copy of an earlier image."""
        if item.error is not None:
            self.errors[item.id] = item.error
            return ()
        first = self._firsts.setdefault(item.digest or item.id, item.id)
        if first != item.id:
            self.copies[item.id] = first
            return ()
        return [((item.id, number), prepared) for number, prepared in enumerate(item.views)]

    def add(self, places: Sequence[Place], results: Sequence[Features | ImageError]) -> None:
        """Take the results of one batch."""
        for (image, _), result in zip(places, results, strict=True):
            if isinstance(result, ImageError):
                self.errors[image] = result
            else:
                self.found.setdefault(image, []).append(_apart(result))

    @property
    def done(self) -> int:
        """How many images need no more work."""
        whole = sum(len(views) == self.views for views in self.found.values())
        return whole + len(self.errors) + len(self.copies)

    def outcomes(self) -> list[Outcome]:
        """One outcome per image, in the order of ``ids``."""
        return [self._outcome(image) for image in self.ids]

    def rows(self) -> dict[str, Features]:
        """The features of every image that is ok."""
        whole: dict[str, Features] = {}
        for image in self.ids:
            source = self.copies.get(image, image)
            if source not in self.errors:
                whole[image] = whole[source] if source in whole else _joined(self.found[source])
        return whole

    def _outcome(self, image: str) -> Outcome:
        error = self.errors.get(self.copies.get(image, image))
        if error is None:
            return Outcome(image, "ok")
        return Outcome(image, "skipped" if error.skipped else "failed", error.reason, error.detail)


def computed(
    extractor: Extractor,
    read: Read,
    todo: Iterable[tuple[int, Sequence[ImageRef]]],
    *,
    batch_size: int,
    workers: int,
    forwards: int = 1,
    on_batch: Callable[[Shard], None] = lambda shard: None,
) -> Iterator[Shard]:
    """Every shard of ``todo``, computed, in order; reading runs ahead across shards.

    workers: reading threads. forwards: batches under way at once; 2 keeps a GPU busy while results
    are copied back, 1 (inline) is right for a CPU. ``todo`` is consumed as reading needs it.
    """
    with _threads(workers, "precap-read") as readers:
        tasks = _tasks(extractor, todo)
        items = ahead(
            readers, lambda task: (task[0], _read(read, task[1])), tasks, 2 * batch_size + workers
        )
        with _threads(forwards, "precap-forward") as runners:
            batches = _batches(items, batch_size)

            def run(pair: tuple[Shard, Batch]) -> tuple[Shard, Batch, Sequence[Any]]:
                return (*pair, _forward(extractor, pair[1]))

            results = ahead(runners, run, batches, forwards) if forwards > 1 else map(run, batches)
            for shard, batch, found in results:
                shard.add([place for place, _ in batch], found)
                on_batch(shard)
                if not batch:
                    yield shard


@contextmanager
def _threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what it has not begun when its work is interrupted."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(
    extractor: Extractor, todo: Iterable[tuple[int, Sequence[ImageRef]]]
) -> Iterator[tuple[Shard, ImageRef]]:
    for number, refs in todo:
        shard = Shard(number, [ref.id for ref in refs], extractor.spec.views)
        for ref in refs:
            yield shard, ref


def _read(read: Read, ref: ImageRef) -> Item:
    try:
        item = read(ref)
        return replace(item, views=[_apart(view) for view in item.views])
    except ImageError as error:
        return Item(ref.id, "", error=error)
    except Exception as error:
        error.add_note(f"while preparing image {ref.id!r} ({ref.path})")
        raise


def _apart(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: apart(np.asarray(array)) for name, array in arrays.items()}


def _batches(items: Iterable[tuple[Shard, Item]], size: int) -> Iterator[tuple[Shard, Batch]]:
    """Batches of equal shapes; an empty one says that its shard is complete."""
    for _, group in groupby(items, key=lambda pair: pair[0].number):
        waiting: dict[Hashable, Batch] = {}
        for shard, item in group:
            for place, prepared in shard.accept(item):
                key = _shape(prepared)
                batch = waiting.setdefault(key, [])
                batch.append((place, prepared))
                if len(batch) == size:
                    yield shard, waiting.pop(key)
        for batch in waiting.values():
            yield shard, batch
        yield shard, []


def _shape(prepared: Prepared) -> Hashable:
    return tuple((name, array.shape, array.dtype.str) for name, array in prepared.items())


def _forward(extractor: Extractor, batch: Batch) -> Sequence[Features | ImageError]:
    """One result per entry of ``batch``; an ImageError costs only the image that raised it."""
    if not batch:
        return ()
    try:
        return extractor.extract([prepared for _, prepared in batch])
    except ImageError as error:
        if len(batch) == 1:
            return [error]
        return [result for entry in batch for result in _forward(extractor, [entry])]
    except PrecapError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise ResourceError(
                f"Out of memory in a forward of {len(batch)} images. Everything committed is safe; "
                f"repeat the command with a smaller --batch-size."
            ) from error
        error.add_note(f"in the batch that starts with image {batch[0][0][0]!r}")
        raise


def _joined(views: Sequence[Features]) -> Features:
    """One image's views as an axis in front; a list where their lengths differ."""
    if len(views) == 1:
        return views[0]
    return {name: _stacked([view[name] for view in views]) for name in views[0]}


def _stacked(arrays: list[Any]) -> Any:
    same = len({array.shape for array in arrays}) == 1
    return np.stack(arrays) if same else arrays
