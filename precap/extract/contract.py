"""What an extractor is: a declared spec, a per-image preparation, a batched forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from numpy.typing import NDArray

from precap.types import Features, FeatureSpec, Field

if TYPE_CHECKING:
    from PIL.Image import Image

#: What ``prepare`` hands to ``extract``: named numpy arrays of one image, picklable.
Prepared = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how an extractor computes; ``weights`` and ``compute`` enter its spec.

    weights: "auto" (cache, then hub), a file path, or "random:SEED". device: torch device name.
    compute: fp32, bf16 or fp16. storage: dtype of stored float fields. views: augmented versions.
    parent: the store that a ``reads = "store"`` extractor derives from.
    """

    weights: str = "auto"
    device: str = "cpu"
    compute: str = "fp32"
    storage: str = "float16"
    views: int = 1
    parent: Path | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What ``precap extract --list`` says of an extractor; a class attribute ``about``, optional.

    fields: of its default variant. paper: where the features come from. weights: where to get them.
    read_by: which published captioning systems read these features.
    """

    fields: tuple[Field, ...]
    paper: str = ""
    weights: str = ""
    read_by: str = ""


class Extractor(Protocol):
    """Images (or another store's rows) to features. One file, one class, named by ``PLUGIN``.

    Built as ``PLUGIN(config, setting)``; ``config`` is its ``Config``, a frozen dataclass whose
    first field is what ``NAME:VARIANT`` on the command line sets. Building loads the weights.
    Features of an image never depend on what else is in the batch. Raises ImageError for one
    image that gives no features; anything else is a bug and stops the shard.
    """

    Config: ClassVar[type[Any]]
    #: "image": ``prepare`` gets an RGB PIL image, upright, whose ``info["path"]`` says which file
    #: it is. "store": it gets the parent's Features.
    reads: ClassVar[Literal["image", "store"]]
    spec: FeatureSpec

    def prepare(self, item: "Image | Features") -> Prepared:
        """Everything that needs one image alone; runs in decoding threads, must be thread-safe."""
        ...

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """The forward: one Features per prepared image, arrays as ``spec.fields`` declares them."""
        ...
