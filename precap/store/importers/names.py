"""Source keys to image ids: as they are, or through a dataset that knows the files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from precap.store.datasets.dataset import Dataset, Item, load

_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")


@dataclass(frozen=True)
class Names:
    """table: every name by which a source may know an image -> its id. None: keys are ids.

    ids: all images of the dataset; those that the source lacks are recorded as missing.
    """

    table: Mapping[str, str] | None = None
    ids: tuple[str, ...] = ()

    def find(self, key: str) -> str | None:
        """The id of the image that a source calls ``key``."""
        return key if self.table is None else self.table.get(key)


def names_of(ids: Mapping[str, str] | Dataset | Path | None) -> Names:
    """From a mapping key -> id, a dataset, the folder of one, or nothing."""
    if ids is None:
        return Names()
    if isinstance(ids, Mapping):
        return Names(dict(ids), tuple(dict.fromkeys(ids.values())))
    items = (load(ids) if isinstance(ids, Path) else ids).items
    return Names(_table(items), tuple(item.id for item in items))


def safe_id(image: str) -> bool:
    """Whether an id can also be a file name: 1 to 200 printable characters, no path in it."""
    return (
        0 < len(image) <= 200
        and image.isprintable()
        and not any(mark in image for mark in "/\\:")
        and not image.startswith(".")
        and image == image.strip()
    )


def _table(items: Sequence[Item]) -> dict[str, str]:
    """Aliases of every image; an alias that two images share belongs to neither."""
    ids: dict[str, str] = {}
    aliases: dict[str, str | None] = {}
    for item in items:
        ids[item.id] = item.id
        for alias in _aliases(item.file):
            aliases[alias] = item.id if aliases.get(alias, item.id) == item.id else None
    return {**{alias: image for alias, image in aliases.items() if image is not None}, **ids}


def _aliases(file: str) -> set[str]:
    """File path, name and stem; for COCO's names also the number in them."""
    path = PurePosixPath(file)
    found = {file, path.name, path.stem}
    if match := _COCO.fullmatch(path.stem):
        found |= {match[1], str(int(match[1]))}
    return found
