"""store.json: what the store holds and where it came from, written once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precap.atomic import explained
from precap.errors import ConfigError, StoreError
from precap.store import files, schema, sealed
from precap.types import FeatureSpec

VERSION = 1
FOLDERS = ("plan", "ledger", "shards", "leases")


@dataclass(frozen=True)
class Identity:
    """The contents of store.json: the spec (identity), format and provenance."""

    spec: FeatureSpec
    format: str = "hdf5"
    compression: str = "none"
    provenance: Mapping[str, Any] | None = None


def load(path: Path) -> Identity:
    """The identity of the store at ``path``; ConfigError for none, StoreError for a damaged one."""
    file = path / "store.json"
    try:
        with explained(file, "read"):
            values = sealed.unseal(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        existing(path)
        raise StoreError(f"{path} has lost its store.json. Restore it from a copy.") from error
    except ValueError as error:
        raise StoreError(f"{file} is damaged ({error}). Restore it from a copy.") from error
    if values["version"] != VERSION:
        raise StoreError(
            f"{file} has format version {values['version']}, this precap reads {VERSION}."
        )
    spec = FeatureSpec.from_json(values["spec"])
    return Identity(spec, values["format"], values["compression"], values["provenance"])


def create(path: Path, mine: Identity) -> None:
    """Make the store's folders and its store.json, unless it is there with the same identity."""
    schema.check_spec(mine.spec)
    if mine.compression not in ("none", "zstd", "blosc"):
        raise ConfigError(f"There is no compression {mine.compression!r}: none, zstd, blosc.")
    _make_folders(path)
    line = sealed.seal(
        {
            "version": VERSION,
            "fingerprint": mine.spec.fingerprint,
            "spec": mine.spec.as_json(),
            "format": mine.format,
            "compression": mine.compression,
            "provenance": dict(mine.provenance or {}),
        }
    )
    if not files.create_exclusively(path / "store.json", line):
        check_same(path, load(path), mine)


def _make_folders(path: Path) -> None:
    try:
        with explained(path, "create"):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{path} cannot be a store: {error.filename} is a file. Choose another folder."
        ) from error
    for name in FOLDERS:
        files.make_folder(path / name)


def existing(path: Path) -> Path:
    """``path``, a store or what is left of one; ConfigError when it never was one."""
    if not path.exists():
        raise ConfigError(f"There is no {path}. Check the path; precap store ls lists stores.")
    if not any((path / name).exists() for name in ("store.json", *FOLDERS)):
        what = "is no feature store (no store.json)" if path.is_dir() else "is a file"
        raise ConfigError(f"{path} {what}. Name the folder of a store, e.g. features/clip.")
    return path


def check_same(path: Path, have: Identity, want: Identity) -> None:
    """StoreError that says field by field what differs."""
    differs = schema.difference(have.spec, want.spec)
    for name in ("format", "compression"):
        old, new = getattr(have, name), getattr(want, name)
        if old != new:
            differs += f"\n  {name}: the store has {old!r}, wanted is {new!r}"
    if differs:
        raise mismatch(path, differs)


def mismatch(path: Path, differs: str) -> StoreError:
    """The error for a store of another configuration."""
    return StoreError(
        f"{path} was made by another configuration:\n{differs.strip(chr(10))}\n"
        f"Use another folder or name for this configuration, or remove that store "
        f"(`precap store rm {path}`)."
    )
