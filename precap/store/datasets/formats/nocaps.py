"""nocaps (Agrawal et al. 2019): COCO's layout over Open Images, with a domain per image."""

from collections.abc import Iterator

from precap.store.datasets.contract import Document, Entry
from precap.store.datasets.formats.coco import domains, image_entries
from precap.store.datasets.problems import Problems


class Nocaps:
    """``{"images": [{id, file_name, open_images_id, domain}], "annotations"?: [...]}``.

    Domains are in-domain, near-domain and out-domain; the validation file with captions has
    them, the public image files may not. Ids are nocaps' own (0 to 4,499 in validation).
    """

    captioned, listed = False, False

    def matches(self, document: Document) -> bool:
        """Images with a domain or an Open Images id."""
        return domains(document)

    def read(self, document: Document, problems: Problems) -> Iterator[Entry]:
        """One entry per image; a repeated domain word is shortened to the common form."""
        for entry in image_entries(document, problems):
            yield entry._replace(domain=_domain(entry.domain))


def _domain(word: str | None) -> str | None:
    if not isinstance(word, str):
        return None
    word = word.strip().lower().replace("_", "-")
    return f"{word}-domain" if word in ("in", "near", "out") else word


PLUGIN = Nocaps
