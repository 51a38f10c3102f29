"""Splits: the names they go by, and lists of files, image ids or annotation ids that make them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precap.errors import ConfigError, DataError
from precap.store.datasets.contract import Entry
from precap.store.datasets.encoding import read_json, read_text
from precap.store.datasets.paths import stem
from precap.store.datasets.problems import Problems

_SAME = {"dev": "val", "valid": "val", "validation": "val", "testing": "test", "training": "train"}
_NAMED = re.compile(r"(?<![a-z])(train|restval|validation|valid|val|dev|test)(?![a-z])", re.ASCII)
#: Split name -> the files, ids or annotation ids that a list names.
Lists = Mapping[str, Sequence[str]]


def further(one: str, other: str) -> str:
    """Of two splits the one that must not be trained on: test, then val, then any, then train."""
    ranks = {"test": 3, "val": 2, "train": 0}
    return max(one, other, key=lambda split: ranks.get(split, 1))


def named_in(name: str) -> str | None:
    """The split that a file name speaks of (captions_val2017, devImages), if any."""
    found = _NAMED.search(name.lower() if name.isupper() else name)
    return found.group(1) if found else None


def settle(entries: Iterable[Entry], default: str | None, problems: Problems) -> list[Entry]:
    """Entries whose split is the common word: dev -> val, restval -> train, none -> ``default``."""
    settled = []
    for entry in entries:
        split = entry.split or default or "unsplit"
        split = split if isinstance(split, str) else str(split)
        split = _SAME.get(split.strip().lower(), split.strip())
        if split == "restval":
            problems.add("restval", entry.file)
            split = "train"
        settled.append(entry._replace(split=split))
    return settled


def read_lists(path: Path, problems: Problems) -> dict[str, list[str]]:
    """The split lists in a folder (one .txt, .npy or .json per split), or in one file.

    A file may also be JSON ``{"train": [...], ...}`` or a Karpathy JSON.
    """
    if not path.exists():
        raise ConfigError(f"There are no split lists at {path}. Check --splits.")
    lists: dict[str, list[str]] = {}
    for file in _list_files(path) if path.is_dir() else [path]:
        for split, members in _read_list(file, problems).items():
            lists.setdefault(split, []).extend(members)
    if not lists:
        raise DataError(
            f"{path} holds no split lists. Give one file per split, with train, val or test in its "
            f"name (.txt or .npy), or a JSON object with those keys."
        )
    return lists


def is_list(path: Path) -> bool:
    """Whether a file in a folder of annotations looks like a split list by its name."""
    return path.suffix in (".txt", ".npy") and named_in(path.stem) is not None


def beside(path: Path) -> Path | None:
    """The folder of ``path`` if at least two text lists that name splits lie there."""
    folder = path if path.is_dir() else path.parent
    texts = [file for file in _list_files(folder) if file.suffix == ".txt" and file != path]
    return folder if len({named_in(file.stem) for file in texts}) > 1 else None


def assign(entries: Sequence[Entry], lists: Lists, problems: Problems) -> list[Entry]:
    """Entries with the split whose list names them; "unused" for those that none names."""
    by_image = _keys(entries, _image_keys)
    by_caption = _keys(entries, lambda e: map(str, e.caption_ids))
    every = [member for members in lists.values() for member in members]
    captions = _hits(every, by_caption) > _hits(every, by_image)  # annotation ids, not image ids
    table = by_caption if captions else by_image
    splits: dict[int, str] = {}
    for split, members in lists.items():
        for member in members:
            index = table.get(member)
            if index is None:
                problems.add("unknown_split_entry", f"{split}: {member}")
            elif splits.setdefault(index, split) != split:
                splits[index] = _both(entries[index], splits[index], split, problems)
    if captions:
        _note_unlisted(by_caption, set(every), problems)
    for index, entry in enumerate(entries):
        if index not in splits:
            problems.add("not_in_split", entry.file)
    return [e._replace(split=splits.get(i, "unused")) for i, e in enumerate(entries)]


def _both(entry: Entry, one: str, other: str, problems: Problems) -> str:
    common = {_SAME.get(one, one), _SAME.get(other, other)}
    if common != {"train", "restval"}:
        problems.add("two_splits", f"{entry.file}: {one}, {other}")
    return further(one, other)


def _note_unlisted(by_caption: Mapping[str, int], listed: set[str], problems: Problems) -> None:
    for caption in by_caption:
        if caption not in listed:
            problems.add("caption_not_in_split", caption)


def _keys(entries: Sequence[Entry], keys: Any) -> dict[str, int]:
    table: dict[str, int] = {}
    for index, entry in enumerate(entries):
        for key in keys(entry):
            table.setdefault(key, index)
    return table


def _image_keys(entry: Entry) -> list[str]:
    file = str(entry.file)
    named = [] if entry.id is None else [str(entry.id)]
    return [*named, file, file.rpartition("/")[2], stem(file)]


def _hits(members: Iterable[str], table: Mapping[str, int]) -> int:
    return sum(member in table for member in members)


def _list_files(folder: Path) -> list[Path]:
    files = (f for f in sorted(folder.iterdir()) if f.suffix in (".txt", ".npy", ".json"))
    return [file for file in files if named_in(file.stem)]


def _read_list(path: Path, problems: Problems) -> dict[str, list[str]]:
    split = named_in(path.stem) or path.stem
    if path.suffix == ".npy":
        return {split: _read_npy(path)}
    if path.suffix == ".json":
        return _from_json(read_json(path, problems), split, path)
    lines = (line.strip() for line in read_text(path, problems).split("\n"))
    # Lists of the form "val2014/COCO_val2014_000000522418.jpg 522418" name the image twice.
    return {split: [_first(line) for line in lines if line]}


def _first(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name if name and number.isdigit() else line


def _read_npy(path: Path) -> list[str]:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is no array of ids: {error}. Save it as int64.") from error
    return [str(value) for value in array.ravel().tolist()]


def _from_json(value: Any, split: str, path: Path) -> dict[str, list[str]]:
    if isinstance(value, list):
        return {split: [str(member) for member in value]}
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        lists: dict[str, list[str]] = {}
        for image in value["images"]:
            key = image.get("cocoid", image.get("filename"))
            lists.setdefault(str(image.get("split")), []).append(str(key))
        return lists
    if isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
        return {name: [str(member) for member in members] for name, members in value.items()}
    raise DataError(f'{path} is no list of ids and no object such as {{"train": [...]}}.')
