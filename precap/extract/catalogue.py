"""What ``precap extract --list`` shows: every extractor, its fields, sizes, paper and weights."""

from dataclasses import dataclass
from typing import Any

from precap import plugins
from precap.extract.contract import About
from precap.types import Field

#: Rows assumed for a field whose length differs per image: boxes of a typical picture.
TYPICAL_ROWS = 50
#: Fields with one row for every ordered pair of boxes.
PAIRS = ("relations",)
_BYTES = {"float32": 4, "float16": 2, "int8": 1, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


@dataclass(frozen=True)
class Entry:
    """One extractor's default variant. bytes: per image, floats stored as float16."""

    name: str
    fields: str
    bytes: int
    paper: str
    weights: str
    read_by: str

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.name}: {self.fields}",
                f"  {self.bytes:,} bytes per image; {self.paper}",
                f"  weights: {self.weights}",
                f"  read by: {self.read_by or 'any head that takes these roles'}",
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(self.__dict__)


def entries() -> list[Entry]:
    """All built-in extractors, by name; imports them, so it takes a few seconds."""
    from precap.extract import extractors

    return [_entry(name, plugins.load(extractors, name)) for name in plugins.names(extractors)]


def field_bytes(field: Field, dtype: str | None = None) -> int:
    """Bytes of one image's array; ``dtype`` replaces that of floating-point fields."""
    kind = dtype if dtype is not None and field.dtype.startswith("float") else field.dtype
    size = _BYTES[kind]
    rows = TYPICAL_ROWS**2 if field.name in PAIRS else TYPICAL_ROWS
    for length in field.shape:
        size *= rows if length is None else length
    return size


def _entry(name: str, kind: Any) -> Entry:
    about: About = kind.about if hasattr(kind, "about") else About(())
    shapes = ", ".join(f"{f.name} {_shape(f)} ({f.role})" for f in about.fields)
    size = sum(field_bytes(field, "float16") for field in about.fields)
    return Entry(name, shapes, size, about.paper, about.weights, about.read_by)


def _shape(field: Field) -> str:
    return "x".join("N" if length is None else str(length) for length in field.shape) or "1"
