"""COCO's image_info files (image_info_test2014.json): pictures to caption, no captions."""

from collections.abc import Iterator

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.formats.coco import domains, first, image_entries
from precap.store.datasets.problems import Problems


class ImageInfo:
    """``{"images": [{id, file_name}], "categories"?: [...]}``, for the online test servers."""

    captioned, listed = False, False

    def matches(self, document: Document) -> bool:
        """COCO images, no annotations, no domains."""
        image = first(document, "images")
        bare = {"id", "file_name"} <= image.keys() and not document.value.get("annotations")
        return bare and not domains(document)

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image."""
        yield from image_entries(document, problems)


PLUGIN = ImageInfo
