"""VinVL for Oscar's captioning: SPLIT.feature.tsv (key, JSON), SPLIT.label.tsv, SPLIT.hw.tsv."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from precap.errors import DataError, ImageError
from precap.store.importers import tsv, vinvl
from precap.store.importers.contract import Facts, Scan
from precap.types import Features, Field


@dataclass(frozen=True, slots=True)
class _Split:
    features: Path
    labels: Path | None
    sizes: Path | None


class _At(NamedTuple):
    features: tsv.At
    labels: tsv.At | None
    size: NDArray[Any] | None


class VinvlOscar:
    """Features with the six geometric numbers; boxes are made from those, never from the labels.

    Label rows may come from another detector run and differ in number from the feature rows, so
    they become the field "labels" with its own length. A folder is read through its YAML files.
    """

    summary: ClassVar[str] = "VinVL for Oscar: *.feature.tsv with .label.tsv and .hw.tsv"

    def __init__(self, source: Path, allow_pickle: bool = False) -> None:
        self._splits = _splits(source)
        self._features = [s.features for s in self._splits]
        self._labels = [s.labels for s in self._splits if s.labels]
        self._sizes = [s.sizes for s in self._splits if s.sizes]
        self._files = [*self._features, *self._labels]
        self._sized = len(self._sizes) == len(self._splits)
        self._labelled = len(self._labels) == len(self._splits)
        self._packing: vinvl.Packing | None = None
        self._names: dict[str, int] = {}

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether rows of key, JSON with "features" are there."""
        files = tsv.files_of(source, has_features)
        return any(map(has_features, files))

    def index(self, scan: Scan) -> Facts:
        """One pass over labels and sizes, one over the features."""
        names = vinvl.Names()
        labels = self._index_labels(scan, names) if self._labelled else {}
        sizes: dict[str, NDArray[Any]] = {}
        for path in self._sizes if self._sized else []:
            sizes.update(vinvl.sizes(path, scan))
        longest = 0
        for line, key, value in vinvl.json_rows(self._features, scan):
            where = line.where(self._features)
            try:
                self._check(value)
                if self._sized and key not in sizes:
                    raise ImageError("missing-size", "no row with this key in the .hw.tsv")
            except ImageError as error:
                scan.damage(key, where, error.reason, error.detail)
                continue
            longest = max(longest, line.at.length)
            scan.add(key, _At(line.at, labels.get(key), sizes.get(key)), where)
        return self._facts(names.table(), longest)

    def read(self, at: _At) -> Features:
        """region (n, d), boxes (n, 4), and size and labels (m,) where the source has them."""
        assert self._packing is not None  # index() came first
        rows, text = _packed(tsv.parse(tsv.row(self._files, at.features)[1], "features"))
        region, tail = self._packing.split(text, rows)
        found: dict[str, NDArray[Any]] = {"region": region}
        if self._packing.tail and at.size is not None:
            found["boxes"] = vinvl.pixel_boxes(tail, at.size)
        elif self._packing.tail:
            found["boxes"] = vinvl.relative_boxes(tail)
        if at.size is not None:
            found["size"] = at.size
        if self._labelled:
            found["labels"] = self._read_labels(at.labels)
        return found

    def _index_labels(self, scan: Scan, names: vinvl.Names) -> dict[str, tsv.At]:
        labels: dict[str, tsv.At] = {}
        for line, key, value in vinvl.json_rows(self._labels, scan):
            try:
                names.add(o.get("class") for o in vinvl.objects_of(value))
            except ImageError as error:
                scan.damage(key, line.where(self._labels), error.reason, error.detail)
                continue
            at = line.at._replace(file=line.at.file + len(self._features))
            labels.setdefault(key, at)
        return labels

    def _read_labels(self, at: tsv.At | None) -> NDArray[Any]:
        if at is None:
            return np.empty(0, np.int64)
        objects = vinvl.objects_of(tsv.parse(tsv.row(self._files, at)[1], "labels"))
        return vinvl.look_up(self._names, (o["class"] for o in objects))

    def _check(self, value: Any) -> None:
        rows, text = _packed(value)
        width = tsv.rows_of(text, rows, "uint8", "features")
        if rows and self._packing is None:
            self._packing = vinvl.packing(text, rows)
        packing = self._packing
        if packing and width and width != packing.width * np.dtype(packing.dtype).itemsize:
            raise ImageError("wrong-size", f"{width} bytes per box, {packing.width} numbers meant")

    def _facts(self, names: list[str], longest: int) -> Facts:
        if self._packing is None:
            raise DataError(f"{self._files[0]} has no row with a box. Check that it is complete.")
        self._names = {name: number for number, name in enumerate(names)}
        dtype = self._packing.dtype
        fields = [Field("region", "region", (None, self._packing.dim), dtype)]
        config: dict[str, Any] = {"nms_filter": "unknown"}
        if self._packing.tail:
            config["boxes"] = "pixels" if self._sized else "relative"
            kept = "float32" if self._sized else dtype
            fields.append(Field("boxes", "boxes", (None, 4), kept))
        if self._sized:
            fields.append(Field("size", "size", (2,), "int64"))
        if self._labelled:
            config["labels"] = names
            fields.append(Field("labels", "classes", (None,), "int64"))
        return Facts(tuple(fields), config, [*self._files, *self._sizes], longest)


def _packed(value: Any) -> tuple[int, str]:
    """Box count and base64 text of a feature row."""
    rows, text = (value.get(k) if isinstance(value, dict) else None for k in _KEYS)
    if type(rows) is not int or not 0 <= rows < 10**6 or not isinstance(text, str):
        raise ImageError("wrong-size", f"a row with num_boxes = {ascii(rows)[:40]}")
    if not text.isascii():
        raise ImageError("damaged", "features are not base64")
    return rows, text


_KEYS = ("num_boxes", "features")


def _splits(source: Path) -> list[_Split]:
    if not source.is_dir():
        return [_beside(path) for path in tsv.checked([source], source, "vinvl_oscar")]
    described = [s for path in sorted(source.glob("*.yaml")) if (s := _described(path))]
    files = [] if described else tsv.files_of(source, has_features)
    return described or [_beside(p) for p in tsv.checked(files, source, "vinvl_oscar")]


def _described(path: Path) -> _Split | None:
    """The files that SPLIT.yaml names; they must lie in its own folder."""
    if path.stat().st_size > 1 << 20:
        return None
    try:
        names = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(names, dict) or not isinstance(names.get("feature"), str):
        return None
    features = _inside(path.parent, names["feature"])
    found = {k: _inside(path.parent, names[k]) for k in ("label", "hw") if _named(names, k)}
    return _Split(features, found.get("label"), found.get("hw"))


def _named(names: dict[str, Any], kind: str) -> bool:
    return isinstance(names.get(kind), str)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise DataError(
            f"A YAML file in {folder} names {name!r}, which is no file in that folder. "
            f"Correct the YAML, or give the feature file itself."
        )
    return path


def _beside(features: Path) -> _Split:
    """The label and size files of a feature file: same first part of the name."""
    stem = features.name.split(".feature")[0]
    labels, sizes = (features.with_name(f"{stem}.{kind}.tsv") for kind in ("label", "hw"))
    return _Split(
        features, labels if labels.is_file() else None, sizes if sizes.is_file() else None
    )


def has_features(path: Path) -> bool:
    """Whether rows are key, JSON with packed features."""
    return any(
        len(cells) == 2 and b'"features"' in cells[1] and cells[1].lstrip()[:1] == b"{"
        for cells in tsv.head(path)
    )


PLUGIN = VinvlOscar
