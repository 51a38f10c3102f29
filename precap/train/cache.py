"""Where the rows of one role come from while training: memory map, RAM or the device."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precap.errors import ConfigError, DataError, ResourceError
from precap.train.roles import Source
from precap.types import Features, FeatureSpec, Outcome

#: (B, ...) rows and, for a ragged role, which of them are real, (B, N) bool.
Gathered = tuple[Tensor, Tensor | None]


class RowsLike(Protocol):
    """What a store returns per field."""

    @property
    def array(self) -> NDArray[Any]: ...
    @property
    def lengths(self) -> NDArray[np.int64] | None: ...


class StoreLike(Protocol):
    """The part of a store that training reads."""

    spec: FeatureSpec

    def __contains__(self, image: object) -> bool: ...
    def outcome(self, image: str) -> Outcome | None: ...
    def read_many(
        self,
        ids: Sequence[str],
        *,
        fields: Iterable[str] | None = None,
        view: int | Sequence[int] = 0,
    ) -> Mapping[str, RowsLike]: ...


class Reader(Protocol):
    """Rows of images by their position in the split."""

    def gather(self, positions: NDArray[np.int64], view: NDArray[np.int64] | None) -> Gathered: ...


class Mapped:
    """Reads every batch from the store; the operating system keeps what is used often."""

    def __init__(self, store: StoreLike, source: Source, ids: Sequence[str], most: int = 0) -> None:
        self.store, self.field, self.ids, self.most = store, source.field, list(ids), most
        self.several = source.spec.views > 1

    def gather(self, positions: NDArray[np.int64], view: NDArray[np.int64] | None) -> Gathered:
        """(B, ...) rows as stored, padded with zeros; a store of one view gives it for all."""
        names = [self.ids[i] for i in positions]
        views: int | list[int] = view.tolist() if view is not None and self.several else 0
        rows = self.store.read_many(names, fields=[self.field.name], view=views)[self.field.name]
        array = torch.from_numpy(flat(rows.array, self.field.ragged))
        if rows.lengths is None:
            return array, None
        lengths = torch.from_numpy(rows.lengths)
        if self.most:
            array, lengths = array[:, : self.most], lengths.clamp_max(self.most)
        return array, torch.arange(array.shape[1]) < lengths[:, None]


class Held:
    """All rows of a split in one tensor, in RAM or on the device."""

    def __init__(self, rows: Mapped, device: torch.device, chunk: int = 256) -> None:
        parts, lengths = [], []
        for start in range(0, len(rows.ids), chunk):
            at = np.arange(start, min(start + chunk, len(rows.ids)))
            array, mask = rows.gather(at, None)
            if mask is not None:
                lengths.append(mask.sum(1))
                array = array[mask]  # only real rows, one after another
            parts.append(array.to(device))
        self.rows = torch.cat(parts)
        self.lengths = torch.cat(lengths).to(device) if lengths else None
        if self.lengths is not None:
            self.starts = self.lengths.cumsum(0) - self.lengths

    def gather(self, positions: NDArray[np.int64], view: NDArray[np.int64] | None) -> Gathered:
        """(B, ...) rows as stored, padded with zeros."""
        at = torch.from_numpy(positions).to(self.rows.device)
        if self.lengths is None:
            return self.rows.index_select(0, at), None
        lengths = self.lengths[at]
        within = torch.arange(int(lengths.max()), device=at.device)
        mask = within < lengths[:, None]  # (B, N)
        place = torch.where(mask, self.starts[at][:, None] + within, 0)
        shape = (*place.shape, *self.rows.shape[1:])
        rows = self.rows.index_select(0, place.flatten()).view(shape)
        return rows.mul_(mask.view(*mask.shape, *[1] * (rows.dim() - 2)).to(rows.dtype)), mask


class Memory:
    """Features of a few images in memory, read like a store: captioning on the fly."""

    def __init__(self, spec: FeatureSpec, rows: Mapping[str, Features]) -> None:
        self.spec, self.rows = spec, rows

    def __contains__(self, image: object) -> bool:
        return image in self.rows

    def outcome(self, image: str) -> Outcome | None:
        """ "ok" for what is held."""
        return Outcome(image, "ok") if image in self.rows else None

    def read_many(
        self,
        ids: Sequence[str],
        *,
        fields: Iterable[str] | None = None,
        view: int | Sequence[int] = 0,
    ) -> Mapping[str, RowsLike]:
        """As ``Store.read_many``; there is one view only."""
        wanted = set(fields) if fields is not None else {f.name for f in self.spec.fields}
        return {
            f.name: self._stack(ids, f.name, f.ragged) for f in self.spec.fields if f.name in wanted
        }

    def _stack(self, ids: Sequence[str], name: str, ragged: bool) -> "_Rows":
        arrays = [np.asarray(self.rows[i][name]) for i in ids]
        if not ragged:
            return _Rows(np.stack(arrays), None)
        lengths = np.array([len(a) for a in arrays], np.int64)
        out = np.zeros((len(ids), int(lengths.max()), *arrays[0].shape[1:]), arrays[0].dtype)
        for place, array in zip(out, arrays, strict=True):
            place[: len(array)] = array
        return _Rows(out, lengths)


class _Rows:
    def __init__(self, array: NDArray[Any], lengths: NDArray[np.int64] | None) -> None:
        self.array, self.lengths = array, lengths


def flat(array: NDArray[Any], ragged: bool) -> NDArray[Any]:
    """A map (B, H, W, D) as rows (B, H*W, D); a ragged role's numbers (B, N) as (B, N, 1)."""
    if array.ndim == 4:
        return array.reshape(len(array), -1, array.shape[-1])
    return array[..., None] if ragged and array.ndim == 2 else array


