"""What an extractor reads for one image id: the picture itself, or another store's row."""

from collections.abc import Container
from threading import Lock
from typing import TYPE_CHECKING

from precap.errors import ConfigError, ImageError
from precap.extract import images
from precap.extract.contract import Extractor, Setting
from precap.extract.flow import Item, Read
from precap.store.plan import Again, failed
from precap.types import ImageRef, Status

if TYPE_CHECKING:
    from precap.store.reader import Store

#: Why an image that the parent has no row for is skipped.
NO_PARENT = "no-parent"


def reader(extractor: Extractor, setting: Setting) -> Read:
    """How ``extractor`` gets at an image, by what it declares in ``reads``."""
    if extractor.reads == "store":
        return _from_store(extractor, setting)
    return _from_file(extractor)


def once_more(
    extractor: Extractor, setting: Setting, refs: Container[str], *, retry_failed: bool
) -> Again:
    """Which of the images without features to compute again: those of ``refs`` whose parent has
    got a row since; with ``retry_failed`` whatever failed."""
    parent = _parent(extractor, setting) if extractor.reads == "store" else None

    def chosen(image: str, status: Status, reason: str) -> bool:
        if parent is not None and reason == NO_PARENT:
            return image in refs and image in parent
        return retry_failed and failed(image, status, reason)

    return chosen


def _from_file(extractor: Extractor) -> Read:
    # Boxes that a file gives for this picture are not part of its bytes: copies are no copies then.
    alike = getattr(extractor, "given", None) is None

    def read(ref: ImageRef) -> Item:
        decoded = images.read(ref.path)
        if ref.sha256 and ref.sha256 != decoded.sha256:
            raise ImageError("changed", f"{ref.path} is not the file that was prepared")
        decoded.image.info["path"] = str(ref.path)
        digest = decoded.sha256 if alike else ""
        if extractor.spec.views == 1:
            return Item(ref.id, digest, [extractor.prepare(decoded.image)])
        from precap.extract.views import view

        shown = (view(decoded.image, decoded.sha256, k) for k in range(extractor.spec.views))
        return Item(ref.id, digest, [extractor.prepare(image) for image in shown])

    return read


def _from_store(extractor: Extractor, setting: Setting) -> Read:
    parent = _parent(extractor, setting)
    turn = Lock()  # an open store keeps a table of open files

    def read(ref: ImageRef) -> Item:
        with turn:
            outcome = parent.outcome(ref.id)
            if outcome is None or outcome.status != "ok":
                why = f"{outcome.status}: {outcome.reason}" if outcome else "not there yet"
                raise ImageError(NO_PARENT, f"{setting.parent}: {why}", skipped=True)
            rows = [parent.read(ref.id, view) for view in range(extractor.spec.views)]
        return Item(ref.id, "", [extractor.prepare(row) for row in rows])

    return read


def _parent(extractor: Extractor, setting: Setting) -> "Store":
    from precap.store.reader import open_store

    if setting.parent is None:
        raise ConfigError(
            f"{extractor.spec.extractor} reads another store. Name it: --parent features/NAME"
        )
    return open_store(setting.parent)
