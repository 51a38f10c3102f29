"""What an extraction would do, before it is done: images, bytes, shards, expected time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precap.extract.catalogue import field_bytes
from precap.extract.contract import Extractor, Setting
from precap.extract.duplicates import arranged
from precap.extract.executors.local import Pace
from precap.extract.flow import computed
from precap.extract.reading import reader
from precap.store import plan
from precap.store.ledger import Ledger
from precap.types import ImageRef

SAMPLE = 8  # images


@dataclass(frozen=True)
class Estimate:
    """images: asked for; missing: to be computed by this run; bytes: of all images on disk.

    seconds: for the missing ones, measured on ``SAMPLE`` of them.
    """

    store: Path
    images: int
    missing: int
    shards: int
    bytes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.__dict__, "store": str(self.store)}

    def __str__(self) -> str:
        return (
            f"{self.store}: {self.images:,} images, {self.missing:,} to compute in {self.shards:,} "
            f"shards; {self.bytes / 1e9:.3f} GB; about {self.seconds / 60:.1f} minutes"
        )


def estimate(
    images: Mapping[str, ImageRef],
    out: Path,
    extractor: Extractor,
    setting: Setting,
    shards: Sequence[Sequence[str]],
    pace: Pace,
) -> Estimate:
    """What computing ``shards`` (see ``todo``) takes, by timing a few; nothing is written."""
    missing = [images[image] for shard in shards for image in shard]
    spec = extractor.spec
    size = sum(field_bytes(field) for field in spec.fields) * spec.views
    return Estimate(
        store=out,
        images=len(images),
        missing=len(missing),
        shards=len(shards),
        bytes=size * len(images),
        seconds=_seconds(extractor, setting, missing[:SAMPLE], pace) * len(missing),
    )


def arrangement(
    out: Path, extractor: Extractor, refs: Mapping[str, ImageRef], shard_size: int
) -> list[tuple[list[str], int]]:
    """What the plan of ``out`` lacks: ids to plan together, with their images per shard."""
    new = plan.unplanned(out, list(refs))
    if extractor.reads == "store":
        return [(new, shard_size)]
    return arranged([refs[image] for image in new], shard_size)


def todo(
    out: Path,
    extractor: Extractor,
    refs: Mapping[str, ImageRef],
    shard_size: int,
    part: tuple[int, int] | None,
    again: plan.Again,
) -> list[list[str]]:
    """The ids of every shard that a run over ``refs`` would plan, or find planned, and compute."""
    planned, done = plan.Plan(out), Ledger(out).records
    shards = [[] if n in done else planned.ids(n) for n in range(planned.shards)]
    new = arrangement(out, extractor, refs, shard_size)
    new.append((plan.absent(out, again), shard_size))
    for ids, size in new:
        shards += [ids[start : start + size] for start in range(0, len(ids), size)]
    first, step = part or (1, 1)
    return [ids for ids in shards[first - 1 :: step] if ids and all(i in refs for i in ids)]


def _seconds(
    extractor: Extractor, setting: Setting, sample: Sequence[ImageRef], pace: Pace
) -> float:
    """Per image, after one image to warm up."""
    read = reader(extractor, setting)
    spent = 0.0
    for refs in (sample[:1], sample):
        begun = time.perf_counter()
        todo = [(0, refs)] if refs else []
        for _ in computed(extractor, read, todo, batch_size=pace.batch_size, workers=pace.workers):
            pass
        spent = time.perf_counter() - begun
    return spent / max(1, len(sample))
