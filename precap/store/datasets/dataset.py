"""The normal form of a captioned picture set: a folder with dataset.json and images.jsonl."""

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import precap
from precap import atomic
from precap.errors import ConfigError, DataError
from precap.plugins import guess
from precap.store.datasets.paths import refusal
from precap.types import ImageRef

HEADER, LINES = "dataset.json", "images.jsonl"


class Item(NamedTuple):
    """One image: its id, its path below the image root, its split, its captions, its domain."""

    id: str
    file: str
    split: str
    captions: list[str]
    domain: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A prepared picture set. ``root``: the absolute image root; ``path``: the dataset's folder."""

    name: str
    root: Path
    items: Sequence[Item]
    path: Path | None = None
    format: str = ""

    @cached_property
    def splits(self) -> dict[str, int]:
        """Split name -> number of images, in the order in which the splits appear."""
        return dict(Counter(item.split for item in self.items))

    def images(self, split: str | None = None) -> list[ImageRef]:
        """The images of one split, or of all, in file order; the files need not exist."""
        return [ImageRef(item.id, self.root / item.file) for item in self._of(split)]

    def captions(self, split: str | None = None) -> dict[str, list[str]]:
        """Image id -> its captions (possibly none) for one split, or for all."""
        return {item.id: item.captions for item in self._of(split)}

    def ids(self, split: str | None = None) -> list[str]:
        """The image ids of one split, or of all, in file order."""
        return [item.id for item in self._of(split)]

    def domains(self) -> dict[str, list[str]]:
        """Domain -> image ids (nocaps: in-domain, near-domain, out-domain); empty without any."""
        found: dict[str, list[str]] = {}
        for item in self.items:
            if item.domain is not None:
                found.setdefault(item.domain, []).append(item.id)
        return found

    def _of(self, split: str | None) -> Sequence[Item]:
        if split is None:
            return self.items
        if split not in self.splits:
            raise ConfigError(
                f"The dataset {self.name!r} has no split {split!r}.{guess(split, [*self.splits])}"
            )
        return [item for item in self.items if item.split == split]


def load(path: Path | str) -> Dataset:
    """Open the dataset folder ``path``; ConfigError for none, DataError for a damaged one."""
    path = Path(path).absolute()
    header = _read_header(path)
    with _no_collection():
        items = [_item(values, n, path) for n, values in enumerate(_read_lines(path), 1)]
    if len(items) != header["images"]:
        raise DataError(
            f"{path / LINES} has {len(items)} images, {HEADER} says {header['images']}: the file "
            f"is cut short or was edited. Prepare the dataset again, or correct 'images' there."
        )
    repeated = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise DataError(f"{path / LINES}: the id {repeated[0]!r} is there twice. Correct one.")
    root = path / header["image_root"]  # an absolute root replaces the folder
    return Dataset(header["name"], root, items, path, header.get("format", ""))


def write(path: Path, items: Iterable[Item], header: Mapping[str, Any]) -> None:
    """Write the normal form to the folder ``path``; ``dataset.json`` last, so it marks completion.

    ``header``: name, format, image_root and whatever else should be on record; counts are added.
    """
    items = list(items)
    path.mkdir(parents=True, exist_ok=True)
    (path / HEADER).unlink(missing_ok=True)
    atomic.write_text(path / LINES, "".join(map(_line, items)))
    counts = {
        "images": len(items),
        "captions": sum(len(item.captions) for item in items),
        "splits": dict(Counter(item.split for item in items)),
    }
    values = {**header, **counts, "precap": precap.__version__}
    atomic.write_text(path / HEADER, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _line(item: Item) -> str:
    values = {key: value for key, value in item._asdict().items() if value is not None}
    text = json.dumps(values, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name that is not valid UTF-8 on disk
            text = json.dumps(values)
    return text + "\n"


def _read_header(path: Path) -> dict[str, Any]:
    file = path / HEADER
    try:
        header = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        begun = (path / LINES).exists()  # the header is written last
        raise (DataError if begun else ConfigError)(
            f"{path} is not a prepared dataset: there is no {HEADER}. "
            f"Make one with `precap data prepare SOURCE --out {path}`."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}. Prepare the dataset again.") from error
    wanted = {"name": str, "image_root": str, "images": int}
    for key, kind in wanted.items():
        if not isinstance(header, dict) or not isinstance(header.get(key), kind):
            raise DataError(f"{file} lacks {key!r}. Prepare the dataset again.")
    return dict(header)


def _read_lines(path: Path) -> list[Any]:
    file = path / LINES
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing. Prepare the dataset again.") from error
    lines = [line for line in lines if line.strip()]
    try:  # one call is three times faster than one per line
        values: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        values = []
    return values if len(values) == len(lines) else [_parse(line, file) for line in lines]


def _parse(line: bytes, file: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line[:80].decode("utf-8", "replace")
        raise DataError(f"{file}: not JSON: {shown!r} ({error}). Prepare it again.") from error


def _item(values: Any, number: int, path: Path) -> Item:
    try:
        item = Item(
            values["id"], values["file"], values["split"], values["captions"], values.get("domain")
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path / LINES}, image {number}: lacks {error}. Add it.") from error
    if not (type(item.id) is type(item.file) is type(item.split) is str and _texts(item.captions)):
        raise DataError(
            f"{path / LINES}, image {number}: id, file and split must be strings, captions a list "
            f"of strings. Correct the line."
        )
    why = refusal(item.file)
    if why:
        raise DataError(f"{path / LINES}, image {number}: the path {item.file!r} is {why}.")
    return item


def _texts(captions: Any) -> bool:
    return type(captions) is list and set(map(type, captions)) <= {str}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of small live objects make the collector walk them again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
