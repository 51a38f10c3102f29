"""Join stores made with one configuration: each image once, from the first store that has it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from precap.errors import ConfigError
from precap.store import identity, schema
from precap.store.plan import extend
from precap.store.reader import Store, open_store
from precap.store.writer import Writer, create
from precap.types import Features, Outcome


@dataclass(frozen=True)
class Merged:
    """What ``merge`` did: images in the result, and how many stood in several stores."""

    out: str
    ok: int
    absent: int
    repeated: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.ok} images with features, {self.absent} without, "
            f"{self.repeated} stood in several stores."
        )


def merge(paths: Sequence[Path], out: Path) -> Merged:
    """Copy the images of ``paths`` into the store ``out``, bit for bit; repeat it to resume.

    An image that is ok anywhere is ok in the result. StoreError when fingerprints differ.
    """
    if not paths or out in paths:
        raise ConfigError("Give the stores to merge, and another folder with --out.")
    stores = [open_store(path) for path in paths]
    first = stores[0]
    for store in stores[1:]:
        if store.spec.fingerprint != first.spec.fingerprint:
            raise identity.mismatch(store.path, schema.difference(store.spec, first.spec))
    sources = [str(path) for path in paths]
    create(
        out,
        first.spec,
        provenance={"merged from": sources},
        format=first.identity.format,
        compression=first.identity.compression,
    )
    ids = [image for store in stores for image in (*store.ids, *store.absent)]
    extend(out, ids)
    with Writer(out) as writer:
        for shard in writer.remaining():
            if writer.claim(shard):
                _copy(writer, shard, stores)
    result = open_store(out)
    return Merged(str(out), len(result), len(result.absent), len(ids) - len(set(ids)))


def _copy(writer: Writer, shard: int, stores: list[Store]) -> None:
    outcomes: list[Outcome] = []
    rows: dict[str, Features] = {}
    for image in writer.ids(shard):
        source = next((store for store in stores if image in store), None)
        if source is not None:
            rows[image] = source.read_views(image)
            outcomes.append(Outcome(image, "ok"))
        else:
            outcomes += [store.absent[image] for store in stores if image in store.absent][:1]
    writer.commit(shard, outcomes, rows)
