"""Find the annotation documents that a path means, and the format they are in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precap import plugins
from precap.errors import ConfigError, DataError
from precap.store.datasets import formats
from precap.store.datasets.contract import Document, Format
from precap.store.datasets.encoding import read_json, read_text
from precap.store.datasets.problems import Problems
from precap.store.datasets.splits import is_list

#: A table of one of these names holds the captions of the pictures in its folder.
CAPTIONS = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
READABLE = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token")
# Ours, and COCO's other annotations, which may have a gigabyte.
_NEVER = ("dataset.json", "images.jsonl", "instances_", "person_keypoints_", "stuff_", "panoptic_")


def documents(
    source: Path,
    format: str,
    images: Path | None,
    captions: Path | None,
    problems: Problems,
) -> tuple[Format, list[Document]]:
    """The format and the documents in it; ConfigError lists what else there is."""
    if source.is_file():
        document = open_document(source, images, problems)
        return _format_of(document, format), [document]
    folder = Document(source, None, images, captions)
    if captions is not None or format == "folder":
        return _load("folder"), [folder]
    return _in_folder(folder, format, problems)


def open_document(path: Path, images: Path | None, problems: Problems) -> Document:
    """A file read as JSON if it is JSON, else as text."""
    if path.suffix == ".json":
        return Document(path, read_json(path, problems), images)
    text = read_text(path, problems)
    return Document(path, _json_or_text(text), images)


def detect(document: Document) -> str | None:
    """The name of the format of a document, by its content; None when no format knows it."""
    found = [name for name in plugins.names(formats) if _load(name).matches(document)]
    if len(found) > 1:
        raise ConfigError(
            f"{document.path} could be {' or '.join(found)}. Say which with --format."
        )
    return found[0] if found else None


def _format_of(document: Document, format: str) -> Format:
    if format != "auto":
        known = _load(format)
        if not known.matches(document):
            hint = detect(document)
            raise DataError(
                f"{document.path} is not in the format {format!r}"
                + (f"; it looks like {hint!r}. Try --format {hint}." if hint else ".")
            )
        return known
    name = detect(document)
    if name is None:
        raise DataError(
            f"{document.path}: its layout is none of {', '.join(plugins.names(formats))}. "
            f"docs/data.md shows each; --format names one."
        )
    return _load(name)


def _in_folder(folder: Document, format: str, problems: Problems) -> tuple[Format, list[Document]]:
    by_format: dict[str, list[Document]] = {}
    unread: list[str] = []
    for path in _candidates(folder.path):
        seen = Problems()
        document = open_document(path, folder.images, seen)
        if name := _name_of(document, format):
            by_format.setdefault(name, []).append(document)
            problems.absorb(seen)
        elif not is_list(path):
            unread.append(path.name)
    if len(by_format) > 1:
        shown = "; ".join(f"{n}: {d[0].path.name}" for n, d in by_format.items())
        raise ConfigError(
            f"{folder.path} holds annotations of several formats ({shown}). "
            f"Name the file to read, or say --format."
        )
    if not by_format and format != "auto":
        raise DataError(f"No file in {folder.path} is in the format {format!r}. Name the file.")
    for name in unread:
        if by_format or name not in CAPTIONS:
            problems.add("file_not_read", name)
    for name, found in by_format.items():
        return _load(name), _without_variants(found, problems)
    return _load("folder"), [folder]


def _name_of(document: Document, format: str) -> str | None:
    if format == "auto":
        return None if document.path.name in CAPTIONS else detect(document)
    return format if _load(format).matches(document) else None


def _candidates(folder: Path) -> list[Path]:
    files = [f for f in sorted(folder.iterdir()) if f.suffix in READABLE and f.is_file()]
    return [file for file in files if not file.name.startswith(_NEVER)]


def _without_variants(found: Sequence[Document], problems: Problems) -> list[Document]:
    """Flickr8k ships its captions a second time as lemmas: not captions that anyone wrote."""
    plain = [document for document in found if ".lemma." not in document.path.name]
    if plain and len(plain) < len(found):
        for document in found:
            if document not in plain:
                problems.add("file_not_read", document.path.name)
        return plain
    return list(found)


def _load(name: str) -> Format:
    known: Format = plugins.load(formats, name)()
    return known


def _json_or_text(text: str) -> Any:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
