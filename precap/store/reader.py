"""Reading a store at memory speed: ids to rows, one copy from the memory map into the batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.atomic import explained
from precap.errors import ConfigError, StoreError
from precap.store import copying, identity, index, schema, threads
from precap.store.ledger import Ledger
from precap.store.plan import Plan
from precap.store.sources import Column, Sources
from precap.types import FeatureSpec, Field, Outcome


@dataclass(frozen=True, slots=True)
class Rows:
    """One field of a batch. array: (B, ...), ragged fields (B, Nmax, ...) padded with zeros;
    lengths: (B,) int64 real rows of a ragged field, None for a fixed one.
    """

    array: NDArray[Any]
    lengths: NDArray[np.int64] | None


def open_store(path: Path, spec: FeatureSpec | None = None) -> "Store":
    """Open the store at ``path``; StoreError, field by field, when it was made by another spec."""
    with explained(Path(path), "open"):
        return Store(Path(path), spec)


class Store:
    """A feature store, open for reading; see ``read_many``. Picklable; safe to fork and spawn."""

    def __init__(self, path: Path, spec: FeatureSpec | None = None) -> None:
        self.path = path
        self.identity = identity.load(path)
        self.spec = self.identity.spec
        if spec is not None and spec.fingerprint != self.spec.fingerprint:
            raise identity.mismatch(path, schema.difference(self.spec, spec))
        self._plan = Plan(path)
        self._ledger = Ledger(path)
        _refuse_damage(self._ledger)
        self._records = [self._ledger.records[s] for s in sorted(self._ledger.records)]
        self._firsts = np.cumsum([0, *(record.ok for record in self._records)])
        self._table = index.open_table(path, self._plan, self._ledger)
        self._absent: dict[str, Outcome] | None = None
        self._sources = Sources(path, self.identity)
        self.ids: Sequence[str] = index.Ids(self._table, self._plan, self._ledger)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, image: object) -> bool:
        return image in self.ids

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["spec"])  # type: ignore[misc]

    def outcome(self, image: str) -> Outcome | None:
        """What became of an image; None when it was not planned or not processed yet."""
        if image in self:
            return Outcome(image, "ok")
        return self.absent.get(image)

    @property
    def absent(self) -> Mapping[str, Outcome]:
        """Id -> outcome of every image that was processed and has no features."""
        if self._absent is None:
            found: dict[str, Outcome] = {}
            for record in self._records:
                lines = self._plan.lines(record.shard) if record.absent else []
                for member, status, reason, detail in record.absent:
                    image = lines[member].decode()
                    found[image] = Outcome(image, status, reason, detail)
            have = self._table.find(list(found)) >= 0
            self._absent = {k: v for (k, v), ok in zip(found.items(), have, strict=True) if not ok}
        return self._absent

    def statuses(self) -> dict[str, dict[str, int]]:
        """Status -> reason -> number of images; each image counts once, with its latest outcome."""
        counts: dict[str, dict[str, int]] = {"ok": {"": len(self)}, "skipped": {}, "failed": {}}
        for outcome in self.absent.values():
            reasons = counts[outcome.status]
            reasons[outcome.reason] = reasons.get(outcome.reason, 0) + 1
        return counts

    def read(self, image: str, view: int = 0) -> dict[str, NDArray[Any]]:
        """The arrays of one image, copies."""
        batch = self.read_many([image], view=view)
        return {name: rows.array[0] for name, rows in batch.items()}

    def read_views(self, image: str) -> dict[str, Any]:
        """All views of one image, as a writer takes them: with a views axis if there are several
        (a list of arrays for ragged fields)."""
        views = self.spec.views
        if views == 1:
            return dict(self.read(image))
        batch = [self.read(image, view) for view in range(views)]
        return {
            field.name: parts if field.ragged else np.stack(parts)
            for field in self.spec.fields
            if (parts := [one[field.name] for one in batch])
        }

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Rows per image (and view) of a ragged field, in the order of ``ids``."""
        field = self._field(name)
        self._sources.check_process()
        columns = (self._sources.column(record, field.name) for record in self._records)
        parts = [np.diff(np.asarray(column.offsets[...])) for column in columns]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def read_many(
        self,
        ids: Sequence[str],
        *,
        fields: Iterable[str] | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
        view: int | Sequence[int] = 0,
    ) -> dict[str, Rows]:
        """The rows of a batch of images, in the order of ``ids``.

        fields: names, all by default. out: field name -> the caller's C-contiguous buffer of the
        field's dtype, with room for the batch; the result is a contiguous array at its beginning.
        view: which augmented version, one number for all or one per image. int8 fields come as
        float32. StoreError for an id without features, saying why.
        """
        self._sources.check_process()
        cells = self._cells(ids, view)
        chosen = [self._field(name) for name in fields] if fields is not None else self.spec.fields
        buffers = out or {}
        return {f.name: self._gather(f, cells, buffers.get(f.name)) for f in chosen}

    def _cells(self, ids: Sequence[str], view: int | Sequence[int]) -> tuple[list[int], list[int]]:
        """The record number, and row * views + view, of each id."""
        positions = self._table.find(ids)
        if len(positions) and positions.min() < 0:
            raise self._missing(ids, positions)
        numbers = np.searchsorted(self._firsts, positions, side="right") - 1
        chosen = np.asarray(view)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self.spec.views):
            raise ConfigError(f"view must be from 0 to {self.spec.views - 1}, not {view}.")
        rows = (positions - self._firsts[numbers]) * self.spec.views + chosen
        return numbers.tolist(), rows.tolist()

    def _missing(self, ids: Sequence[str], positions: NDArray[np.int64]) -> StoreError:
        missing = [image for image, at in zip(ids, positions.tolist(), strict=True) if at < 0]
        outcome = self.outcome(missing[0])
        why = f"{outcome.status}: {outcome.reason}" if outcome else "it was never extracted"
        return StoreError(
            f"{self.path} has no features of image {missing[0]!r} ({why}) and {len(missing) - 1} "
            f"others asked for. Extract them, or leave them out."
        )

    def _field(self, name: str) -> Field:
        for field in self.spec.fields:
            if field.name == name:
                return field
        known = ", ".join(field.name for field in self.spec.fields)
        raise ConfigError(f"{self.path} has no field {name!r}. It has: {known}.")

    def _gather(
        self, field: Field, cells: tuple[list[int], list[int]], buffer: NDArray[Any] | None
    ) -> Rows:
        numbers, keys = cells
        opened = {n: self._sources.column(self._records[n], field.name) for n in set(numbers)}
        columns = [opened[number] for number in numbers]
        lengths = None
        spans: list[Any] = list(keys)
        if field.ragged:
            pairs = [c.offsets[k : k + 2].tolist() for c, k in zip(columns, keys, strict=True)]
            spans = [slice(start, stop) for start, stop in pairs]
            lengths = np.array([stop - start for start, stop in pairs], np.int64)
        target = _target(field, len(keys), lengths, buffer)
        fill = _exactly if lengths is None and field.dtype != "int8" else _padded
        mapped = all(isinstance(column.rows, np.ndarray) for column in opened.values())
        threads.spread(fill(target, columns, spans), len(keys), target.nbytes if mapped else 0)
        return Rows(target, lengths)


