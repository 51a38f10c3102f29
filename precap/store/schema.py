"""The border of the store: a spec that can be stored, rows that match it, and what is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.errors import ConfigError, StoreError
from precap.types import Features, FeatureSpec, Field

DTYPES = ("float32", "float16", "int8", "int64", "int32", "uint8", "bool")


class BadValue(Exception):
    """A value that cannot be stored: the image is recorded as failed with ``reason``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def check_spec(spec: FeatureSpec) -> None:
    """ConfigError when no store can hold this spec."""
    names = [field.name for field in spec.fields]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"Extractor {spec.extractor!r} must declare fields of distinct names.")
    if spec.views < 1:
        raise ConfigError(f"views must be at least 1, not {spec.views}.")
    for field in spec.fields:
        if not field.name.isidentifier():
            raise ConfigError(f"Field name {field.name!r} must be a plain identifier.")
        if field.dtype not in DTYPES:
            raise ConfigError(f"Field {field.name!r}: dtype {field.dtype!r} is none of {DTYPES}.")
        if None in field.shape[1:] or (field.dtype == "int8" and not field.shape):
            raise ConfigError(f"Field {field.name!r}: shape {field.shape} cannot be stored.")


def difference(have: FeatureSpec, want: FeatureSpec) -> str:
    """Field by field what differs between two specs, one line each; empty when they are equal."""
    return "\n".join(_differences("", have.as_json(), want.as_json()))


def _differences(name: str, have: Any, want: Any) -> list[str]:
    if have == want:
        return []
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        keys = sorted({*have, *want})
        return [
            line
            for key in keys
            for line in _differences(f"{name}.{key}".strip("."), have.get(key), want.get(key))
        ]
    if name == "fields":
        return _differences(name, _by_name(have), _by_name(want))
    return [f"  {name}: the store has {have!r}, wanted is {want!r}"]


def _by_name(fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {field["name"]: {k: v for k, v in field.items() if k != "name"} for field in fields}


def check_row(image: str, row: Features, spec: FeatureSpec) -> None:
    """StoreError when ``row`` has other fields, shapes or kinds of numbers than ``spec`` says."""
    names = {field.name for field in spec.fields}
    if set(row) != names:
        raise StoreError(
            f"Image {image!r}: got fields {sorted(row)}, the spec of {spec.extractor!r} says "
            f"{sorted(names)}. This is a bug in the extractor."
        )
    for field in spec.fields:
        for part in parts(row[field.name], field, spec.views):
            _check_array(image, part, field, spec)


def parts(value: Any, field: Field, views: int) -> Sequence[NDArray[Any]]:
    """A field's value as one array per view."""
    if views == 1:
        return (value,)
    if len(value) != views:
        raise StoreError(f"Field {field.name!r}: got {len(value)} views, the spec says {views}.")
    return [value[view] for view in range(views)]


def _check_array(image: str, array: NDArray[Any], field: Field, spec: FeatureSpec) -> None:
    lead = 1 if field.ragged else 0
    same = len(array.shape) == len(field.shape) and array.shape[lead:] == field.shape[lead:]
    if not (same and _holds(np.dtype(field.dtype), array.dtype)):
        raise StoreError(
            f"Image {image!r}, field {field.name!r}: got {array.dtype}{list(array.shape)}, the "
            f"spec of {spec.extractor!r} says {field.dtype}{list(field.shape)}. This is a bug in "
            f"the extractor."
        )


def _holds(stored: np.dtype[Any], given: np.dtype[Any]) -> bool:
    if stored.kind == "f" or stored == np.int8:  # int8 holds quantised floats
        return given.kind == "f"
    return np.can_cast(given, stored, "safe") or (stored.kind in "iu" and given.kind in "iu")


def stored(source: NDArray[Any], dtype: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """``source`` as it is stored, C-contiguous (itself, if it is so already); and its scales.

    For int8 the scales are float32, one per row of the last axis, and ``source = stored * scale``
    up to half a step; otherwise None. BadValue for NaN, Inf and overflow.
    """
    if dtype == "int8":
        if not finite(source):
            _refuse(source)
        return _quantised(source)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(source, dtype, order="C")
    if array.dtype.kind == "f":
        if not finite(array):
            _refuse(source)
    elif array.dtype != source.dtype and not np.array_equal(array, source):
        raise BadValue("overflow", f"integers do not fit into {dtype}")
    return array, None


_EXPONENT: dict[int, tuple[type[Any], int]] = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}


def finite(array: NDArray[Any]) -> bool:
    """Whether all floats are finite; on the bits, four times as fast as isfinite for fp16."""
    if array.dtype.itemsize not in _EXPONENT:
        return bool(np.isfinite(array).all())
    kind, mask = _EXPONENT[array.dtype.itemsize]
    bits = np.asarray(array, order="C").view(kind)
    return not bits.size or bool((bits & kind(mask)).max() != mask)


def _refuse(source: NDArray[Any]) -> None:
    wrong = np.count_nonzero(~np.isfinite(source))
    if wrong:
        raise BadValue("non-finite", f"{wrong} of {source.size} values are NaN or Inf")
    largest = float(np.abs(source).max())
    raise BadValue("overflow", f"the largest value is {largest:g}; store it as float32")


def _quantised(source: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    with np.errstate(over="ignore"):
        values = source.astype(np.float32)  # (..., D)
    peak = np.abs(values).max(axis=-1, initial=0.0)  # (...)
    if not finite(peak):
        _refuse(source)
    scale = np.where(peak > 0, _round_up(peak / np.float32(127)), np.float32(1))
    scale = np.asarray(scale, np.float32)
    return np.clip(np.rint(values / scale[..., None]), -127, 127).astype(np.int8), scale


def _round_up(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next float32 with 16 bits of mantissa: int8 * scale is then exact, and quantising the
    product again gives the same bytes."""
    bits = np.asarray(scale, np.float32, order="C").view(np.uint32)
    rounded: NDArray[np.float32] = ((bits + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(
        np.float32
    )
    return rounded
