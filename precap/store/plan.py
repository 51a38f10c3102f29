"""Which ids form which shards: append-only generations whose members never change."""

import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap.atomic import explained
from precap.errors import DataError, StoreError
from precap.store import files, sealed
from precap.types import Status

if TYPE_CHECKING:
    from precap.store.ledger import ShardRecord

SHARD_SIZE = 512

#: Whether an image without features is to be planned again, by its id, status and reason.
Again = Callable[[str, Status, str], bool]


@dataclass(frozen=True)
class Generation:
    """One file ``plan/NNN.txt``: a sealed JSON header, then one id per line.

    first: number of its first shard. starts: byte offset of each shard's first id, and the end.
    """

    path: Path
    first: int
    size: int
    count: int
    kind: str
    starts: Sequence[int]
    digest: str
    begin: int

    @property
    def shards(self) -> int:
        """How many shards it has."""
        return len(self.starts) - 1

    @cached_property
    def text(self) -> Any:
        """The file's bytes, memory-mapped read-only (bytes-like); StoreError when they changed."""
        with explained(self.path, "read"), self.path.open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if files.digest(memoryview(text)[self.begin :]) != self.digest:
            raise StoreError(f"{self.path}: its ids have changed. Restore it from a copy.")
        return text

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "text"}


class Plan:
    """All generations of the store at ``path``, as they were when this was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generations: list[Generation] = []
        for number in range(10**6):
            file = path / "plan" / f"{number:03d}.txt"
            if not file.exists():
                break
            self.generations.append(_load(file))
        self._firsts = [generation.first for generation in self.generations]

    def latest(self) -> "Plan":
        """This plan, or a new one when generations have been added since."""
        following = self.path / "plan" / f"{len(self.generations):03d}.txt"
        return Plan(self.path) if following.exists() else self

    @property
    def shards(self) -> int:
        """Number of shards planned."""
        last = self.generations[-1] if self.generations else None
        return last.first + last.shards if last else 0

    @property
    def planned(self) -> int:
        """Number of ids planned; an id planned again by a retry counts again."""
        return sum(generation.count for generation in self.generations)

    def generation(self, shard: int) -> Generation:
        """The generation that a shard belongs to."""
        if not 0 <= shard < self.shards:
            raise StoreError(f"There is no shard {shard}: {self.shards} are planned.")
        return self.generations[bisect_right(self._firsts, shard) - 1]

    def span(self, shard: int) -> tuple[Generation, int, int]:
        """The generation of a shard, and where its ids begin and end in the generation's text."""
        generation = self.generation(shard)
        local = shard - generation.first
        return generation, generation.starts[local], generation.starts[local + 1]

    def lines(self, shard: int) -> list[bytes]:
        """The ids of a shard as UTF-8, in order."""
        generation, start, stop = self.span(shard)
        found: list[bytes] = generation.text[start : stop - 1].split(b"\n")
        return found

    def digest(self, shard: int) -> str:
        """The digest of a shard's ids, which its ledger line holds too."""
        generation, start, stop = self.span(shard)
        return files.digest(memoryview(generation.text)[start : stop - 1])

    def holds(self, record: "ShardRecord") -> bool:
        """Whether the record's shard is planned, with the very ids it was committed with."""
        return record.shard < self.shards and self.digest(record.shard) == record.ids

    def check(self, records: Mapping[int, "ShardRecord"]) -> None:
        """StoreError when shards are committed that this plan lacks, or has with other ids.

        A plan file that was lost, and made anew in another order, would give every row to
        another image.
        """
        for shard, record in records.items():
            if self.holds(record):
                continue
            raise StoreError(
                f"{self.path}: shard {shard} is committed, and the plan lacks it or holds other "
                f"ids for it: files of {self.path / 'plan'} were lost or replaced. Restore "
                f"them from a copy; nothing can be read or written until then."
            )

    def ids(self, shard: int) -> list[str]:
        """The ids of a shard, in order."""
        return [line.decode() for line in self.lines(shard)]

    def members(self, shard: int) -> int:
        """Number of ids of a shard."""
        generation = self.generation(shard)
        local = shard - generation.first
        return min(generation.size, generation.count - local * generation.size)


