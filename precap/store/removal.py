"""Remove a store, all of it: never by half, never a folder that also holds other things."""

import re
from pathlib import Path

from precap.atomic import explained
from precap.errors import ConfigError, LockedError, StoreError
from precap.store import files, identity
from precap.store.leases import Leases

_TOP = {*identity.FOLDERS, "store.json", "index", "import.json"}
_INSIDE = {
    "plan": r"\d{3,}\.txt",
    "ledger": r".+\.jsonl",
    "shards": r"\d{6,}\..+",
    "leases": r"\d{6,}\.\d+",
}


def remove(path: Path, *, force: bool = False) -> None:
    """Delete the store at ``path``; StoreError for a folder that is none, LockedError in use.

    force: also one whose store.json is damaged, or that holds files that are no part of it.
    ConfigError for a link and for the folder one is in; ResourceError when something stays.
    """
    if path.is_symlink():
        raise ConfigError(
            f"{path} is a link, it was left alone. Remove {path.resolve()}, then the link."
        )
    if not (path / "store.json").is_file():
        raise StoreError(f"{path} is not a feature store (no store.json); it was left alone.")
    whole = path.resolve()
    if Path.cwd().is_relative_to(whole):
        raise ConfigError(f"You are in {whole}, it was left alone. Leave it first: cd ..")
    if not force:
        _check_ours(path)
    if live := Leases(path).live():
        raise LockedError(f"{path} is being written to ({live[0]}). Stop that first.")
    with explained(path, "remove"):
        files.discard(whole)


def _check_ours(path: Path) -> None:
    try:
        identity.load(path)
    except StoreError as error:
        raise StoreError(
            f"{error} {path} was left alone. Look into it; --force removes it with all it holds."
        ) from error
    if foreign := [name for name in _names(path) if not _is_ours(name)]:
        raise ConfigError(
            f"{path} also holds {', '.join(foreign[:5])}, which are no part of a store; it was "
            f"left alone. Move them away, or remove them with it: --force"
        )


def _names(path: Path) -> list[str]:
    """What lies in the store and in its folders; a link to a folder counts as one thing."""
    inside = (path, *(path / name for name in _INSIDE if not (path / name).is_symlink()))
    return sorted(
        f"{entry.relative_to(path).as_posix()}{'@' if entry.is_symlink() else ''}"
        for folder in inside
        if folder.is_dir()
        for entry in folder.iterdir()
    )


def _is_ours(name: str) -> bool:
    folder, slash, inner = name.rpartition("/")
    if inner.startswith(".") and inner.endswith(".partial"):
        return True
    return bool(re.fullmatch(_INSIDE[folder], inner)) if slash else name in _TOP
