"""CSV or JSONL: one caption, or one image, per row, under the column names that people use."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.problems import Problems

_FILE = ("file", "image", "filename", "file_name", "image_name", "path", "filepath")
_CAPTION = ("caption", "comment", "text", "sentence")
_ID = ("id", "image_id")


class Table:
    """A header with a file column and, mostly, a caption column; rows of one file are joined.

    Delimiters: comma, tab, semicolon, ``|``. Further columns: split, id or image_id, domain.
    JSONL rows may hold a list under ``captions``.
    """

    captioned, listed = True, True

    def matches(self, document: Document) -> bool:
        """Text whose first row names a file and captions."""
        if isinstance(document.value, dict):  # a JSONL file of one line is also JSON
            return document.path.suffix == ".jsonl" and _is_row(document.value)
        if not isinstance(document.value, str):
            return False
        for row in rows(document.value, document.path.name, Problems()):
            return _is_row(row)
        return False

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per file, in the order of first mention."""
        if isinstance(document.value, dict):
            found: Iterator[dict[str, Any]] = iter([document.value])
        else:
            found = rows(document.value, document.path.name, problems)
        yield from joined(found, document.path.name, problems)


def rows(text: str, where: str, problems: Problems) -> Iterator[dict[str, Any]]:
    """Rows as mappings with lower-case keys: JSON objects, or CSV under its header."""
    if text.lstrip()[:1] == "{":
        yield from _jsonl(text, where, problems)
        return
    header = text.lstrip("\n").split("\n", 1)[0]
    delimiter = max(",\t;|", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        keys = [key.strip().lower() for key in next(reader, [])]
        for values in reader:
            if values:
                yield _row(keys, values, delimiter)
    except csv.Error as error:
        problems.add("malformed", f"{where}:{reader.line_num}: {error}", images=1)


def joined(found: Iterator[dict[str, Any]], where: str, problems: Problems) -> Iterator[Entry]:
    """Entries from rows: the captions of one file together."""
    entries: dict[str, Entry] = {}
    for row in found:
        file = _pick(row, _FILE)
        if not isinstance(file, str) or not file.strip():
            problems.add("malformed", f"{where}: {row!r}", images=1)
            continue
        captions = _captions(row)
        file = file.strip()
        if file in entries:
            entries[file].captions.extend(captions)  # type: ignore[attr-defined]
        else:
            id, split = _pick(row, _ID), row.get("split") or None
            entries[file] = Entry(file, id or None, split, captions, row.get("domain") or None)
    yield from entries.values()


def _jsonl(text: str, where: str, problems: Problems) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add("malformed", f"{where}:{number}: {error}", images=1)
            continue
        if isinstance(row, dict):
            yield row
        else:
            problems.add("malformed", f"{where}:{number}: {row!r}", images=1)


def _row(keys: list[str], values: list[str], delimiter: str) -> dict[str, Any]:
    if len(values) > len(keys):  # an unquoted delimiter inside the last column, the caption
        values = [*values[: len(keys) - 1], delimiter.join(values[len(keys) - 1 :])]
    return dict(zip(keys, values, strict=False))


def _is_row(row: dict[str, Any]) -> bool:
    return _pick(row, _FILE) is not None and any(k in row for k in ("captions", *_CAPTION))


def _captions(row: dict[str, Any]) -> list[Any]:
    if isinstance(row.get("captions"), list):
        return list(row["captions"])
    found = [row[key] for key in ("captions", *_CAPTION) if key in row]
    return found[:1]


def _pick(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


PLUGIN = Table
