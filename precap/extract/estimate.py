"""What an extraction would do, before it is done: images, bytes, shards, expected time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precap.extract.catalogue import field_bytes
from precap.extract.contract import Extractor, Setting
from precap.extract.executors.local import Pace
from precap.extract.flow import computed
from precap.extract.reading import reader
from precap.types import ImageRef

SAMPLE = 8  # images


@dataclass(frozen=True)
class Estimate:
    """images: asked for; missing: of these not computed yet; bytes: of all of them on disk.

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
    images: Sequence[ImageRef],
    out: Path,
    extractor: Extractor,
    setting: Setting,
    shard_size: int,
    pace: Pace,
) -> Estimate:
    """Look at the store at ``out``, if any, and time a few images; nothing is written."""
    missing = _missing(images, out)
    spec = extractor.spec
    size = sum(field_bytes(field) for field in spec.fields) * spec.views
    return Estimate(
        store=out,
        images=len(images),
        missing=len(missing),
        shards=-(-len(missing) // shard_size),
        bytes=size * len(images),
        seconds=_seconds(extractor, setting, missing[:SAMPLE], pace) * len(missing),
    )


def _missing(images: Sequence[ImageRef], out: Path) -> list[ImageRef]:
    from precap.store.reader import open_store

    if not (out / "store.json").exists():
        return list(images)
    store = open_store(out)
    return [ref for ref in images if store.outcome(ref.id) is None]


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
