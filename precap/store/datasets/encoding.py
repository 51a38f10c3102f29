"""Text from foreign files: decoded whatever it is, every oddity recorded."""

import json
import re
from pathlib import Path
from typing import Any

from precap.errors import DataError
from precap.store.datasets.problems import Problems

LARGEST = 4 << 30  # bytes; COCO's captions are 90 MB
# What line-based scorers take for a line end, and what no caption needs.
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
# UTF-8 read as Windows-1252 or Latin-1: é -> Ã©, ’ -> â€™; U+FFFD: read once too often.
_MOJIBAKE = re.compile("Ã[\x80-\xbf©¨ª«¢¤¼¶§±³º‰]|â€|â\x80|Â[\x80-\xbf]|ï»¿|\ufffd")


def read_text(path: Path, problems: Problems) -> str:
    """The text of ``path``: UTF-8, UTF-16 with its mark, or line by line Windows-1252."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path} has {size:,} bytes; annotation files of over 4 GiB are not read.")
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        problems.add("byte_order_mark", f"{path.name} (UTF-16)")
        return data.decode("utf-16", "replace")
    if data[:3] == b"\xef\xbb\xbf":
        problems.add("byte_order_mark", path.name)
        data = data[3:]
    try:
        return data.decode()
    except UnicodeDecodeError:
        lines = enumerate(data.split(b"\n"), 1)
        return "\n".join(_decode(line, f"{path.name}:{n}", problems) for n, line in lines)


def read_json(path: Path, problems: Problems) -> Any:
    """The JSON value in ``path``; DataError names the file and the place of the mistake."""
    try:
        return json.loads(read_text(path, problems))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Fetch or write it again.") from error


def clean(text: str, where: str, problems: Problems) -> str:
    """A caption fit for one line of a file: no control characters, no halves of pairs, stripped."""
    if text.isascii() and text.isprintable():
        return text.strip()
    if _MOJIBAKE.search(text):
        problems.add("mojibake", f"{where}: {text}")
    if _SURROGATE.search(text):
        problems.add("lone_surrogate", f"{where}: {text}")
        text = _SURROGATE.sub("\ufffd", text)
    text = text.strip()
    if _CONTROL.search(text):
        problems.add("control_character", f"{where}: {text}")
        text = _CONTROL.sub(" ", text).strip()
    return text


def has_control(text: str) -> bool:
    """Whether a text holds control characters, line separators or halves of pairs."""
    return bool(_CONTROL.search(text) or _SURROGATE.search(text))


def _decode(line: bytes, where: str, problems: Problems) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        text = line.decode("cp1252", "replace")
        problems.add("not_utf8", f"{where}: {text}")
        return text
