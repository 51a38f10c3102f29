"""COCO captions JSON (captions_train2014.json ...); Karpathy's split comes from lists of ids."""

from collections.abc import Iterator
from typing import Any

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.problems import Problems


class Coco:
    """``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``.

    Split lists may name images (their id or file) or, as the M2 family's ``coco_dev_ids.npy``,
    annotations. Without lists the split is the word in the file's name.
    """

    captioned, listed = True, False

    def matches(self, document: Document) -> bool:
        """Images without domains, and annotations with captions."""
        return "caption" in first(document, "annotations") and not domains(document)

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image with all its captions, in the order of the images."""
        yield from image_entries(document, problems)


def first(document: Document, key: str) -> dict[str, Any]:
    """The first record below ``key`` of a JSON object; empty when there is none."""
    records = document.value.get(key) if isinstance(document.value, dict) else None
    found = records[0] if isinstance(records, list) and records else None
    return found if isinstance(found, dict) else {}


def domains(document: Document) -> bool:
    """Whether the images are nocaps': from Open Images, or with a domain."""
    image = first(document, "images")
    return "domain" in image or "open_images_id" in image


def image_entries(document: Document, problems: Problems) -> Iterator[Entry]:
    """Images of a COCO layout joined with their annotations, if it has any."""
    captions = _by_image(document, problems)
    for image in document.value["images"]:
        if not isinstance(image, dict) or "file_name" not in image or "id" not in image:
            problems.add("malformed", f"{document.path.name}: {image!r}", images=1)
            continue
        # taken out, so that what is left belongs to no image; a repeated image has none left
        own = captions.pop(str(image["id"]), [])
        yield Entry(
            image["file_name"],
            image["id"],
            image.get("split"),
            [annotation["caption"] for annotation in own],
            image.get("domain"),
            [annotation["id"] for annotation in own if "id" in annotation],
            _others(image),
        )
    for left in captions.values():
        for annotation in left:
            shown = f"image {annotation['image_id']}: {annotation['caption']}"
            problems.add("caption_without_image", shown, captions=1)


def _by_image(document: Document, problems: Problems) -> dict[str, list[dict[str, Any]]]:
    captions: dict[str, list[dict[str, Any]]] = {}
    for annotation in document.value.get("annotations") or []:
        if isinstance(annotation, dict) and {"image_id", "caption"} <= annotation.keys():
            captions.setdefault(str(annotation["image_id"]), []).append(annotation)
        else:
            problems.add("malformed", f"{document.path.name}: {annotation!r}", captions=1)
    return captions


def _others(image: dict[str, Any]) -> list[str]:
    """COCO's own folder for the image, from the last two parts of its address."""
    parts = str(image.get("coco_url") or "").split("/")
    return ["/".join(parts[-2:])] if len(parts) > 3 and ".." not in parts else []


PLUGIN = Coco
