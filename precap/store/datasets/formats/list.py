"""A plain list: ``[{"file", "captions", "split"?, "image_id" or "id"?, "domain"?}, ...]``."""

from collections.abc import Iterator

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.problems import Problems


class List:
    """The layout to write by hand or from a script; the same keys as ``images.jsonl``."""

    captioned, listed = True, False

    def matches(self, document: Document) -> bool:
        """A list of objects with a file and captions."""
        first = document.value[0] if isinstance(document.value, list) and document.value else None
        return isinstance(first, dict) and {"file", "captions"} <= first.keys()

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per object."""
        for record in document.value:
            captions = record.get("captions", []) if isinstance(record, dict) else None
            if not isinstance(record, dict) or not isinstance(captions, list):
                problems.add("malformed", f"{document.path.name}: {record!r}", images=1)
                continue
            yield Entry(
                record.get("file"),
                record.get("image_id", record.get("id")),
                record.get("split"),
                captions,
                record.get("domain"),
            )


PLUGIN = List
