"""From string ids to positions: a sorted table of hashes, checked against the plan's own text."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from precap import atomic
from precap.store.files import digest
from precap.store.ledger import Ledger
from precap.store.plan import Plan

_HEADER = 4096
_BATCH = 65536


class Table:
    """Finds ids among lines of the plan; position = rank among the lines that it was built from.

    hashes: (n,) uint32 CRC-32 of the ids, sorted; order: (n,) uint32 their positions; starts:
    (n,) uint64 where each position's line begins in all plan files taken as one text. A damaged
    table can miss an id but never find a wrong one: the id itself is compared.
    """

    def __init__(
        self, plan: Plan, hashes: NDArray[Any], order: NDArray[Any], starts: NDArray[Any]
    ) -> None:
        self._plan, self.hashes, self.order, self.starts = plan, hashes, order, starts
        self._bases = _bases(plan)

    def __len__(self) -> int:
        return len(self.hashes)

    def __bool__(self) -> bool:
        return True

    @staticmethod
    def of_plan(plan: Plan) -> "Table":
        """A table of all planned ids."""
        return _build(plan, ((shard, ()) for shard in range(plan.shards)))

    @staticmethod
    def of_ok(plan: Plan, ledger: Ledger) -> "Table":
        """A table of all ids that have features, in order of shard and row."""
        records = sorted(ledger.records.values(), key=lambda record: record.shard)
        return _build(plan, ((r.shard, [member for member, *_ in r.absent]) for r in records))

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The position of each id, (n,); -1 for an id that is not there."""
        keys = [image.encode("utf-8", "surrogatepass") for image in ids]
        found = np.full(len(keys), -1, np.int64)
        wanted = np.fromiter(map(crc32, keys), np.uint32, len(keys))
        first = np.searchsorted(self.hashes, wanted)
        inside = np.minimum(first, max(0, len(self) - 1))
        if len(self):
            for at in np.flatnonzero(self.hashes[inside] == wanted).tolist():
                found[at] = self._match(keys[at], int(first[at]), int(wanted[at]))
        return found

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are not there, in order."""
        found: list[str] = []
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            absent = np.flatnonzero(self.find(batch) < 0).tolist()
            found += [batch[number] for number in absent]
        return found

    def same(self, other: "Table") -> bool:
        """Whether two tables hold the same."""
        mine, theirs = (
            (self.hashes, self.order, self.starts),
            (other.hashes, other.order, other.starts),
        )
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def duplicates(self) -> Iterator[str]:
        """Ids that are there more than once."""
        for slot in np.flatnonzero(self.hashes[1:] == self.hashes[:-1]).tolist():
            image = self.id(int(self.order[slot]))
            if image == self.id(int(self.order[slot + 1])):
                yield image

    def id(self, position: int) -> str:
        """The id at a position."""
        text, start = self._line(position)
        return bytes(text[start : text.find(b"\n", start)]).decode()

    def _match(self, key: bytes, slot: int, wanted: int) -> int:
        line = key + b"\n"
        while slot < len(self) and self.hashes[slot] == wanted:
            position = int(self.order[slot])
            if position < len(self):
                text, start = self._line(position)
                if text[start : start + len(line)] == line and text[start - 1] == 10:
                    return position
            slot += 1
        return -1

    def _line(self, position: int) -> tuple[Any, int]:
        start = int(self.starts[position])
        number = max(0, bisect_right(self._bases, start) - 1)
        return self._plan.generations[number].text, start - self._bases[number]


def _bases(plan: Plan) -> list[int]:
    sizes = [generation.starts[-1] for generation in plan.generations]
    return [sum(sizes[:number]) for number in range(len(sizes))]


def _build(plan: Plan, shards: Iterable[tuple[int, Sequence[int]]]) -> Table:
    bases = _bases(plan)
    hashes: list[NDArray[Any]] = [np.empty(0, np.uint32)]
    starts: list[NDArray[Any]] = [np.empty(0, np.uint64)]
    for shard, absent in shards:
        generation, start, _ = plan.span(shard)
        lines = plan.lines(shard)
        lengths = np.fromiter(map(len, lines), np.uint64, len(lines)) + np.uint64(1)
        begins = np.cumsum(lengths) - lengths
        begins += np.uint64(bases[plan.generations.index(generation)] + start)
        keys = np.fromiter(map(crc32, lines), np.uint32, len(lines))
        hashes.append(np.delete(keys, list(absent)))
        starts.append(np.delete(begins, list(absent)))
    keys = np.concatenate(hashes)
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    return Table(plan, keys[order], order, np.concatenate(starts))


def open_table(path: Path, plan: Plan, ledger: Ledger) -> Table:
    """The table of all ok ids, from the file ``index`` when that is fresh; else built and kept."""
    return load_if_fresh(path, plan, ledger) or rebuild(path, plan, ledger)


def load_if_fresh(path: Path, plan: Plan, ledger: Ledger) -> Table | None:
    """The table of the file ``index``; None when there is none or it is of another state."""
    return _load(path / "index", plan, _state(plan, ledger))


def rebuild(path: Path, plan: Plan, ledger: Ledger) -> Table:
    """The table built anew, whatever the file says."""
    table = Table.of_ok(plan, ledger)
    _save(path / "index", table, _state(plan, ledger))
    return table


def _state(plan: Plan, ledger: Ledger) -> str:
    """A digest that changes whenever the plan or the ledger does."""
    plans = [generation.digest for generation in plan.generations]
    return digest(json.dumps([plans, sorted(ledger.state.items())]).encode())


def _load(file: Path, plan: Plan, state: str) -> Table | None:
    try:
        with file.open("rb") as handle:
            header = json.loads(handle.read(_HEADER))
        count = header["count"]
        if header["state"] != state or file.stat().st_size != _HEADER + 16 * count:
            return None
        data = np.memmap(file, np.uint8, "r")[_HEADER:] if count else np.empty(0, np.uint8)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    hashes, order, starts = np.split(data, [4 * count, 8 * count])
    return Table(plan, hashes.view(np.uint32), order.view(np.uint32), starts.view(np.uint64))


def _save(file: Path, table: Table, state: str) -> None:
    """Keep the table for the next opening; a folder that cannot be written is no error."""
    payload = [np.ascontiguousarray(a).tobytes() for a in (table.hashes, table.order, table.starts)]
    header = json.dumps({"state": state, "count": len(table)}).encode().ljust(_HEADER)
    try:
        with atomic.replacing(file) as partial, partial.open("wb") as handle:
            for part in (header, *payload):
                handle.write(part)
    except OSError:
        return


class Ids(Sequence[str]):
    """All ok ids, in order of shard and row, read from the plan when asked for."""

    def __init__(self, table: Table, plan: Plan, ledger: Ledger) -> None:
        self._table, self._plan, self._ledger = table, plan, ledger

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._table.id(position) for position in range(len(self))[key]]
        return self._table.id(range(len(self))[key])

    def __iter__(self) -> Iterator[str]:
        for shard in sorted(self._ledger.records):
            absent = {member for member, *_ in self._ledger.records[shard].absent}
            lines = enumerate(self._plan.ids(shard))
            yield from (image for member, image in lines if member not in absent)

    def __contains__(self, image: object) -> bool:
        return isinstance(image, str) and bool(self._table.find([image])[0] >= 0)