def append(path: Path, ids: Sequence[str], size: int, kind: str, number: int, first: int) -> bool:
    """Freeze ``ids`` as generation ``number``; False when another process was faster."""
    folder = path / "plan"
    body = encode(ids)
    starts = list(_starts(body, size, len(ids)))
    header = {
        "kind": kind,
        "first": first,
        "size": size,
        "count": len(ids),
        "digest": files.digest(body),
        "starts": starts,
    }
    data = sealed.seal(header) + body
    return files.create_exclusively(folder / f"{number:03d}.txt", data)


def encode(ids: Iterable[str]) -> bytes:
    """The ids as UTF-8 lines; DataError for an id that cannot be one."""
    text = "\n".join(ids) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"An image id is not valid text near {text[max(0, error.start - 20) : error.start]!r}. "
            f"Rename the file it comes from."
        ) from error


def check_ids(ids: Iterable[str]) -> None:
    """DataError for an id that a plan cannot hold: empty, or with a line break or NUL."""
    for image in ids:
        if not image or "\n" in image or "\0" in image:
            raise DataError(f"Image id {image!r} is empty or has a line break or NUL. Rename it.")


def _starts(body: bytes, size: int, count: int) -> Iterator[int]:
    import numpy as np

    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
    yield 0
    yield from ends[size - 1 :: size].tolist()
    if count % size:
        yield len(body)


def _load(path: Path) -> Generation:
    with path.open("rb") as file:
        line = file.readline()
        length = os.fstat(file.fileno()).st_size
    try:
        header = sealed.unseal(line)
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}). Run `precap store verify` to see what else is; a plan "
            f"cannot be repaired: restore it from a copy."
        ) from error
    starts = [start + len(line) for start in header["starts"]]
    if starts[-1] != length:
        raise StoreError(
            f"{path} has {length} bytes, should have {starts[-1]}. Restore it from a copy."
        )
    return Generation(
        path,
        header["first"],
        header["size"],
        header["count"],
        header["kind"],
        starts,
        header["digest"],
        len(line),
    )


def unplanned(path: Path, ids: Sequence[str]) -> list[str]:
    """Those of ``ids`` that the store at ``path`` does not plan yet, each once, in their order."""
    check_ids(ids)
    return _unplanned(Plan(path), ids)


def extend(
    path: Path, ids: Sequence[str], *, shard_size: int = SHARD_SIZE, again: Again | None = None
) -> int:
    """Plan every id that is not planned yet, as a new generation; how many these are.

    Ids whose latest outcome is one that ``again`` chooses are planned again, too. Several
    processes may call this at once: each generation is created by exactly one of them.
    """
    from precap.store.ledger import Ledger

    files.make_folder(path / "plan")
    check_ids(ids)
    Plan(path).check(Ledger(path).records)
    added = _freeze(path, shard_size, "new", lambda plan: _unplanned(plan, ids))
    if again is not None:
        added += _freeze(path, shard_size, "retry", lambda plan: _absent(plan, path, again))
    return added


def _freeze(path: Path, size: int, kind: str, choose: Callable[[Plan], list[str]]) -> int:
    """Append what ``choose`` finds; choose again whenever another process was faster."""
    while True:
        plan = Plan(path)
        ids = choose(plan)
        if not ids or append(path, ids, size, kind, len(plan.generations), plan.shards):
            return len(ids)


def _unplanned(plan: Plan, ids: Sequence[str]) -> list[str]:
    from precap.store.index import Table

    unique = list(dict.fromkeys(ids))
    return Table.of_plan(plan).missing(unique) if plan.shards else unique


def failed(image: str, status: Status, reason: str) -> bool:
    """``again`` for ``extend``: whatever failed."""
    return status == "failed"


def absent(path: Path, again: Again) -> list[str]:
    """The ids that ``extend`` with ``again`` would plan again."""
    return _absent(Plan(path), path, again)


def _absent(plan: Plan, path: Path, again: Again) -> list[str]:
    """Ids whose latest outcome ``again`` chooses and that no later, unfinished shard holds."""
    from precap.store.ledger import Ledger

    ledger = Ledger(path)
    latest: dict[bytes, bool] = {}
    for shard in range(plan.shards):
        retry = plan.generation(shard).kind == "retry"
        record = ledger.records.get(shard)
        if retry:
            latest.update(dict.fromkeys(plan.lines(shard), False))
        if record and record.absent:
            lines = plan.lines(shard)
            for member, status, reason, _ in record.absent:
                line = lines[member]
                latest[line] = again(line.decode(), status, reason)
    return [line.decode() for line, chosen in latest.items() if chosen]
