"""Flickr8k and Flickr30k token files (``1000268201_693b08cb0e.jpg#0<tab>caption``)."""

import re
from collections.abc import Iterator

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.paths import SUFFIXES
from precap.store.datasets.problems import Problems

_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)


class Flickr:
    """One caption per line; the split lists beside it (``*.trainImages.txt`` ...) are found.

    Flickr8k's file also has a caption of ``2258277193_586949ec62.jpg.1``, which is no image of the
    set: it counts as a caption without an image. Images of no list are "unused".
    """

    captioned, listed = True, True

    def matches(self, document: Document) -> bool:
        """Text whose first line is a file name, ``#``, a number, a tab and a caption."""
        if not isinstance(document.value, str):
            return False
        line = document.value.lstrip("\r\n").partition("\n")[0]
        return _LINE.fullmatch(line.rstrip("\r")) is not None

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image, captions in the order of the file."""
        captions: dict[str, list[str]] = {}
        for number, line in enumerate(document.value.split("\n"), 1):
            found = _LINE.fullmatch(line.rstrip("\r"))
            if found:
                captions.setdefault(found[1].strip(), []).append(found[3])
            elif line.strip():
                where = f"{document.path.name}:{number}: {line}"
                problems.add("malformed", where, captions=1)
        for file, texts in captions.items():
            if "." + file.rpartition(".")[2].lower() in SUFFIXES:
                yield Entry(file, captions=texts)
            else:
                for text in texts:
                    problems.add("caption_without_image", f"{file}: {text}", captions=1)


PLUGIN = Flickr
