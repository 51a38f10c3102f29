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
_REMEMBERED = 1 << 18  # ids whose position is kept at hand: about 30 MB


class Table:
    """Finds ids among lines of the plan; position = rank among the lines that it was built from.

    hashes: (n,) uint32 CRC-32 of the ids, sorted; order: (n,) uint32 their positions; starts:
    (n,) uint64 where each position's line begins in all plan files taken as one text. Equal
    hashes are told apart by the ids themselves.
    """

    def __init__(
        self, plan: Plan, hashes: NDArray[Any], order: NDArray[Any], starts: NDArray[Any]
    ) -> None:
        self._plan, self.hashes, self.order, self.starts = plan, hashes, order, starts
        self._bases = _bases(plan)
        self._known: dict[str, int] = {}  # training asks for the same ids in every epoch

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
        """A table of all ids that have features, in order of shard and row; see ``Plan.check``."""
        plan.check(ledger.records)
        records = sorted(ledger.records.values(), key=lambda record: record.shard)
        return _build(plan, ((r.shard, [member for member, *_ in r.absent]) for r in records))

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The position of each id, (n,); -1 for an id that is not there."""
        kept = self._known
        answers = list(map(kept.get, ids))
        if None in answers:
            new = [image for image, answer in zip(ids, answers, strict=True) if answer is None]
            fresh = dict(zip(new, self._look_up(new).tolist(), strict=True))
            if len(kept) < _REMEMBERED:
                kept.update(fresh)
            answers = [fresh[i] if a is None else a for i, a in zip(ids, answers, strict=True)]
        return np.array(answers, np.int64)

    def _look_up(self, ids: Sequence[str]) -> NDArray[np.int64]:
        keys = [image.encode("utf-8", "surrogatepass") for image in ids]
        found = np.full(len(keys), -1, np.int64)
        wanted = np.fromiter(map(crc32, keys), np.uint32, len(keys))
        if not len(self):
            return found
        first = np.searchsorted(self.hashes, wanted)
        hits = np.flatnonzero(self.hashes[np.minimum(first, len(self) - 1)] == wanted)
        positions = self.order[first[hits]]
        starts = self.starts[positions].tolist()
        for at, position, start in zip(hits.tolist(), positions.tolist(), starts, strict=True):
            # Nearly always the first of equal hashes is the one.
            same = self._stands(keys[at], start)
            found[at] = position if same else self._search(keys[at], int(first[at]) + 1)
        return found

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are not there, in order."""
        found: list[str] = []
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            absent = np.flatnonzero(self.find(batch) < 0).tolist()
            found += [batch[number] for number in absent]
        return found

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

    def _stands(self, key: bytes, start: int) -> bool:
        number = bisect_right(self._bases, start) - 1 if len(self._bases) > 1 else 0
        start -= self._bases[number]
        text = self._plan.generations[number].text
        line: bytes = text[start : start + len(key) + 1]
        return line == key + b"\n"

    def _search(self, key: bytes, slot: int) -> int:
        """Look on among equal hashes, from ``slot``; -1 when it is none of them."""
        wanted = crc32(key)
        while slot < len(self) and self.hashes[slot] == wanted:
            position = int(self.order[slot])
            if self._stands(key, int(self.starts[position])):
                return position
            slot += 1
        return -1

    def _line(self, position: int) -> tuple[Any, int]:
        start = int(self.starts[position])
        number = bisect_right(self._bases, start) - 1
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
    """The table of the file ``index``; None when there is none, an old or a damaged one."""
    try:
        table, sound = _load(path / "index", plan, _state(plan, ledger))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return table if sound else None


def is_damaged(path: Path, plan: Plan, ledger: Ledger) -> bool:
    """Whether the file ``index`` is of the present state, but its bytes have changed."""
    try:
        return not _load(path / "index", plan, _state(plan, ledger))[1]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # none, or an old one: it will be built anew anyway


def rebuild(path: Path, plan: Plan, ledger: Ledger) -> Table:
    """The table built anew, whatever the file says."""
    table = Table.of_ok(plan, ledger)
    _save(path / "index", table, _state(plan, ledger))
    return table


def _state(plan: Plan, ledger: Ledger) -> str:
    """A digest that changes whenever the plan or the ledger does."""
    plans = [generation.digest for generation in plan.generations]
    return digest(json.dumps([plans, sorted(ledger.state.items())]).encode())


def _load(file: Path, plan: Plan, state: str) -> tuple[Table, bool]:
    """The table in ``file`` and whether its bytes are as written; ValueError when it is old."""
    with file.open("rb") as handle:
        header = json.loads(handle.read(_HEADER))
    if header["state"] != state:
        raise ValueError("an index of another state")
    count = header["count"]
    if file.stat().st_size != _HEADER + 16 * count:
        return Table(plan, *_split(np.empty(0, np.uint8), 0)), False
    # A plain array over the map: np.memmap makes every access to an element slow.
    data = np.asarray(np.memmap(file, np.uint8, "r"))[_HEADER:]
    return Table(plan, *_split(data, count)), digest(data.data) == header["digest"]


def _split(data: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    hashes, order, starts = np.split(data, [4 * count, 8 * count])
    return hashes.view(np.uint32), order.view(np.uint32), starts.view(np.uint64)


def _save(file: Path, table: Table, state: str) -> None:
    """Keep the table for the next opening; a folder that cannot be written is no error."""
    payload = b"".join(array.tobytes() for array in (table.hashes, table.order, table.starts))
    values = {"state": state, "count": len(table), "digest": digest(payload)}
    header = json.dumps(values).encode().ljust(_HEADER)
    try:
        atomic.write_bytes(file, header + payload)
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
