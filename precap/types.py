"""The few core types, one per arrow of the pipeline. numpy only: no torch, no h5py."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

Role = Literal[
    "grid",
    "region",
    "global",
    "boxes",
    "scores",
    "classes",
    "attributes",
    "weights",
    "mask",
    "size",
]
ROLES: tuple[str, ...] = get_args(Role)

#: What one image gives: field name -> array, on the CPU, without a batch axis.
Features = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image to read. ``path`` is absolute and lies inside the dataset's image root."""

    id: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One array per image. ``None`` as the first axis of ``shape``: its length differs per image.

    ``role`` says what a head may use it as; ``dtype`` is the dtype in which it is stored:
    float32, float16, int8 (per-row scale), int64, int32, uint8 or bool.
    """

    name: str
    role: Role
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @property
    def ragged(self) -> bool:
        """Whether the number of rows differs per image."""
        return bool(self.shape) and self.shape[0] is None


@dataclass(frozen=True)
class FeatureSpec:
    """What a store holds and how it was made; everything here is identity, nothing is provenance.

    weights: sha256 of the weights file, "random:SEED", or "none"; for an import the digest of
    the source; for a derived store the parent's fingerprint.
    preprocess, config: plain JSON values. compute: fp32, bf16 or fp16. decode: the decode path.
    views: number of augmented versions kept per image (1 = the image as it is).
    """

    extractor: str
    version: int
    weights: str
    fields: tuple[Field, ...]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    compute: str = "fp32"
    decode: str = "pillow"
    views: int = 1

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of every field of this spec, 64 hex digits."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` reads them back to an equal spec."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "FeatureSpec":
        """The spec written by ``as_json``."""
        fields = tuple(
            Field(f["name"], f["role"], tuple(f["shape"]), f["dtype"]) for f in values["fields"]
        )
        return FeatureSpec(**{**values, "fields": fields})

    def field_of(self, role: str) -> Field | None:
        """The first field with this role, or None."""
        return next((f for f in self.fields if f.role == role), None)


Status = Literal["ok", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: ok with features, or skipped/failed with a reason."""

    id: str
    status: Status
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of one image, as its author wrote it."""

    image_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A caption a run produced. ``score``: sum of token log-probabilities (natural log)."""

    image_id: str
    caption: str
    score: float = 0.0
