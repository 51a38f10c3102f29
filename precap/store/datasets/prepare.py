"""From any supported annotation layout to the normal form: detect, read, check, write, report."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precap import atomic, plugins
from precap.errors import ConfigError, DataError
from precap.store.datasets import formats, splits
from precap.store.datasets.contract import Document, Entry, Format
from precap.store.datasets.dataset import Item, write
from precap.store.datasets.normal import normalise
from precap.store.datasets.paths import Disk, is_image
from precap.store.datasets.problems import Problems, Report
from precap.store.datasets.sources import documents
from precap.store.datasets.splits import settle


def prepare(
    source: Path,
    out: Path,
    *,
    format: str = "auto",
    images: Path | None = None,
    splits: Path | None = None,
    captions: Path | None = None,
    name: str | None = None,
) -> Report:
    """Write the dataset at ``source`` to the folder ``out`` in the normal form; say what was odd.

    source: an annotation file, or a folder of them, or a folder of pictures. format: a file name in
    ``precap.store.datasets.formats``, ``module:Class``, or "auto" (by content). images: the image
    root, otherwise looked for near the source. splits: a folder of split lists or one file.
    captions: CSV or JSONL with the captions of a plain folder. Raises ConfigError for what cannot
    be told apart or is not there, DataError for a file that cannot be read.
    """
    source, out = Path(source).absolute(), Path(out).absolute()
    for given, option in ((source, "the source"), (images, "--images"), (captions, "--captions")):
        if given is not None and not given.exists():
            raise ConfigError(f"There is nothing at {given}. Check {option}.")
    problems = Problems()
    known, found = documents(source, format, images, captions, problems)
    entries = _read(known, found, splits, problems)
    read = {
        "images": len(entries) + problems.images_out,
        "captions": sum(len(e.captions) for e in entries) + problems.captions_out,
    }
    disk = Disk(images or _image_root(found[0].path, entries))
    items = normalise(entries, disk, problems, captioned=known.captioned)
    if not items:
        raise DataError(f"No image of {source} can be used: {dict(_counts(problems))}.")
    _note_unlisted(items, disk, problems)
    label = format if format != "auto" else type(known).__module__.rpartition(".")[2]
    return _written(out, name or _name(source), label, items, disk.root, read, problems)


def keep(entries: Sequence[Entry], out: Path, images: Path, *, name: str, format: str) -> Report:
    """``prepare`` for entries that are already read: checked, and written to the folder ``out``."""
    if not images.is_dir():
        raise ConfigError(f"There is no folder {images}. Check --images.")
    problems = Problems()
    read = {"images": len(entries), "captions": sum(len(entry.captions) for entry in entries)}
    disk = Disk(images.absolute())
    items = normalise(settle(entries, None, problems), disk, problems, captioned=True)
    if not items:
        raise DataError(f"No image of {name} can be used: {dict(_counts(problems))}.")
    return _written(out.absolute(), name, format, items, disk.root, read, problems)


def _read(
    known: Format, found: Sequence[Document], lists: Path | None, problems: Problems
) -> list[Entry]:
    entries: list[Entry] = []
    for document in found:
        new = known.read(document, problems)
        default = splits.named_in(document.path.stem) if document.path.is_file() else None
        entries += [e if e.split else e._replace(split=default) for e in new]
    if lists is None and known.listed:
        lists = splits.beside(found[0].path)
    if lists is not None:
        entries = splits.assign(entries, splits.read_lists(lists, problems), problems)
    return settle(entries, None, problems)


def _image_root(path: Path, entries: Sequence[Entry]) -> Path:
    """The folder near the annotations where most of a sample of the listed files lie."""
    if path.is_dir():
        return path
    base = path.parent
    near = [base / "images", base / "Images", base, base.parent / "images", base.parent]
    sample = [e for e in entries[:: max(1, len(entries) // 40)] if isinstance(e.file, str)]
    candidates = [folder for folder in near if folder.is_dir()]
    return max(candidates, key=lambda folder: _score(Disk(folder), sample))


def _score(disk: Disk, sample: Sequence[Entry]) -> int:
    names = ((e.file, *e.others) for e in sample if not e.file.startswith(("/", "\\")))
    return sum(
        any("\0" not in n and (disk.look(n) == "there" or disk.elsewhere(n)) for n in some)
        for some in names
    )


def _note_unlisted(items: Sequence[Item], disk: Disk, problems: Problems) -> None:
    listed = {item.file for item in items}
    for folder in sorted({file.rpartition("/")[0] for file in listed}):
        for name in disk.names(folder):
            file = f"{folder}/{name}" if folder else name
            if file not in listed and is_image(name):
                problems.add("unlisted_image", file)


def _written(
    out: Path,
    name: str,
    format: str,
    items: Sequence[Item],
    root: Path,
    read: dict[str, int],
    problems: Problems,
) -> Report:
    resolved = out.resolve()
    within = root.is_relative_to(resolved)
    with atomic.explained(out, "write"):
        header: dict[str, Any] = {
            "name": name,
            "format": format,
            # relative when the pictures lie in the dataset's folder, so that it can be moved
            "image_root": root.relative_to(resolved).as_posix() if within else str(root),
            "read": read,
            "problems": problems.found,
        }
        write(out, items, header)
    captions: Counter[str] = Counter()
    for item in items:
        captions[item.split] += len(item.captions)
    images = dict(Counter(item.split for item in items))
    return Report(name, format, out, root, images, dict(captions), read, problems.found)


def _name(source: Path) -> str:
    generic = source.stem in ("captions", "annotations", "metadata", "dataset", "images", "text")
    return (source.parent.name if generic else source.stem) or "dataset"


def _counts(problems: Problems) -> dict[str, int]:
    return {kind: entry["count"] for kind, entry in problems.found.items()}


def known_formats() -> list[str]:
    """The names that ``format`` takes."""
    return plugins.names(formats)
