"""Import a foreign source into a store: index it, then read and commit it shard by shard."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import precap
from precap import atomic, plugins
from precap.errors import ConfigError, DataError, ImageError, PrecapError
from precap.store import plan, writer
from precap.store.datasets.dataset import Dataset
from precap.store.importers import layouts
from precap.store.importers.contract import Facts, Layout, Scan
from precap.store.importers.digest import digest
from precap.store.importers.names import names_of
from precap.types import Features, FeatureSpec, Field, Outcome

#: About how many bytes of features one shard holds, and how many images at most.
SHARD_BYTES = 48 << 20
SHARD_IMAGES = 512
REPORT = "import.json"
#: How many things in a folder of no layout are looked at to say which of them has one.
_LOOKED_AT = 16
_NARROWED = ("grid", "region", "global")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What became of a source. outcomes: status -> reason -> images; problems: reason -> rows."""

    layout: str
    source: Path
    out: Path
    images: int
    outcomes: Mapping[str, Mapping[str, int]]
    problems: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> int:
        """Images that have features."""
        return sum(self.outcomes.get("ok", {}).values())

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layout": self.layout,
            "source": str(self.source),
            "out": str(self.out),
            "images": self.images,
            "ok": self.ok,
            "outcomes": {status: dict(reasons) for status, reasons in self.outcomes.items()},
            "problems": dict(self.problems),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.source} ({self.layout}) -> {self.out}",
            f"{'images':<32}{self.images:>10,}",
        ]
        for status, reasons in self.outcomes.items():
            for reason, count in sorted(reasons.items()):
                lines.append(f"  {f'{status} {reason}'.strip():<30}{count:>10,}")
        lines += ["rows left out or noted"] if self.problems else []
        for reason, count in sorted(self.problems.items()):
            lines.append(f"  {reason:<30}{count:>10,}")
        if self.problems or self.ok < self.images:
            lines.append(f"each of them: {self.out / REPORT}")
        return "\n".join(lines)


def import_store(  # noqa: PLR0913 - the command line's options, by name
    source: Path,
    out: Path,
    *,
    format: str = "auto",
    ids: Mapping[str, str] | Dataset | Path | None = None,
    allow_pickle: bool = False,
    dtype: str | None = None,
    container: str = "hdf5",
    compression: str = "none",
    progress: Progress | None = None,
) -> Report:
    """Import ``source`` into the store ``out``; call it again to go on after an interruption.

    format: a name from ``layouts``, "module:Class", or "auto": decided by the content. ids: a
    mapping from the source's keys to image ids, or a dataset that knows the images' file names;
    its images that the source lacks are recorded as skipped("missing"). dtype: of grid, region
    and global features: float32, float16 or None, that of the source. container: hdf5 or zarr;
    compression: none, zstd or blosc: how the store keeps them.

    Every image ends as ok, skipped or failed with a reason; rows that belong to no image
    (duplicates, unreadable keys) are counted and listed in ``out/import.json``. Raises DataError
    for a source that is of no known layout, ConfigError for options that do not fit it.
    """
    source, out = Path(source), Path(out)
    _check_readable(source)
    name = find_layout(source) if format == "auto" else format
    scan = Scan(names_of(ids))
    try:
        with atomic.explained(source, "read"):
            reader: Layout = plugins.load(layouts, name)(source, allow_pickle)
            facts = reader.index(scan)
            spec = _spec(name, facts, dtype)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(
            f"{source} is not what the layout {name!r} is stored in ({error.strerror}). "
            f"Check the path, or name another layout."
        ) from error
    writer.create(
        out, spec, provenance=_provenance(source), format=container, compression=compression
    )
    missing = [i for i in scan.names.ids if i not in scan.found and i not in scan.failed]
    planned = [*scan.found, *scan.failed, *missing]
    plan.extend(out, planned, shard_size=_shard_size(facts))
    _note(out, name, source, scan)
    _fill(out, _Job(reader, scan, spec, frozenset(missing)), progress)
    return _report(name, source, out, scan)


def find_layout(source: Path) -> str:
    """The name of the one layout whose content ``source`` has; DataError for none or several."""
    _check_readable(source)
    if found := _layouts_of(source):
        if len(found) == 1:
            return found[0]
        raise DataError(f"{source} could be {' or '.join(found)}. Say which: --format NAME.")
    raise DataError(
        f"{source} is of no layout that precap knows. {_inside(source)} "
        f"Layouts: {', '.join(plugins.names(layouts))}."
    )


def _layouts_of(source: Path) -> list[str]:
    return [name for name in plugins.names(layouts) if _detected(name, source)]


def _inside(folder: Path) -> str:
    """What in the folder would do instead, as far as the first things in it tell."""
    if (folder / "store.json").is_file():
        return "It is a feature store already: use it as it is, or precap store merge."
    entries = sorted(folder.iterdir())[:_LOOKED_AT] if folder.is_dir() else []
    known = {path: names[0] for path in entries if (names := _layouts_of(path))}
    if not known:
        return "Name the layout, or give the file or folder inside that holds the features."
    found = ", ".join(f"{path} ({name})" for path, name in list(known.items())[:3])
    return f"Give one of the things inside that are of one: {found}."


