"""Join stores made with one configuration: each image once, from the first store that has it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from precap.atomic import explained
from precap.errors import ConfigError, StoreError
from precap.store import plan, schema
from precap.store.ledger import Ledger
from precap.store.reader import Store, open_store
from precap.store.writer import Writer, create
from precap.types import Features, FeatureSpec, Outcome


@dataclass(frozen=True)
class Merged:
    """What ``merge`` did: images in the result, and how many stood in several stores.

    pending: store -> images that are planned there but not processed yet; they are not merged.
    """

    out: str
    ok: int
    absent: int
    repeated: int
    pending: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every image of every store is there, with features."""
        return not self.absent and not self.pending

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.ok} images with features, {self.absent} without, "
            f"{self.repeated} stood in several stores."
        ]
        lines += [
            f"{store}: {count} images are not processed yet, so they are left out; complete the "
            f"store and repeat this."
            for store, count in self.pending.items()
        ]
        return "\n".join(lines)


def merge(paths: Sequence[Path], out: Path, *, join_sources: bool = False) -> Merged:
    """Copy the images of ``paths`` into the store ``out``, bit for bit; repeat it to resume.

    An image that is ok anywhere is ok in the result, whatever ``out`` held of it before.
    join_sources: imports of different files (say one per split) that agree in all else are joined,
    too; the result's ``weights`` is then a digest of theirs. StoreError when specs differ.
    """
    if not paths or out.resolve() in [path.resolve() for path in paths]:
        raise ConfigError("Give the stores to merge, and another folder with --out.")
    stores = [open_store(path) for path in paths]
    spec = _joined(stores) if join_sources else stores[0].spec
    for store in stores:
        have = replace(store.spec, weights=spec.weights) if join_sources else store.spec
        if have.fingerprint != spec.fingerprint:
            raise _unlike(store, have, spec)
    _create(out, spec, stores)
    ids = [image for store in stores for image in (*store.ids, *store.absent)]
    plan.extend(out, ids)
    _plan_again(out, stores)
    with Writer(out) as writer:
        for shard in writer.remaining():
            if writer.claim(shard):
                _copy(writer, shard, stores)
    result = open_store(out)
    return Merged(
        out=str(out),
        ok=len(result),
        absent=len(result.absent),
        repeated=len(ids) - len(set(ids)),
        pending={str(path): count for path in paths if (count := len(_pending(path)))},
    )


def _create(out: Path, spec: FeatureSpec, stores: Sequence[Store]) -> None:
    first = stores[0].identity
    origins = {str(store.path): dict(store.identity.provenance or {}) for store in stores}
    provenance: dict[str, Any] = {"merged from": list(origins)}
    if spec != first.spec:
        provenance["sources"] = [
            {**origins[str(store.path)], "weights": store.spec.weights} for store in stores
        ]
    create(out, spec, provenance=provenance, format=first.format, compression=first.compression)


def _joined(stores: Sequence[Store]) -> FeatureSpec:
    """The spec of several imports as one; the order of the sources does not matter."""
    for store in stores:
        if not store.spec.extractor.startswith("import-"):
            raise ConfigError(
                f"{store.path} was made by {store.spec.extractor!r}: only imports can have several "
                f"sources. Features of different weights are different features."
            )
    sources = sorted({store.spec.weights for store in stores})
    if len(sources) == 1:
        return stores[0].spec
    return replace(stores[0].spec, weights=hashlib.sha256("\n".join(sources).encode()).hexdigest())


def _unlike(store: Store, have: FeatureSpec, want: FeatureSpec) -> StoreError:
    cure = "Merge only stores of one configuration; none of them was changed."
    if have.extractor.startswith("import-") and replace(have, weights=want.weights) == want:
        cure = "These are imports of different files: --join-sources joins them."
    return StoreError(
        f"{store.path} cannot be merged with the first store, whose configuration is wanted:\n"
        f"{schema.difference(have, want)}\n{cure}"
    )


def _plan_again(out: Path, stores: Sequence[Store]) -> None:
    """Plan the images that ``out`` has without features and that are ok in one of ``stores``."""
    while True:
        planned = plan.Plan(out)
        waiting = set(_pending(out))
        ids = [
            image
            for image in open_store(out).absent
            if image not in waiting and any(image in store for store in stores)
        ]
        number = len(planned.generations)
        if not ids or plan.append(out, ids, plan.SHARD_SIZE, "retry", number, planned.shards):
            return


def _pending(path: Path) -> list[str]:
    """Images in shards that nobody has committed yet."""
    with explained(path, "read"):
        planned = plan.Plan(path)
        done = Ledger(path).records
    return [i for shard in range(planned.shards) if shard not in done for i in planned.ids(shard)]


def _copy(writer: Writer, shard: int, stores: Sequence[Store]) -> None:
    outcomes: list[Outcome] = []
    rows: dict[str, Features] = {}
    for image in writer.ids(shard):
        found = [outcome for store in stores if (outcome := store.outcome(image))]
        if not found:
            raise StoreError(
                f"{writer.path} waits for image {image!r} of an earlier merge, and none of the "
                f"stores has it. Name the stores of that merge, too, or choose another --out."
            )
        outcome = next((one for one in found if one.status == "ok"), found[0])
        outcomes.append(outcome)
        if outcome.status == "ok":
            rows[image] = next(s for s in stores if image in s).read_views(image)
    writer.commit(shard, outcomes, rows)
