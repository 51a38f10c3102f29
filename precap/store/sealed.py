"""JSON objects on one line that carry their own checksum: any changed bit is noticed."""

import json
from collections.abc import Mapping
from typing import Any

from precap.store.files import digest


def seal(values: Mapping[str, Any]) -> bytes:
    """``values`` as one line of canonical JSON, a ``sum`` of the rest added, newline at the end."""
    body = _canonical(values)
    return (_canonical({**values, "sum": digest(body.encode())}) + "\n").encode()


def unseal(line: bytes) -> dict[str, Any]:
    """The values, ``sum`` included, of a line made by ``seal``; ValueError when it changed."""
    try:
        values = json.loads(line)
    except RecursionError as error:  # thousands of brackets
        raise ValueError("not a sealed line") from error
    if not isinstance(values, dict):
        raise ValueError("not a sealed line")
    if seal({key: value for key, value in values.items() if key != "sum"}) != line:
        raise ValueError("the checksum does not match")
    return values


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
