"""A plain folder of pictures, with a captions CSV or JSONL beside or inside it, or with none."""

from collections.abc import Iterator
from pathlib import Path

from precap.errors import DataError
from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.encoding import read_text
from precap.store.datasets.formats.table import joined, rows
from precap.store.datasets.paths import Disk, is_image, refusal
from precap.store.datasets.problems import Problems
from precap.store.datasets.sources import CAPTIONS
from precap.store.datasets.splits import named_in


class Folder:
    """What lies on disk is the list. A folder named train, val or test gives the split."""

    captioned, listed = False, False

    def matches(self, document: Document) -> bool:
        """A folder."""
        return document.value is None and document.path.is_dir()

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per picture below the folder, sorted by path."""
        root = document.images or document.path
        described = _described(document, root, problems)
        for file in Disk(root).walk():
            name = file.rpartition("/")[2]
            if is_image(name.lstrip(".")) and name.startswith("."):
                problems.add("hidden_file", file)
            elif is_image(name):
                entry = described.pop(file, None) or Entry(file)
                if described and not entry.captions:
                    problems.add("image_without_caption", file)
                top = file.partition("/")[0] if "/" in file else ""
                yield entry._replace(split=entry.split or named_in(top))
        for entry in described.values():
            kind = "path_escape" if refusal(entry.file) else "caption_without_image"
            problems.add(kind, entry.file, images=1, captions=len(entry.captions))


def _described(document: Document, root: Path, problems: Problems) -> dict[str, Entry]:
    """File -> entry from the captions file, if there is one."""
    inside = [document.path / name for name in CAPTIONS if (document.path / name).is_file()]
    if document.captions is None and len(inside) > 1:
        names = ", ".join(path.name for path in inside)
        raise DataError(f"{document.path} has several caption files: {names}. Use --captions.")
    path = document.captions or next(iter(inside), None)
    if path is None:
        return {}
    found = rows(read_text(path, problems), path.name, problems)
    return {entry.file: entry for entry in joined(found, path.name, problems)}


PLUGIN = Folder