def reader(
    store: StoreLike,
    source: Source,
    ids: Sequence[str],
    mode: str,
    device: torch.device,
    most: int = 0,
) -> Reader:
    """Rows of ``ids`` as ``mode`` says; "auto" holds what fits in a third of the free memory.

    The processes that torchrun started on this machine share its RAM.
    """
    mapped = Mapped(store, source, ids, most)
    if source.spec.views > 1 or mode == "mmap" or not len(ids):
        return mapped
    if mode == "auto":
        need = _bytes(mapped)
        if device.type == "cuda" and need < torch.cuda.mem_get_info(device)[0] // 3:
            mode = "device"
        elif need < free_memory() // 3 // neighbours():
            mode = "ram"
        else:
            return mapped
    if mode == "device" and device.type != "cuda":
        raise ConfigError("--cache device needs a CUDA device. Use --cache ram or auto.")
    try:
        return Held(mapped, device if mode == "device" else torch.device("cpu"))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"The features of {len(ids)} images do not fit in memory. Use --cache mmap."
        ) from error


def _bytes(mapped: Mapped) -> int:
    probe = mapped.gather(np.arange(min(16, len(mapped.ids))), None)[0]
    return probe.numel() * probe.element_size() // len(probe) * len(mapped.ids)


def neighbours() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_memory() -> int:
    """Bytes of RAM that this process can still take: the machine's, or its cgroup's if less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in (
        Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    ):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def covered(
    stores: Mapping[str, StoreLike], ids: Sequence[str], split: str
) -> tuple[list[str], dict[str, int]]:
    """The ids all stores have features of, and why others were left out: reason -> count.

    DataError when an image was never extracted at all, or when none is left.
    """
    kept, reasons = [], dict[str, int]()
    for image in ids:
        absent = [name for name, store in stores.items() if image not in store]
        if not absent:
            kept.append(image)
            continue
        outcome = stores[absent[0]].outcome(image)
        if outcome is None:
            missing = sum(image not in stores[absent[0]] for image in ids)
            raise DataError(
                f"Store {absent[0]!r} lacks {missing} of {len(ids)} images of split {split!r}, "
                f"{image!r} for one: they were never extracted. Run `precap extract` for this "
                f"dataset, or give the store that belongs to it."
            )
        key = f"{outcome.status}: {outcome.reason}"
        reasons[key] = reasons.get(key, 0) + 1
    if ids and not kept:
        raise DataError(
            f"None of the {len(ids)} images of split {split!r} has features: {reasons}."
        )
    return kept, reasons
