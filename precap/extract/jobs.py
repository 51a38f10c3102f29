"""One shard at a time, for processes that are told shard numbers: small, picklable, repeatable."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from precap.errors import Interrupted, LockedError
from precap.extract import devices, paths
from precap.extract.contract import Extractor
from precap.extract.executors.local import Pace
from precap.extract.flow import Shard, computed
from precap.extract.reading import reader
from precap.extract.recipe import Recipe
from precap.store.ledger import ShardRecord
from precap.store.writer import Writer
from precap.types import ImageRef


@dataclass(frozen=True)
class Job:
    """One shard to compute and commit: picklable, and harmless to run twice."""

    store: Path
    shard: int
    refs: tuple[ImageRef, ...]
    recipe: Recipe
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Order:
    """What the tasks of one run share: all that a task has besides its shard number.

    images: the file of ``precap.extract.paths``. run: differs for each run, so that a worker that
    outlives a run writes the next one to a ledger file of its own.
    """

    run: str
    store: Path
    images: Path
    recipe: Recipe
    pace: Pace = field(default_factory=Pace)


def run_shard(job: Job) -> ShardRecord | None:
    """Compute and commit ``job``'s shard; None when it is committed already.

    The extractor is built once per process. Raises LockedError when another live process has it.
    """
    with Writer(job.store) as out:
        return _committed(out, job)


_writers: dict[str, Writer] = {}
_committing = Lock()
_left: set[str] = set()


def work(order: Order, shard: int) -> ShardRecord | None:
    """``run_shard`` for a task: the writer, too, is made once per process and run."""

    def check(_: Shard | None = None) -> None:
        if order.run in _left:
            raise Interrupted(f"This worker was told to stop; shard {shard} is free again.")

    check()
    if order.run not in _writers:
        _writers[order.run] = Writer(order.store)
    chosen = devices.here(order.recipe.setting.device)
    recipe = replace(order.recipe, setting=replace(order.recipe.setting, device=chosen))
    job = Job(order.store, shard, paths.read(order.images, shard), recipe, order.pace)
    return _committed(_writers[order.run], job, check)


def leave(run: str) -> None:
    """Give back what this process holds for ``run``: another may have it at once."""
    _left.add(run)
    writer = _writers.pop(run, None)
    if writer is not None:
        with _committing:
            writer.close()


def forwards(device: str) -> int:
    """How many batches to have under way: two keep a GPU busy while results are copied back."""
    return 2 if device.startswith("cuda") else 1


def _committed(
    out: Writer, job: Job, on_batch: Callable[[Shard], None] = lambda shard: None
) -> ShardRecord | None:
    if not out.claim(job.shard):
        if job.shard not in out.remaining():
            return None
        raise LockedError(f"Another process is writing shard {job.shard} of {job.store}.")
    try:
        extractor = _built(_Key(job.recipe))
        (shard,) = computed(
            extractor,
            reader(extractor, job.recipe.setting),
            [(job.shard, job.refs)],
            batch_size=job.pace.batch_size,
            workers=job.pace.workers,
            forwards=forwards(job.recipe.setting.device),
            on_batch=on_batch,
        )
        with _committing:
            on_batch(shard)  # last chance to stop
            return out.commit(shard.number, shard.outcomes(), shard.rows())
    except BaseException:
        out.release(job.shard)
        raise


class _Key:
    """A recipe as a cache key: equal when its JSON is."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._text = json.dumps(recipe.as_json(), sort_keys=True, default=str)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._text == self._text


@lru_cache(maxsize=2)
def _built(key: _Key) -> Extractor:
    from precap.allocator import retain

    retain()
    return key.recipe.build()
