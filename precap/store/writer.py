"""Writing a store: claim a shard, compute it, commit it; what was committed stays."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from precap import plugins
from precap.atomic import explained
from precap.errors import ConfigError, LockedError, StoreError
from precap.store import backends, files, identity, ledger, schema
from precap.store.backends.contract import Content, Image
from precap.store.leases import Leases
from precap.store.ledger import ShardRecord
from precap.store.pack import Packer
from precap.store.plan import Plan
from precap.types import Features, FeatureSpec, Outcome


def create(
    path: Path,
    spec: FeatureSpec,
    *,
    provenance: Mapping[str, Any] | None = None,
    format: str = "hdf5",
    compression: str = "none",
) -> None:
    """Make an empty store for ``spec`` at ``path``, once; nothing when it is there already.

    provenance: plain JSON values (library versions, device, command). StoreError that says field
    by field what differs when the store there was made by another configuration.
    """
    plugins.load(backends, format)
    identity.create(path, identity.Identity(spec, format, compression, provenance))


class Writer:
    """One writing process of the store at ``path``; a context manager.

    part: (i, n) restricts it to every n-th shard, 1 <= i <= n, for job arrays.
    """

    def __init__(self, path: Path, *, part: tuple[int, int] | None = None) -> None:
        if part is not None and not 1 <= part[0] <= part[1]:
            raise ConfigError(f"--part {part[0]}/{part[1]} must be between 1/n and n/n.")
        self.path = path
        with explained(path, "read"):
            self.identity = identity.load(path)
            self._plan = Plan(path)
            self._ledger = ledger.Ledger(path)
        self._plan.check(self._ledger.records)
        self.spec = self.identity.spec
        self._backend = plugins.load(backends, self.identity.format)()
        self._part = part or (1, 1)
        self._lines = ledger.LedgerWriter(path)
        self._leases = Leases(path)
        self._claimed: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back all leases and close the ledger file."""
        self._leases.close()
        self._lines.close()

    def remaining(self) -> list[int]:
        """Numbers of the planned shards of this part that nobody has committed yet."""
        with explained(self.path, "read"):
            self._plan = self._plan.latest()
            self._ledger.refresh()
        part, parts = self._part
        done = self._ledger.records
        return [s for s in range(part - 1, self._plan.shards, parts) if s not in done]

    def ids(self, shard: int) -> list[str]:
        """The ids of a shard, in plan order."""
        return self._plan.ids(shard)

    def claim(self, shard: int) -> bool:
        """Take the exclusive right to write a shard; False when another has it or it is done."""
        with explained(self.path, "claim a shard of"):
            self._plan.generation(shard)
            if not self._leases.claim(shard):
                return False
            self._ledger.refresh()
            if shard in self._ledger.records:  # another process committed it before we looked
                self._leases.release(shard)
                return False
        self._claimed[shard] = time.monotonic()
        return True

    def release(self, shard: int) -> None:
        """Give a claimed shard back without committing it."""
        self._claimed.pop(shard, None)
        self._leases.release(shard)

    def commit(
        self, shard: int, outcomes: Sequence[Outcome], rows: Mapping[str, Features]
    ) -> ShardRecord:
        """Make a shard durable: its file, then its ledger line; then the lease is given back.

        outcomes: one per id of the shard, in plan order; rows: one per ok id, as the spec declares
        (floats of any precision; cast here). A row with NaN, Inf or a value too large for the
        storage dtype is recorded as failed("non-finite") or failed("overflow"). Raises StoreError
        for rows that do not match the spec, LockedError when another process has the shard,
        ResourceError when the disk fails; then nothing is committed.
        """
        if shard not in self._claimed and not self.claim(shard):
            raise LockedError(
                f"Shard {shard} of {self.path} is committed or being written by "
                f"{self._leases.holder(shard)}. Skip it, or wait."
            )
        with explained(self.path, "write a shard of"):
            ids = self._plan.ids(shard)
            self._check(shard, ids, outcomes, rows)
            final, content = self._pack(shard, outcomes, rows)
            record = self._publish(shard, ids, final, content)
        self.release(shard)
        return record

    def _check(
        self, shard: int, ids: list[str], outcomes: Sequence[Outcome], rows: Mapping[str, Features]
    ) -> None:
        if [outcome.id for outcome in outcomes] != ids:
            raise StoreError(
                f"Shard {shard}: outcomes must cover its {len(ids)} ids in plan order."
            )
        ok = {outcome.id for outcome in outcomes if outcome.status == "ok"}
        if ok != rows.keys():
            wrong = sorted(ok ^ rows.keys())[:3]
            raise StoreError(f"Shard {shard}: rows and ok outcomes differ, for example at {wrong}.")
        for image, row in rows.items():
            schema.check_row(image, row, self.spec)

    def _pack(
        self, shard: int, outcomes: Sequence[Outcome], rows: Mapping[str, Features]
    ) -> tuple[list[Outcome], Content]:
        packer = Packer(self.spec)
        final = packer.add(outcomes, rows)
        absent = [[o.id, o.status, o.reason, o.detail] for o in final if o.status != "ok"]
        texts = {
            "ids": [o.id for o in final if o.status == "ok"],
            "absent": [json_line(values) for values in absent],
        }
        attributes = {
            "precap": identity.VERSION,
            "shard": shard,
            "fingerprint": self.spec.fingerprint,
            "spec": self.spec.as_json(),
        }
        return final, Content(packer.arrays(), texts, attributes)

    def _publish(
        self, shard: int, ids: list[str], final: list[Outcome], content: Content
    ) -> ShardRecord:
        image: Image = self._backend.build(content, self.identity.compression)
        name = f"shards/{shard:06d}{self._backend.suffix}"
        if not self._leases.holds(shard):
            raise LockedError(
                f"Shard {shard} of {self.path} was taken over by {self._leases.holder(shard)}: "
                f"this process slept too long. Nothing is lost; go on with another shard."
            )
        digest, size = files.publish(self.path / name, image.files)
        absent = [
            (m, o.status, o.reason, o.detail) for m, o in enumerate(final) if o.status != "ok"
        ]
        record = ShardRecord(
            shard=shard,
            file=name,
            bytes=size,
            digest=digest,
            ids=files.digest("\n".join(ids).encode()),
            ok=len(ids) - len(absent),
            absent=tuple(absent),
            layout=_layout(content, image),
            seconds=round(time.monotonic() - self._claimed[shard], 3),
            **ledger.stamp(),
        )
        self._lines.append(record.as_json())
        return record


def _layout(content: Content, image: Image) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, array in content.arrays.items():
        extent = image.extents.get(name)
        place = [extent.file, extent.offset] if extent else ["", None]
        found[name] = [*place, list(array.shape), array.dtype.str]
    return found


_shared: dict[tuple[int, Path], Writer] = {}


def shared(path: Path) -> Writer:
    """This process's writer of the store at ``path``, made once: for tasks that come one by one.

    Never close it: what it holds ends with the process.
    """
    key = (os.getpid(), path)
    if key not in _shared:
        _shared[key] = Writer(path)
    return _shared[key]


def json_line(values: Sequence[str]) -> str:
    """A list of texts as compact JSON."""
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)
