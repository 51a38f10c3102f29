"""From entries as listed to items as kept: paths, captions, ids checked; oddities counted."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from precap.store.datasets.contract import Entry
from precap.store.datasets.dataset import Item
from precap.store.datasets.encoding import clean, has_control
from precap.store.datasets.paths import Disk, refusal, stem
from precap.store.datasets.problems import Problems
from precap.store.datasets.splits import further

_UNCLEAN = re.compile(r"(^|/)\./|//|/$")
_INTEGER = re.compile(r"0|[1-9]\d*", re.ASCII)


def normalise(
    entries: Iterable[Entry], disk: Disk, problems: Problems, *, captioned: bool
) -> list[Item]:
    """Items with unique ids and paths below the root of ``disk``, in the order of ``entries``.

    captioned: whether an image without captions is worth recording.
    """
    placed = [entry for given in entries if (entry := _placed(given, disk, problems)) is not None]
    items = _merged(_identified(placed, problems), problems)
    for item in items:
        if captioned and not item.captions:
            problems.add("image_without_caption", item.file)
        if not _INTEGER.fullmatch(item.id):
            problems.add("string_id", item.id)
    return items


def _placed(entry: Entry, disk: Disk, problems: Problems) -> Entry | None:
    """The entry with a path that was checked and looked for, and with clean captions."""
    file, captions = entry.file, len(entry.captions)
    if not isinstance(file, str):
        problems.add("malformed", f"file: {file!r}, id: {entry.id!r}", images=1, captions=captions)
        return None
    why = refusal(file)
    if why:
        problems.add("path_escape", f"{file}: {why}", images=1, captions=captions)
        return None
    if _UNCLEAN.search(file):
        file = "/".join(part for part in file.split("/") if part not in ("", "."))
    found = _find(file, entry.others, disk)
    if found == "outside":
        problems.add("path_escape", f"{file}: a symlink", images=1, captions=captions)
        return None
    if found == "missing":
        problems.add("missing_image", file)
    else:
        file = found.removeprefix("there:")
    return entry._replace(file=file, captions=_captions(entry.captions, file, problems))


def _find(file: str, others: Sequence[str], disk: Disk) -> str:
    for candidate in (file, *others):
        state = disk.look(candidate)
        if state == "there":
            return f"there:{candidate}"
        if state == "outside":
            return state
    elsewhere = disk.elsewhere(file)
    if len(elsewhere) == 1 and disk.look(elsewhere[0]) == "there":
        return f"there:{elsewhere[0]}"
    return "missing"


def _captions(captions: Sequence[Any], file: str, problems: Problems) -> list[str]:
    kept = []
    for caption in captions:
        if not isinstance(caption, str):
            problems.add("malformed", f"{file}: caption {caption!r}", captions=1)
        elif text := clean(caption, file, problems):
            kept.append(text)
        else:
            problems.add("empty_caption", file, captions=1)
    return kept


def _identified(entries: Sequence[Entry], problems: Problems) -> list[Item]:
    given = [_given_id(entry, problems) for entry in entries]
    nameless = {entry.file for entry, id in zip(entries, given, strict=True) if id is None}
    derived = derive_ids(nameless, {id for id in given if id is not None}, problems)
    return [
        Item(id or derived[e.file], e.file, e.split or "unsplit", list(e.captions), e.domain)
        for e, id in zip(entries, given, strict=True)
    ]


def _given_id(entry: Entry, problems: Problems) -> str | None:
    id = entry.id
    if isinstance(id, float) and id.is_integer():
        id = int(id)
    if id is None or (isinstance(id, int) and not isinstance(id, bool)):
        return None if id is None else str(id)
    if not isinstance(id, str) or not id.strip() or has_control(id):
        problems.add("odd_id", f"{entry.file}: {id!r}")
        return None
    return id.strip()


def derive_ids(files: Iterable[str], taken: set[str], problems: Problems) -> dict[str, str]:
    """File -> a unique id: its stem; its path where stems collide ("a/1.jpg" -> "a-1")."""
    groups: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        groups[stem(file)].append(file)
    ids: dict[str, str] = {}
    taken = set(taken) | {name for name, group in groups.items() if len(group) == 1}
    for name, group in groups.items():
        for file, wish in zip(group, _wishes(name, group), strict=True):
            id = _printable(wish)
            if id != wish:
                problems.add("odd_id", f"{file!r}")
            if len(group) > 1:
                problems.add("same_stem", file)
            alone = len(group) == 1 and id == name
            ids[file] = id if alone else _free(id, taken)
            taken.add(ids[file])
    return ids


def _wishes(name: str, group: list[str]) -> list[str]:
    if len(group) == 1:
        return [name]
    bare = [file.rpartition("/")[0] + "/" + name for file in group]
    unique = len(set(bare)) == len(bare)
    return [wish.strip("/").replace("/", "-") for wish in (bare if unique else group)]


def _free(id: str, taken: set[str]) -> str:
    number, free = 2, id
    while free in taken:
        free, number = f"{id}-{number}", number + 1
    return free


def _printable(text: str) -> str:
    return "".join("_" if has_control(c) else c for c in text) or "_"


def _merged(items: Sequence[Item], problems: Problems) -> list[Item]:
    """One item per id: the first one, with the captions of repetitions of the same file."""
    kept: dict[str, Item] = {}
    for item in items:
        first = kept.get(item.id)
        if first is None:
            kept[item.id] = item
        elif first.file != item.file:
            what = f"{item.id}: {first.file}, then {item.file}"
            problems.add("duplicate_id", what, images=1, captions=len(item.captions))
        else:
            kept[item.id] = _joined(first, item, problems)
    for file, count in Counter(item.file for item in kept.values()).items():
        if count > 1:
            problems.add("one_file_two_ids", file)
    return list(kept.values())


def _joined(first: Item, again: Item, problems: Problems) -> Item:
    new = [text for text in again.captions if text not in first.captions]
    problems.add("repeated_image", first.file, images=1, captions=len(again.captions) - len(new))
    split = first.split
    if again.split != split:
        problems.add("two_splits", f"{first.file}: {split}, {again.split}")
        split = further(split, again.split)
    return first._replace(captions=first.captions + new, split=split)
