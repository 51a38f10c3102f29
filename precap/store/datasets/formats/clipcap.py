"""ClipCap's caption list (``train_caption.json``): image ids and captions, no file names."""

from collections.abc import Iterator

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.problems import Problems


class Clipcap:
    """``[{"image_id": "522418", "id"?, "caption"}, ...]``, one per caption.

    The file is looked for under COCO's names (the 2014 folders, then 2017's), then as the id itself
    (Conceptual Captions: ``00000012.jpg``).
    """

    captioned, listed = True, False

    def matches(self, document: Document) -> bool:
        """A list of objects with an image id and a caption, without a file."""
        first = document.value[0] if isinstance(document.value, list) and document.value else None
        return (
            isinstance(first, dict)
            and {"image_id", "caption"} <= first.keys()
            and not {"image", "file", "captions"} & first.keys()
        )

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image id, in the order of first mention."""
        entries: dict[str, Entry] = {}
        for record in document.value:
            if not isinstance(record, dict) or not {"image_id", "caption"} <= record.keys():
                problems.add("malformed", f"{document.path.name}: {record!r}", captions=1)
                continue
            key = str(record["image_id"])
            if key not in entries:
                entries[key] = _entry(key)
            entries[key].captions.append(record["caption"])  # type: ignore[attr-defined]
            if "id" in record:
                entries[key].caption_ids.append(record["id"])  # type: ignore[attr-defined]
        yield from entries.values()


def _entry(key: str) -> Entry:
    if not (key.isascii() and key.isdigit()):
        return Entry(f"{key}.jpg", key, captions=[], caption_ids=[])
    number = f"{int(key):012d}"
    names = [f"COCO_{split}2014_{number}.jpg" for split in ("train", "val")]
    folders = [f"{split}2014/{name}" for split, name in zip(("train", "val"), names, strict=True)]
    modern = [f"{split}2017/{number}.jpg" for split in ("train", "val")]
    others = [*folders, *names, *modern, f"{number}.jpg"]
    return Entry(f"{key}.jpg", key, captions=[], caption_ids=[], others=others)


PLUGIN = Clipcap
