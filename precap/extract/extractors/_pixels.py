"""Resizing, cropping and normalising as the published preprocessings do them: uint8 in PIL."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from precap.errors import ConfigError

Fit = Literal["crop", "squash", "keep"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
#: A picture more elongated than this is cut to its centre before ``crop``: a strip of 1 x 5000
#: pixels would otherwise grow to 224 x 1,120,000.
MAX_ASPECT = 16


@dataclass(frozen=True)
class Pixels:
    """One preprocessing, as it stands in the spec.

    fit: "crop" resizes the short side to ``resize`` and takes the centre ``size``; "squash"
    resizes both sides to ``resize`` and takes the centre ``size``; "keep" leaves the picture as it
    is. size: (height, width). mean, std: of the samples divided by 255.
    """

    fit: Fit
    size: tuple[int, int]
    resize: int
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def __post_init__(self) -> None:
        """Refuse an interpolation that Pillow does not have."""
        known = [r.name.lower() for r in Image.Resampling]
        if self.interpolation not in known:
            raise ConfigError(
                f"There is no interpolation {self.interpolation!r}. Available: {', '.join(known)}."
            )

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``FeatureSpec.preprocess``."""
        return asdict(self)

    def array(self, image: Image.Image) -> NDArray[np.uint8]:
        """``image`` resized and cropped: (H, W, 3) uint8."""
        if self.fit != "keep":
            image = self._cropped(self._resized(image))
        return np.asarray(image)

    def tensor(self, arrays: Sequence[NDArray[np.uint8]], device: str) -> Tensor:
        """Arrays of one shape -> (B, 3, H, W) float32, normalised, on ``device``."""
        batch = torch.from_numpy(np.stack(arrays)).to(device)  # (B, H, W, 3)
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return pixels.div_(255).sub_(mean).div_(std)  # (B, 3, H, W)

    def _resized(self, image: Image.Image) -> Image.Image:
        how = Image.Resampling[self.interpolation.upper()]
        if self.fit == "squash":
            return image.resize(self._squashed(), how)
        image = _centre(image, MAX_ASPECT)
        width, height = image.size
        short, long = min(width, height), max(width, height)
        grown = int(self.resize * long / short)  # torchvision's rounding
        size = (self.resize, grown) if width <= height else (grown, self.resize)
        return image if size == image.size else image.resize(size, how)

    def _squashed(self) -> tuple[int, int]:
        height, width = self.size
        return (round(self.resize * width / height), self.resize)

    def _cropped(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        if image.size == (width, height):
            return image
        left = round((image.width - width) / 2)  # half to even, as torchvision
        top = round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def _centre(image: Image.Image, aspect: int) -> Image.Image:
    width, height = image.size
    limit = aspect * min(width, height)
    if max(width, height) <= limit:
        return image
    cut_w, cut_h = min(width, limit), min(height, limit)
    left, top = (width - cut_w) // 2, (height - cut_h) // 2
    return image.crop((left, top, left + cut_w, top + cut_h))
