"""Karpathy's ``dataset_{coco,flickr8k,flickr30k}.json``: images, splits and sentences."""

from collections.abc import Iterator
from typing import Any

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.problems import Problems


class Karpathy:
    """``{"images": [{filepath?, filename, cocoid?, split, sentences: [{raw, tokens, sentid}]}]}``.

    Ids are COCO's where there are any, else file stems (Flickr). restval becomes train, as in
    Karpathy and Fei-Fei 2015: 113,287 training images of COCO.
    """

    captioned, listed = True, False

    def matches(self, document: Document) -> bool:
        """Images with sentences inside."""
        images = document.value.get("images") if isinstance(document.value, dict) else None
        first = images[0] if isinstance(images, list) and images else None
        return isinstance(first, dict) and "sentences" in first

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image."""
        for image in document.value["images"]:
            if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
                problems.add("malformed", f"{document.path.name}: {image!r}", images=1)
                continue
            folder, name = image.get("filepath") or "", image["filename"]
            file = f"{folder.rstrip('/')}/{name}" if folder else name
            sentences = [s for s in image.get("sentences") or [] if isinstance(s, dict)]
            yield Entry(
                file,
                image.get("cocoid"),
                image.get("split"),
                [_text(sentence) for sentence in sentences],
                caption_ids=[s["sentid"] for s in sentences if "sentid" in s],
            )


def _text(sentence: dict[str, Any]) -> Any:
    if "raw" in sentence:
        return sentence["raw"]
    return " ".join(map(str, sentence.get("tokens") or []))


PLUGIN = Karpathy
