"""Configuration: frozen pydantic dataclasses, YAML recipes, ``--set key=value``; strict names."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _dataclass

from precap.errors import ConfigError
from precap.plugins import guess

T = TypeVar("T")

#: Types of options: whole numbers from 1 and from 0 on; ``Annotated[tuple[X, ...], NonEmpty]``.
Count = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
NonEmpty = Field(min_length=1)

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(kind: type[T]) -> type[T]:
    """Decorator for every Config: frozen, unknown keys refused, values checked and coerced."""
    made: Any = _dataclass(frozen=True, config=_STRICT)(kind)
    strict: type[T] = made
    return strict


def build(kind: type[T], values: Mapping[str, Any], where: str = "the options") -> T:
    """Make a Config of ``kind`` from plain values; ConfigError, with a suggestion, if wrong."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: there is no option {key!r}.{guess(key, known)}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = "; ".join(map(_problem, _true(error.errors())))
        said = problems.removesuffix(".")
        raise ConfigError(f"{where}: {said}. Correct the value and repeat.") from error


def _true(found: Sequence[Any]) -> list[Any]:
    """Without "too short" of a sequence some members of which are wrong: they were not counted."""
    return [
        one
        for one in found
        if one["type"] != "too_short"
        or not any(other["loc"][: len(one["loc"])] == one["loc"] != other["loc"] for other in found)
    ]


def _problem(found: Any) -> str:
    if found["type"] == "value_error" and not found["loc"]:  # said by the Config itself
        return str(found["ctx"]["error"])
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']} (got {found['input']!r})"


def as_dict(config: Any) -> dict[str, Any]:
    """A Config as plain JSON-ready values."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from ``path`` (safe loader)."""
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"There is no recipe file {path}. Check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of option names to values.")
    return values


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["lr=1e-4", "head.dim=256"]`` as a flat mapping; values are read as YAML scalars."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r} is not of the form key=value.")
        settings[key.strip()] = _scalar(text)
    return settings


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text) if text else ""
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 (no dot) as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value
