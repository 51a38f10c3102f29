"""OPG's caption lists, the "coco_karpathy" JSON of BLIP and X-VLM, and their nocaps lists."""

import re
from collections.abc import Iterator
from typing import Any

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.paths import stem
from precap.store.datasets.problems import Problems

_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)", re.ASCII)


class Opg:
    """Train: ``[{"caption": str, "image": "val2014/COCO_...jpg", "image_id"}]``, one per caption.

    Val and test: ``[{"image", "caption": [5 strings]}]``; nocaps: ``[{"image", "img_id"}]``. The id
    is the number that ends a COCO file name in all of them, since only train has ``image_id``
    (of any type), and evaluation goes by the number.
    """

    captioned, listed = True, False

    def matches(self, document: Document) -> bool:
        """A list of objects with an image and a caption or an img_id."""
        first = document.value[0] if isinstance(document.value, list) and document.value else None
        return (
            isinstance(first, dict)
            and "image" in first
            and bool({"caption", "img_id"} & first.keys())
        )

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image, in the order of first mention."""
        entries: dict[str, Entry] = {}
        for record in document.value:
            file = record.get("image") if isinstance(record, dict) else None
            if not isinstance(file, str):
                problems.add("malformed", f"{document.path.name}: {record!r}", images=1)
                continue
            if file not in entries:
                entries[file] = Entry(file, _id(file, record), captions=[])
            captions = record.get("caption", [])
            captions = captions if isinstance(captions, list) else [captions]
            entries[file].captions.extend(captions)  # type: ignore[attr-defined]
        yield from entries.values()


def _id(file: str, record: dict[str, Any]) -> Any:
    found = _COCO.fullmatch(stem(file))
    return record.get("img_id", int(found[1]) if found else record.get("image_id"))


PLUGIN = Opg
