"""Export a store to another project's format: absent or complete, few rows in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precap import atomic, plugins
from precap.errors import ConfigError, DataError
from precap.store.exporters import formats
from precap.store.exporters.contract import Format
from precap.store.reader import Store, open_store
from precap.types import Features

Progress = Callable[[int, int], None]
_EVERY = 256


@dataclass(frozen=True)
class Report:
    """What was written. left_out: status and reason -> images of the store without features."""

    format: str
    store: Path
    out: Path
    images: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": self.format,
            "store": str(self.store),
            "out": str(self.out),
            "images": self.images,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.store} -> {self.out} ({self.format})",
            f"  {'images':<30}{self.images:>10,}",
        ]
        lines += [f"  {why:<30}{n:>10,}" for why, n in sorted(self.left_out.items())]
        return "\n".join([*lines, *self.notes])


def export(
    store: Path,
    out: Path,
    *,
    format: str,
    ids: Sequence[str] | None = None,
    view: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Write the images of ``store`` that have features to ``out``, which must not exist yet.

    format: a name from ``formats``, or "module:Class". ids: only these, in this order. view:
    which augmented version. Raises ConfigError when the format cannot hold the store's fields,
    DataError when it cannot hold its ids, ResourceError when the disk fails; nothing is left then.
    """
    out = Path(out)
    with atomic.explained(out, "write"):
        if out.exists():
            raise ConfigError(f"{out} exists already. Remove it, or choose another name.")
        if not out.parent.is_dir():
            raise ConfigError(f"There is no folder {out.parent}. Create it, or choose another.")
    kind = plugins.load(formats, format)
    source = open_store(store)
    chosen = list(source.ids if ids is None else ids)
    if not chosen:
        raise DataError(f"{store} has no images with features to export. Extract some first.")
    writer: Format = kind(source.spec, chosen)
    with atomic.replacing(out) as partial:
        writer.write(partial, lambda: _rows(source, chosen, view, progress))
    return Report(format, store, out, len(chosen), _left_out(source), _notes(format, chosen))


def _rows(
    source: Store, ids: Sequence[str], view: int, progress: Progress | None
) -> Iterator[tuple[str, Features]]:
    for done, image in enumerate(ids):
        if progress and done % _EVERY == 0:
            progress(done, len(ids))
        yield image, source.read(image, view)
    if progress:
        progress(len(ids), len(ids))


def _left_out(source: Store) -> dict[str, int]:
    counts = source.statuses()
    return {
        f"{status} {reason}".strip(): count
        for status in ("skipped", "failed")
        for reason, count in counts[status].items()
    }


def _notes(format: str, ids: Sequence[str]) -> tuple[str, ...]:
    odd = sum(not image.isdecimal() for image in ids)
    if format == "m2" and odd:
        return (
            f"{odd} ids are not whole numbers: M2's own reader looks for '%d_features' and will "
            f"not find them.",
        )
    return ()
