"""From images to a complete store: plan, compute what the ledger lacks, commit, count."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from precap.errors import ConfigError, LockedError
from precap.extract.catalogue import field_bytes
from precap.extract.contract import Extractor, Setting
from precap.extract.duplicates import arranged
from precap.extract.estimate import Estimate, estimate
from precap.extract.executors import local
from precap.extract.executors.local import Pace
from precap.extract.flow import Shard, computed
from precap.extract.provenance import provenance
from precap.extract.reading import reader
from precap.extract.recipe import Recipe, build, store_name
from precap.extract.report import Report, report
from precap.extract.signals import stoppable
from precap.store import plan, writer
from precap.store.ledger import ShardRecord
from precap.types import ImageRef

__all__ = [
    "Estimate",
    "Job",
    "Pace",
    "Recipe",
    "Report",
    "build",
    "dry_run",
    "extract",
    "make_recipe",
    "report",
    "run_shard",
    "store_name",
]

#: An event is a flat mapping: done, total, unit, rate, eta (seconds), note, reasons.
Listener = Callable[[Mapping[str, Any]], None]
#: Bytes of features that a shard of the default size holds, about.
SHARD_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Job:
    """One shard to compute and commit: picklable, and harmless to run twice."""

    store: Path
    shard: int
    refs: tuple[ImageRef, ...]
    recipe: Recipe
    pace: Pace = field(default_factory=Pace)


def run_shard(job: Job) -> ShardRecord | None:
    """Compute and commit ``job``'s shard; None when it is committed already.

    The extractor is built once per process. Raises LockedError when another live process has it.
    """
    extractor = _built(_Key(job.recipe))
    with writer.Writer(job.store) as out:
        if job.shard not in out.remaining():
            return None
        if not out.claim(job.shard):
            raise LockedError(f"Another process is writing shard {job.shard} of {job.store}.")
        read = reader(extractor, job.recipe.setting)
        pace = job.pace
        (shard,) = computed(
            extractor,
            read,
            [(job.shard, job.refs)],
            batch_size=pace.batch_size,
            workers=pace.workers,
            forwards=pace.forwards,
        )
        return out.commit(shard.number, shard.outcomes(), shard.rows())


def extract(  # noqa: PLR0913 - the command line's options, by name
    dataset_images: Sequence[ImageRef],
    out: Path,
    extractor: str,
    *,
    weights: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 2,
    shard_size: int | None = None,
    format: str = "hdf5",
    compression: str = "none",
    dtype: str = "float16",
    compute: str = "fp32",
    views: int = 1,
    parent: Path | None = None,
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
) -> Report:
    """Make the features of ``dataset_images`` with ``extractor`` in the store at ``out``.

    Repeat the call after any interruption: only shards that are not committed are computed.
    shard_size: images per shard; None = about 16 MiB of features. part: (i, n) computes every n-th
    shard. Raises ConfigError, StoreError (``out`` was made by another configuration), Interrupted.
    """
    from precap.allocator import retain

    retain()
    recipe = make_recipe(
        extractor,
        settings,
        weights=weights,
        device=device,
        compute=compute,
        storage=dtype,
        views=views,
        parent=parent,
    )
    made = recipe.build()
    writer.create(
        out,
        made.spec,
        provenance=provenance(recipe),
        format=format,
        compression=compression,
    )
    size = shard_size or default_shard_size(made, batch_size)
    refs = {ref.id: ref for ref in dataset_images}
    if len(refs) != len(dataset_images):
        raise ConfigError(f"{len(dataset_images) - len(refs)} image ids appear more than once.")
    ids = _ordered(made, dataset_images, size)
    plan.extend(out, ids, shard_size=size, retry_failed=retry_failed)
    pace = Pace(batch_size, workers, 2 if recipe.setting.device.startswith("cuda") else 1)
    return _run(out, made, recipe, refs, pace, part, on_event or (lambda event: None))


def dry_run(
    dataset_images: Sequence[ImageRef],
    out: Path,
    recipe: Recipe,
    *,
    batch_size: int = 32,
    workers: int = 2,
    shard_size: int | None = None,
) -> Estimate:
    """What ``extract`` would do for the store at ``out``, measured on a few images."""
    made = recipe.build()
    size = shard_size or default_shard_size(made, batch_size)
    return estimate(dataset_images, out, made, recipe.setting, size, Pace(batch_size, workers))


def make_recipe(
    extractor: str, settings: Mapping[str, Any] | None = None, **setting: Any
) -> Recipe:
    """A recipe with the device chosen and files named by their whole paths."""
    chosen = Setting(**setting)
    whole = replace(chosen, weights=_whole(chosen.weights), device=_device(chosen.device))
    return Recipe(extractor, settings or {}, whole)


def default_shard_size(extractor: Extractor, batch_size: int) -> int:
    """Images per shard of about SHARD_BYTES, at least two batches, at most 4096."""
    spec = extractor.spec
    size = sum(field_bytes(field) for field in spec.fields) * spec.views
    return max(2 * batch_size, min(4096, SHARD_BYTES // max(1, size)))


def _run(
    out: Path,
    extractor: Extractor,
    recipe: Recipe,
    refs: Mapping[str, ImageRef],
    pace: Pace,
    part: tuple[int, int] | None,
    on_event: Listener,
) -> Report:
    begun = time.monotonic()
    with stoppable() as check, writer.Writer(out, part=part) as store:
        total = sum(len(store.ids(shard)) for shard in store.remaining())
        progress = _Progress(total, on_event)

        def on_batch(shard: Shard) -> None:
            check()
            progress.show(shard)

        records = local.run(
            store,
            extractor,
            reader(extractor, recipe.setting),
            refs,
            pace,
            check=check,
            on_batch=on_batch,
        )
        for record in records:
            progress.commit(record)
    return report(out, computed=progress.committed, seconds=time.monotonic() - begun)


class _Progress:
    """Turns batches and commits into events."""

    def __init__(self, total: int, on_event: Listener) -> None:
        self.total, self.committed = total, 0
        self._listen, self._begun = on_event, time.monotonic()
        self._reasons: Counter[str] = Counter()
        self._open: dict[int, int] = {}  # shard -> images done

    def show(self, shard: Shard) -> None:
        """Images done so far, committed or not."""
        self._open[shard.number] = shard.done
        self._emit()

    def commit(self, record: ShardRecord) -> None:
        """A shard is durable."""
        self._open.pop(record.shard, None)
        self.committed += record.ok + len(record.absent)
        self._reasons.update(f"{status}: {reason}" for _, status, reason, _ in record.absent)
        self._emit()

    def _emit(self) -> None:
        done = self.committed + sum(self._open.values())
        seconds = time.monotonic() - self._begun
        rate = done / seconds if seconds > 0 else 0.0
        self._listen(
            {
                "done": done,
                "total": self.total,
                "unit": "images",
                "rate": rate,
                "eta": (self.total - done) / rate if rate else None,
                "reasons": dict(self._reasons),
                "note": ", ".join(f"{n} {reason}" for reason, n in self._reasons.items()),
            }
        )


def _ordered(extractor: Extractor, refs: Sequence[ImageRef], shard_size: int) -> list[str]:
    if extractor.reads == "store":
        return [ref.id for ref in refs]
    return arranged(refs, shard_size)


def _whole(weights: str) -> str:
    """A weights file by its whole path: the recipe is read again in other folders."""
    named = weights == "auto" or weights.startswith("random:")
    return weights if named else str(Path(weights).expanduser().resolve())


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _Key:
    """A recipe as a cache key: equal when its JSON is."""

    def __init__(self, recipe: Recipe) -> None:
        import json

        self.recipe = recipe
        self._text = json.dumps(recipe.as_json(), sort_keys=True, default=str)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._text == self._text


@lru_cache(maxsize=2)
def _built(key: _Key) -> Extractor:
    return key.recipe.build()