def _check_readable(source: Path) -> None:
    try:
        with atomic.explained(source, "read"):
            next(source.iterdir(), None) if source.is_dir() else source.open("rb").close()
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {source}. Check the path.") from error


def _detected(name: str, source: Path) -> bool:
    try:
        return bool(plugins.load(layouts, name).detect(source))
    except ImageError:  # damage where detection looked
        return False
    except PrecapError:  # says what is wrong with the file better than "no known layout"
        raise
    except (OSError, RuntimeError, ValueError, LookupError):  # the same
        return False


def _spec(name: str, facts: Facts, dtype: str | None) -> FeatureSpec:
    if dtype not in (None, "float32", "float16"):
        raise ConfigError(f"dtype {dtype!r} is neither float32 nor float16.")
    fields = tuple(
        replace(f, dtype=dtype) if dtype and f.role in _NARROWED else f for f in facts.fields
    )
    return FeatureSpec(
        extractor=f"import-{name}",
        version=1,
        weights=digest(facts.files),
        fields=fields,
        config=dict(facts.config),
        decode="none",
    )


def _provenance(source: Path) -> dict[str, Any]:
    return {"source": str(source.resolve()), "precap": precap.__version__}


def _shard_size(facts: Facts) -> int:
    return max(1, min(SHARD_IMAGES, SHARD_BYTES // max(1, facts.row_bytes)))


def _note(out: Path, name: str, source: Path, scan: Scan) -> None:
    """Keep every problem of the source on record, beside the store's own files."""
    values = {
        "layout": name,
        "source": str(source.resolve()),
        "counts": dict(scan.counts),
        "problems": [[p.reason, p.where, p.key, p.detail] for p in scan.problems],
        "failed": {image: [p.reason, p.where, p.detail] for image, p in scan.failed.items()},
    }
    atomic.write_text(out / REPORT, json.dumps(values, indent=1) + "\n")


@dataclass(frozen=True)
class _Job:
    reader: Layout
    scan: Scan
    spec: FeatureSpec
    missing: frozenset[str]

    def outcomes(self, ids: Sequence[str]) -> Iterator[tuple[Outcome, Features | None]]:
        """What becomes of each image, with its arrays when that is ok."""
        for image in ids:
            try:
                if problem := self.scan.failed.get(image):
                    raise ImageError(problem.reason, f"{problem.where}: {problem.detail}")
                if image not in self.scan.found:
                    raise ImageError("missing", "not in the source", skipped=True)
                row = fitted(self.reader.read(self.scan.found[image]), self.spec)
            except ImageError as error:
                status = "skipped" if error.skipped else "failed"
                yield Outcome(image, status, error.reason, error.detail), None  # type: ignore[arg-type]
            else:
                yield Outcome(image, "ok"), row


def _fill(out: Path, job: _Job, progress: Progress | None) -> None:
    with writer.Writer(out) as store:
        shards = store.remaining()
        for done, shard in enumerate(shards):
            if progress:
                progress(done, len(shards))
            if not store.claim(shard):
                continue
            results = list(job.outcomes(store.ids(shard)))
            rows = {outcome.id: row for outcome, row in results if row is not None}
            store.commit(shard, [outcome for outcome, _ in results], rows)
        if progress:
            progress(len(shards), len(shards))


def fitted(row: Features, spec: FeatureSpec) -> Features:
    """The arrays that ``spec`` declares, in shapes it allows; ImageError for others.

    An empty array of any shape stands for no rows: some sources write an image without boxes so.
    """
    return {field.name: _fit(row, field) for field in spec.fields}


def _fit(row: Features, field: Field) -> Any:
    if field.name not in row:
        raise ImageError("missing-array", field.name)
    array = np.asarray(row[field.name])
    if field.ragged and array.size == 0:
        return np.empty((0, *(side or 0 for side in field.shape[1:])), field.dtype)
    lead = 1 if field.ragged else 0
    if array.ndim != len(field.shape) or array.shape[lead:] != field.shape[lead:]:
        shape = list(array.shape)
        raise ImageError("wrong-shape", f"{field.name} is {shape}, not {list(field.shape)}")
    kinds = "f" if np.dtype(field.dtype).kind == "f" else "iub"
    if array.dtype.kind not in kinds or (field.dtype == "bool") != (array.dtype.kind == "b"):
        raise ImageError("wrong-shape", f"{field.name} is {array.dtype}, not {field.dtype}")
    return array


def _report(name: str, source: Path, out: Path, scan: Scan) -> Report:
    from precap.store.reader import open_store

    store = open_store(out)
    counts = {status: Counter(reasons) for status, reasons in store.statuses().items()}
    total = sum(sum(reasons.values()) for reasons in counts.values())
    return Report(name, source, out, total, counts, dict(scan.counts))
