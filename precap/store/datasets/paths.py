"""Paths from data files: what is refused, and what lies where below the image root."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
)
_FORBIDDEN = re.compile(r"[\\/]|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")


def refusal(file: str) -> str | None:
    """Why a listed path may not be used as a path below the image root, or None when it may."""
    if not file or "\0" in file:
        return "empty or holds a NUL character"
    if _FORBIDDEN.match(file):
        return "absolute, on another host, or a URL"
    if ".." in file and ".." in re.split(r"[\\/]", file):
        return "a way out of the image root (..)"
    return None


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's and is not a hidden file."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


class Disk:
    """What lies below an image root; each folder is listed once, so 100,000 look-ups are cheap."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._folders: dict[str, dict[str, bool]] = {}
        self._outside: dict[str, bool] = {}
        self._names: dict[str, list[str]] | None = None

    def look(self, file: str) -> Literal["there", "missing", "outside"]:
        """Whether ``file``, passed by ``refusal``, lies below the root, symlinks resolved.

        A link in a loop, or to what is no file, is missing; so is a pipe, a socket or a device.
        """
        folder, _, name = file.rpartition("/")
        symlink = self._list(folder).get(name)
        if symlink is None:
            return "outside" if self._folder_leaves(folder) else "missing"
        if symlink and self._leaves(file):
            return "outside"
        there = not symlink or os.path.isfile(self.root / file)  # noqa: PTH113 - never raises
        return "there" if there else "missing"

    def elsewhere(self, file: str) -> list[str]:
        """Files of the same name in the root or one folder below it (COCO's train2014, val2014)."""
        if self._names is None:
            self._names = {}
            for folder in ["", *self.subfolders()]:
                for name in self._list(folder):
                    self._names.setdefault(name, []).append(f"{folder}/{name}".lstrip("/"))
        return self._names.get(file.rpartition("/")[2], [])

    def subfolders(self) -> list[str]:
        """Names of the real folders directly below the root."""
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))

    def names(self, folder: str) -> list[str]:
        """File names in one folder below the root, sorted; none if it leaves the root."""
        return sorted(self._list(folder))

    def walk(self) -> Iterator[str]:
        """Every file below the root, sorted; linked folders are given as such, not entered."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            prefix = Path(folder).relative_to(self.root).as_posix()
            links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
            for name in sorted([*files, *links]):
                yield name if prefix == "." else f"{prefix}/{name}"

    def _list(self, folder: str) -> dict[str, bool]:
        """File name -> whether it is a symlink."""
        if folder not in self._folders:
            self._folders[folder] = self._scan(folder)
        return self._folders[folder]

    def _scan(self, folder: str) -> dict[str, bool]:
        path = self.root / folder
        if self._folder_leaves(folder) or not os.path.isdir(path):  # noqa: PTH112 - never raises
            return {}
        with os.scandir(path) as entries:
            return {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}

    def _folder_leaves(self, folder: str) -> bool:
        if folder not in self._outside:
            self._outside[folder] = self._leaves(folder)
        return self._outside[folder]

    def _leaves(self, file: str) -> bool:
        # Path.resolve raises for a link that leads back to itself; this returns the link.
        return not Path(os.path.realpath(self.root / file)).is_relative_to(self.root)


def stem(file: str) -> str:
    """File name without folder and last suffix."""
    return PurePosixPath(file).stem
