"""A look inside a shard with the format's own library: do ids, rows and offsets agree?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from precap import plugins
from precap.store import backends, files
from precap.store.identity import Identity
from precap.store.ledger import ShardRecord
from precap.store.pack import row_digest, rows_of
from precap.store.plan import Plan


def changed_images(file: Path, record: ShardRecord, plan: Plan, mine: Identity) -> tuple[str, ...]:
    """Ids whose rows no longer match their digests; empty when the file cannot be opened."""
    try:
        opened = plugins.load(backends, mine.format)().open(file)
        arrays = {name: np.asarray(opened.array(name)[...]) for name in record.layout}
        ids = _ok_ids(record, plan)
        return tuple(
            image
            for row, image in enumerate(ids)
            if row_digest(image, rows_of(arrays, mine.spec, row)) != int(arrays["digests"][row])
        )
    except Exception:
        return ()  # damaged enough that the library gives up, in whatever way: all is suspect


def disagreements(file: Path, record: ShardRecord, plan: Plan, mine: Identity) -> Iterator[str]:
    """What a shard whose bytes are as committed nevertheless says otherwise than the ledger."""
    if files.digest("\n".join(plan.ids(record.shard)).encode()) != record.ids:
        yield "the plan now holds other ids for this shard"
        return
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


def _ok_ids(record: ShardRecord, plan: Plan) -> list[str]:
    absent = {member for member, *_ in record.absent}
    return [image for member, image in enumerate(plan.ids(record.shard)) if member not in absent]