def _exactly(
    target: NDArray[Any], columns: Sequence[Column], keys: Sequence[Any]
) -> Callable[[range], None]:
    """Rows of one shape that are stored as they are read."""
    put = copying.setter(target)

    def fill(part: range) -> None:
        for k in part:
            put(target, k, columns[k].rows[keys[k]])

    return fill


def _padded(
    target: NDArray[Any], columns: Sequence[Column], keys: Sequence[Any]
) -> Callable[[range], None]:
    """Ragged rows (keys are slices), zeros after them, and int8 rows of either kind, scaled."""
    put = copying.setter(target)

    def fill(part: range) -> None:
        for k in part:
            place, key, (rows, scales, _) = target[k, ...], keys[k], columns[k]
            if isinstance(key, slice):
                place[key.stop - key.start :] = 0
                place = place[: key.stop - key.start]
            if scales is None:
                put(place, ..., rows[key])
            else:
                scale = np.asarray(scales[key])[..., None]
                np.multiply(rows[key], scale, out=place, dtype=np.float32)

    return fill


def _target(
    field: Field, count: int, lengths: NDArray[np.int64] | None, buffer: NDArray[Any] | None
) -> NDArray[Any]:
    """An array for the batch: at the beginning of the caller's buffer, or a new one."""
    tail = tuple(n for n in field.shape if n is not None)
    longest = () if lengths is None else (int(lengths.max(initial=0)),)
    shape = (count, *longest, *tail)
    dtype = np.dtype("float32" if field.dtype == "int8" else field.dtype)
    return copying.buffer(shape, dtype) if buffer is None else _window(field, buffer, shape, dtype)


def _window(
    field: Field, buffer: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """A contiguous array of ``shape`` at the beginning of the caller's buffer."""
    count = int(np.prod(shape))
    if buffer.dtype != dtype or not buffer.flags.c_contiguous or buffer.size < count:
        raise ConfigError(
            f"The buffer for field {field.name!r} must be C-contiguous {dtype} with at least "
            f"{count} elements, not {buffer.dtype}{list(buffer.shape)}."
        )
    return buffer.reshape(-1)[:count].reshape(shape)


def _refuse_damage(ledger: Ledger) -> None:
    damaged = [bad for bad in ledger.bad if not bad.torn]
    if damaged:
        raise StoreError(
            f"{damaged[0].path}, line {damaged[0].number}: {damaged[0].why}. Run `precap store "
            f"verify`, then `precap store repair`."
        )
