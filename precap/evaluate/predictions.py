"""Captions on disk: predictions.jsonl, the COCO server's JSON, and reference files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from precap import atomic
from precap.errors import ConfigError, DataError
from precap.types import Prediction


def write(path: Path, predictions: Iterable[Prediction]) -> None:
    """predictions.jsonl: one ``{"image_id", "caption", "score"}`` per line."""
    lines = (
        json.dumps(
            {"image_id": p.image_id, "caption": p.caption, "score": p.score}, ensure_ascii=False
        )
        for p in predictions
    )
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def write_coco(path: Path, predictions: Mapping[str, str]) -> None:
    """``[{"image_id", "caption"}]`` as the COCO server takes it; numeric ids become numbers."""
    rows = [{"image_id": _number(i), "caption": caption} for i, caption in predictions.items()]
    atomic.write_text(path, json.dumps(rows, ensure_ascii=False))


def read(path: Path) -> dict[str, str]:
    """Image id -> caption, from predictions.jsonl or ``[{"image_id", "caption"}]``.

    DataError with the place for anything else, and for an image that is captioned twice.
    """
    found: dict[str, str] = {}
    for place, row in _rows(path, _load(path)):
        image = str(_get(row, "image_id", path, place))
        if image in found:
            raise DataError(f"{path}, {place}: image {image} is captioned twice. Keep one of them.")
        found[image] = _text(row, path, place)
    return found


def read_references(path: Path) -> dict[str, list[str]]:
    """Image id -> captions, from COCO captions JSON or ``[{"image_id", "captions"}]``.

    DataError with the place for anything else, and in the second layout for an image named twice.
    """
    values = _load(path)
    found: dict[str, list[str]] = {}
    if isinstance(values, dict) and "annotations" in values:
        for number, row in enumerate(values["annotations"]):
            place = f"annotation {number}"
            image = str(_get(row, "image_id", path, place))
            found.setdefault(image, []).append(_text(row, path, place))
        return found
    for place, row in _rows(path, values):
        image, captions = (
            str(_get(row, "image_id", path, place)),
            _get(row, "captions", path, place),
        )
        if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
            raise DataError(f"{path}, {place}: 'captions' must be a list of texts. Correct it.")
        if image in found:
            raise DataError(f"{path}, {place}: image {image} is there twice. Join its captions.")
        found[image] = captions
    return found


def _number(image: str) -> int | str:
    return int(image) if image.isascii() and image.isdigit() and image == str(int(image)) else image


def _rows(path: Path, values: Any) -> list[tuple[str, Any]]:
    if not isinstance(values, list):
        raise DataError(f"{path} must hold a list of captions, as JSON or as JSON lines.")
    return [(f"entry {number}", row) for number, row in enumerate(values, start=1)]


def _load(path: Path) -> Any:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        return [_parsed(line, f"{path}, line {n}") for n, line in lines if line.strip()]
    return _parsed(text, str(path))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not valid JSON: {error}. Write it anew.") from error


def _get(row: Any, key: str, path: Path, place: str) -> Any:
    if not isinstance(row, dict) or key not in row:
        raise DataError(f"{path}, {place}: there is no {key!r}. Each entry needs one.")
    return row[key]


def _text(row: Any, path: Path, place: str) -> str:
    caption = _get(row, "caption", path, place)
    if not isinstance(caption, str):
        raise DataError(f"{path}, {place}: the caption is not text. Correct it.")
    return caption
