"""What an export format is: it looks at a spec and the ids, then writes rows as they stream by."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from precap.errors import ConfigError, DataError
from precap.store.importers.names import safe_id
from precap.types import Features, FeatureSpec, Field

#: Starts a new pass over the images: id, arrays. Formats that need totals first make two.
Rows = Callable[[], Iterator[tuple[str, Features]]]


class Format(Protocol):
    """One foreign format; one file in ``formats/``, its class named by ``PLUGIN``.

    Built as ``PLUGIN(spec, ids)``; ConfigError or DataError when it cannot hold them.
    """

    #: One line for ``--help`` and the documentation.
    summary: ClassVar[str]

    def __init__(self, spec: FeatureSpec, ids: Sequence[str]) -> None: ...

    def write(self, out: Path, rows: Rows) -> None:
        """Write the file or folder ``out``, which does not exist yet; hold few rows at a time."""
        ...


def need(spec: FeatureSpec, name: str, *roles: str) -> Field:
    """The first field with one of ``roles``; ConfigError when there is none."""
    for role in roles:
        if field := spec.field_of(role):
            return field
    have = ", ".join(f"{f.name} ({f.role})" for f in spec.fields)
    raise ConfigError(
        f"The format {name!r} needs {' or '.join(roles)} features; the store has {have}. "
        f"Choose another format: hdf5 and zarr hold every store."
    )


def check_names(ids: Sequence[str], name: str) -> None:
    """DataError when an id cannot be (part of) a name in a file: ``../x`` must not leave it."""
    for image in ids:
        if not safe_id(image):
            raise DataError(
                f"The format {name!r} makes names of ids, and {image!r} cannot be one. "
                f"Use the format hdf5 or zarr."
            )
