"""Small real pictures and sources for the dataset tests."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def draw(folder: Path, *files: str) -> Path:
    """Write a small JPEG at each path below ``folder``; returns ``folder``."""
    for number, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number * 40 % 256, 90, 160)).save(path, "JPEG")
    return folder


def dump(path: Path, value: Any) -> Path:
    """Write JSON, as people do; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


def listed(folder: Path, *records: dict[str, Any], missing: tuple[str, ...] = ()) -> Path:
    """A source in the ``list`` format whose pictures exist, except ``missing``."""
    files = [r["file"] for r in records if isinstance(r.get("file"), str)]
    draw(folder / "images", *(f for f in files if f not in missing))
    return dump(folder / "captions.json", list(records))
