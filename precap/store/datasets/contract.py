"""What an annotation format is: it recognises a document and yields its entries; nothing more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from precap.store.datasets.problems import Problems


@dataclass(frozen=True)
class Document:
    """One file or folder to read. ``value``: parsed JSON, or text, or None for a folder.

    images: the image root the user named, if any. captions: a captions file named beside a folder.
    """

    path: Path
    value: Any = None
    images: Path | None = None
    captions: Path | None = None


class Entry(NamedTuple):
    """One image as the source lists it, before any check.

    file: path below the image root. id: None when the source has none (the file's stem is used).
    split: the source's own word, or None. captions: whatever stood there. caption_ids: annotation
    ids, for split lists that name those. others: further paths to try when ``file`` is missing.
    """

    file: Any
    id: Any = None
    split: str | None = None
    captions: Sequence[Any] = ()
    domain: str | None = None
    caption_ids: Sequence[Any] = ()
    others: Sequence[str] = ()


class Format(Protocol):
    """A layout of captions on disk; built without arguments. ``PLUGIN`` names the class.

    captioned: whether an image without captions is worth a remark. listed: whether the split lists
    that lie beside a document belong to it.
    """

    captioned: bool
    listed: bool

    def matches(self, document: Document) -> bool:
        """Whether the content is in this layout; looks at the first record, never at the name."""
        ...

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """The entries in the order of the document; what is not an entry goes to ``problems``."""
        ...
