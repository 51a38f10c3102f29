"""A look inside a shard with the format's own library: do ids, rows and offsets agree?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from precap import plugins
from precap.store import backends, files
from precap.store.identity import Identity
from precap.store.ledger import ShardRecord, stamp
from precap.store.pack import row_digest, rows_of
from precap.store.plan import Plan


def changed_images(
    file: Path,
    record: ShardRecord,
    plan: Plan,
    mine: Identity,
    unreadable: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Ids whose rows no longer match their digests; ``unreadable`` when the file is."""
    try:
        opened = plugins.load(backends, mine.format)().open(file)
        arrays = {name: np.asarray(opened.array(name)[...]) for name in record.layout}
        ids = _ok_ids(record, plan)
        return tuple(
            image
            for row, image in enumerate(ids)
            if row_digest(image, rows_of(arrays, mine.spec, row)) != int(arrays["digests"][row])
        )
    except Exception:  # so damaged that the library gives up, in whatever way
        return unreadable


def disagreements(file: Path, record: ShardRecord, plan: Plan, mine: Identity) -> Iterator[str]:
    """What a shard whose bytes are as committed nevertheless says otherwise than the ledger."""
    opened = plugins.load(backends, mine.format)().open(file)
    try:
        yield from _compare(opened, record, plan, mine)
    finally:
        opened.close()


def _compare(opened: Any, record: ShardRecord, plan: Plan, mine: Identity) -> Iterator[str]:
    if opened.attributes["fingerprint"] != mine.spec.fingerprint:
        yield "it was made by another configuration"
    if opened.attributes["shard"] != record.shard:
        yield f"it says that it is shard {opened.attributes['shard']}"
    if opened.texts("ids") != _ok_ids(record, plan):
        yield "its ids are not those of the plan"
    extents = opened.extents()
    for name, (inner, offset, shape, dtype) in record.layout.items():
        array = opened.array(name)
        if list(array.shape) != shape or np.dtype(array.dtype) != np.dtype(dtype):
            yield f"{name} is {array.dtype}{list(array.shape)}, not {dtype}{shape}"
        found = extents.get(name)
        if offset is not None and (found is None or (found.file, found.offset) != (inner, offset)):
            yield f"{name} lies elsewhere than the ledger says"


def adopted(file: Path, name: str, plan: Plan, mine: Identity) -> ShardRecord | None:
    """The ledger line of a whole shard that has none, written anew; None when it is not whole.

    Whole: of this configuration and shard number, with the planned ids, every row as its digest
    says. Such shards are left by a crash before the ledger line, or by a lost ledger file.
    """
    try:
        shard = int(file.stem)
        opened = plugins.load(backends, mine.format)().open(file)
        try:
            record = _record(opened, file, name, shard, plan)
            if any(_compare(opened, record, plan, mine)):
                return None
        finally:
            opened.close()
        return None if changed_images(file, record, plan, mine, unreadable=("all",)) else record
    except Exception:
        return None  # whatever the library says of what is no shard of ours


def _record(opened: Any, file: Path, name: str, shard: int, plan: Plan) -> ShardRecord:
    extents = opened.extents()
    layout: dict[str, Any] = {}
    for array in opened.names():
        found, values = extents.get(array), opened.array(array)
        place = [found.file, found.offset] if found else ["", None]
        layout[array] = [*place, list(values.shape), np.dtype(values.dtype).str]
    members = {image: number for number, image in enumerate(plan.ids(shard))}
    lost = [json.loads(line) for line in opened.texts("absent")]
    digest, size = files.digest_of(file)
    return ShardRecord(
        shard=shard,
        file=name,
        bytes=size,
        digest=digest,
        ids=plan.digest(shard),
        ok=len(members) - len(lost),
        absent=tuple((members[image], *rest) for image, *rest in lost),
        layout=layout,
        **stamp(),
    )


def _ok_ids(record: ShardRecord, plan: Plan) -> list[str]:
    absent = {member for member, *_ in record.absent}
    return [image for member, image in enumerate(plan.ids(record.shard)) if member not in absent]
