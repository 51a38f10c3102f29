"""What stores there are and what is in them: ``ls``, ``info``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.atomic import explained
from precap.errors import ConfigError, ResourceError, StoreError
from precap.store import identity
from precap.store.ledger import Ledger
from precap.store.plan import Plan
from precap.store.reader import Store, open_store

_SAMPLE = 512


@dataclass(frozen=True)
class Info:
    """Everything ``precap store info`` shows.

    statuses: status -> reason -> images; lengths: ragged field -> rows per image -> images;
    values: float field -> min, max, mean, std, zeros (share), of ``sampled`` images evenly spread.
    """

    path: str
    spec: Mapping[str, Any]
    fingerprint: str
    format: str
    compression: str
    provenance: Mapping[str, Any]
    planned: int
    statuses: Mapping[str, Mapping[str, int]]
    shards: int
    remaining: int
    bytes: int
    seconds: float
    lengths: Mapping[str, Mapping[int, int]]
    values: Mapping[str, Mapping[str, float]]
    sampled: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:14}{value}" for name, value in _lines(self))


def info(path: Path) -> Info:
    """Look into the store at ``path``: reads the ledger, the lengths, and a sample of rows."""
    store = open_store(path)
    ledger = Ledger(path)
    plan = Plan(path)
    records = ledger.records.values()
    sample = [
        store.ids[n] for n in np.linspace(0, len(store) - 1, min(_SAMPLE, len(store)), dtype=int)
    ]
    return Info(
        path=str(path),
        spec=store.spec.as_json(),
        fingerprint=store.spec.fingerprint,
        format=store.identity.format,
        compression=store.identity.compression,
        provenance=dict(store.identity.provenance or {}),
        planned=plan.planned,
        statuses=store.statuses(),
        shards=len(ledger.records),
        remaining=plan.shards - len(ledger.records),
        bytes=sum(record.bytes for record in records),
        seconds=round(sum(record.seconds for record in records), 1),
        lengths={f.name: _histogram(store.lengths(f.name)) for f in store.spec.fields if f.ragged},
        values=_statistics(store, sample),
        sampled=len(sample),
    )


@dataclass(frozen=True)
class Listing:
    """One row per store below a folder."""

    rows: Sequence[Mapping[str, Any]]

    def as_json(self) -> list[Mapping[str, Any]]:
        """Plain JSON values."""
        return list(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "no stores"
        return "\n".join(
            f"{row['name']:30} {row['extractor']:14} {row['images']:>9} images "
            f"{row['bytes'] / 1e6:>10.1f} MB  {row['state']}"
            for row in self.rows
        )


def ls(folder: Path) -> Listing:
    """The stores directly below ``folder`` (or ``folder`` itself), damaged ones included.

    Hidden folders are what interrupted commands left. ConfigError when there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Name the folder that the stores are in.")
    with explained(folder, "read"):
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [folder, *inside]
    return Listing([_row(path) for path in found if (path / "store.json").is_file()])


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": path.name, "extractor": "?", "images": 0, "bytes": 0}
    try:
        mine, plan, ledger = identity.load(path), Plan(path), Ledger(path)
    except StoreError as error:
        return {**row, "state": f"damaged: {error}"}
    except ResourceError as error:
        return {**row, "state": f"unreadable: {error}"}
    records = ledger.records.values()
    remaining = plan.shards - len(records)
    state = f"{remaining} of {plan.shards} shards remain" if remaining else "complete"
    if any(not bad.torn for bad in ledger.bad):
        state = "damaged: run `precap store verify`"
    images = sum(record.ok for record in records)
    size = sum(record.bytes for record in records)
    return {
        **row,
        "extractor": mine.spec.extractor,
        "images": images,
        "bytes": size,
        "state": state,
    }


def _histogram(lengths: NDArray[np.int64]) -> dict[int, int]:
    values, counts = np.unique(lengths, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _statistics(store: Store, sample: list[str]) -> dict[str, dict[str, float]]:
    floats = [f.name for f in store.spec.fields if f.dtype in ("float32", "float16", "int8")]
    found: dict[str, dict[str, float]] = {}
    for name in floats:
        parts = [store.read_many([i], fields=[name])[name].array.ravel() for i in sample]
        values = np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32)
        if values.size:
            found[name] = {
                "min": float(values.min()),
                "max": float(values.max()),
                "mean": float(values.mean(dtype=np.float64)),
                "std": float(values.std(dtype=np.float64)),
                "zeros": float((values == 0).mean()),
            }
    return found


def _lines(shown: Info) -> list[tuple[str, str]]:
    spec = shown.spec
    images = sum(shown.statuses["ok"].values())
    lines = [
        ("store", shown.path),
        ("extractor", f"{spec['extractor']} v{spec['version']}, weights {spec['weights']}"),
        ("fingerprint", shown.fingerprint),
        ("format", f"{shown.format}, compression {shown.compression}"),
        ("compute", f"{spec['compute']}, decode {spec['decode']}, views {spec['views']}"),
        ("config", str(spec["config"])),
        ("preprocess", str(spec["preprocess"])),
        ("shards", f"{shown.shards} committed, {shown.remaining} remain"),
        (
            "size",
            f"{shown.bytes / 1e6:.1f} MB, {shown.bytes / max(1, images) / 1e3:.1f} kB per image",
        ),
        ("time", f"{shown.seconds} s of work"),
    ]
    lines += [
        ("field", f"{f['name']} ({f['role']}) {f['dtype']}{f['shape']}") for f in spec["fields"]
    ]
    lines += [
        (status, f"{count} {reason}".strip())
        for status, reasons in shown.statuses.items()
        for reason, count in reasons.items()
    ]
    lines += [(f"rows {name}", _bars(counts)) for name, counts in shown.lengths.items()]
    lines += [
        (f"values {name}", " ".join(f"{key} {value:.4g}" for key, value in values.items()))
        for name, values in shown.values.items()
    ]
    return lines + [(key, str(value)) for key, value in sorted(shown.provenance.items())]


def _bars(counts: Mapping[int, int]) -> str:
    """A histogram in at most eight bins: from-to: images."""
    if not counts:
        return "no images"
    low, high = min(counts), max(counts)
    width = (high - low) // 8 + 1
    bins = [(start, min(start + width - 1, high)) for start in range(low, high + 1, width)]
    return ", ".join(
        f"{a}-{b}: {sum(counts.get(n, 0) for n in range(a, b + 1))}"
        if a < b
        else f"{a}: {counts.get(a, 0)}"
        for a, b in bins
    )
