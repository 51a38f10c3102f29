"""All remaining shards in this process: the next one is read while this one is computed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from precap.extract.contract import Extractor
from precap.extract.flow import Read, Shard, computed
from precap.store.ledger import ShardRecord
from precap.store.writer import Writer
from precap.types import ImageRef


@dataclass(frozen=True)
class Pace:
    """How much is done at once; none of it is identity."""

    batch_size: int = 32
    workers: int = 2
    forwards: int = 1


def run(
    writer: Writer,
    extractor: Extractor,
    read: Read,
    refs: Mapping[str, ImageRef],
    pace: Pace,
    *,
    check: Callable[[], None] = lambda: None,
    on_batch: Callable[[Shard], None] = lambda shard: None,
) -> Iterator[ShardRecord]:
    """Compute and commit every shard that nobody has, yielding its record once it is durable.

    check: raises to stop (see signals). A shard is committed in a thread while the next one is
    computed. Whatever stops this, leases are given back when the writer closes.
    """
    todo = _claimed(writer, refs, check)
    shards = computed(
        extractor,
        read,
        todo,
        batch_size=pace.batch_size,
        workers=pace.workers,
        forwards=pace.forwards,
        on_batch=on_batch,
    )
    with ThreadPoolExecutor(1, "precap-commit") as committer:
        pending: Future[ShardRecord] | None = None
        for shard in shards:
            check()
            if pending is not None:
                yield pending.result()
            pending = committer.submit(_commit, writer, shard)
        if pending is not None:
            yield pending.result()


def _commit(writer: Writer, shard: Shard) -> ShardRecord:
    return writer.commit(shard.number, shard.outcomes(), shard.rows())


def _claimed(
    writer: Writer, refs: Mapping[str, ImageRef], check: Callable[[], None]
) -> Iterator[tuple[int, Sequence[ImageRef]]]:
    """Shards that this process may write, claimed one by one as reading comes to them."""
    for number in writer.remaining():
        check()
        ids = writer.ids(number)
        if all(image in refs for image in ids) and writer.claim(number):
            yield number, [refs[image] for image in ids]
