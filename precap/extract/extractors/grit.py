"""GRIT's detector: 60 grid tokens and 150 regions on a fixed canvas, what GRIT and HierCap read."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from precap.config import as_dict, frozen
from precap.errors import ConfigError, ImageError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute
from precap.extract.extractors._deformable import QUERIES, WIDTH, Decoder
from precap.extract.extractors._grit_swin import Swin
from precap.extract.extractors._pixels import IMAGENET, Pixels
from precap.extract.extractors._translate import Rules, fill
from precap.types import Features, Field

#: Pixels of the canvas per cell of the last map.
STRIDE = 64

#: Published key -> own name. Captioning checkpoints hold the detector behind ``detector.`` beside
#: the captioner; class scores, level embedding and three norms are in the file but never read.
_RULES: Rules = (
    (r"^(cap_generator|grid_net|glob_net)\.", None),
    (r"^detector\.", ""),
    (r"^backbone\.norm\d\.|^det_module\.(class_embed|level_embed)", None),
    (r"downsample\.(expansion|norm2)\.|relative_position_index$|attn_mask$", None),
)


@frozen
class GritConfig:
    """resize: how the picture enters the canvas; "maxwh" keeps its aspect ratio, as published.

    canvas: height and width that every picture is laid on, top left; multiples of 64. Published
    captioners read the 6 x 10 cells of 384 x 640.
    """

    resize: Literal["maxwh"] = "maxwh"
    canvas: tuple[int, int] = (384, 640)


def _fields(storage: str, canvas: tuple[int, int] = (384, 640)) -> tuple[Field, ...]:
    cells = (canvas[0] // STRIDE) * (canvas[1] // STRIDE)
    return (
        Field("grid", "grid", (cells, 1024), storage),
        Field("mask", "mask", (cells,), "bool"),
        Field("region", "region", (QUERIES, WIDTH), storage),
        Field("boxes", "boxes", (QUERIES, 4)),
        Field("size", "size", (2,), "int64"),
    )


class Network(nn.Module):
    """Backbone, one projection per map, decoder; submodules bear the published names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Swin()
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, WIDTH, 1), nn.GroupNorm(32, WIDTH))
            for width in (256, 512, 1024, 1024)
        )
        self.det_module = Decoder()

    def forward(self, pixels: Tensor, padding: Tensor) -> dict[str, Tensor]:
        """pixels: (B, 3, 384, 640) normalised, zero outside the image. padding: (B, 384, 640) bool.

        grid (B, 60, 1024), padding of it (B, 60), region (B, 150, 512), boxes (B, 150, 4) as
        cx, cy, w, h relative to the image.
        """
        maps = self.backbone(pixels)
        hidden = [_shrunk(padding, m.shape[2], m.shape[3]) for m in maps]
        projected = [p(m) for p, m in zip(self.input_proj, maps, strict=True)]
        region, boxes = self.det_module(projected, hidden)
        grid = maps[-1].flatten(2).transpose(1, 2)
        return {"grid": grid, "padding": hidden[-1].flatten(1), "region": region, "boxes": boxes}


class Grit:
    """grid (60, 1024), its mask (60,), True where there is image, region (150, 512), boxes, size.

    Boxes are x1, y1, x2, y2 in pixels of the original image, not clipped to it: a query may reach
    over the edge, and (x1 + x2) / 2 / width is then still exactly what the network said.
    """

    Config: ClassVar[type[Any]] = GritConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=_fields("float32"),
        paper="Nguyen et al., ECCV 2022 (GRIT)",
        weights="FILE: GRIT's detector_checkpoint*.pth, or a GRIT or HierCap captioning checkpoint",
        read_by="GRIT, HierCap",
    )

    def __init__(self, config: GritConfig, setting: Setting) -> None:
        """Build the network and load its weights; ConfigError when there are none."""
        if min(config.canvas) < STRIDE or any(side % STRIDE for side in config.canvas):
            raise ConfigError(f"canvas {config.canvas}: both sides must be multiples of {STRIDE}.")
        found = weights.find(setting.weights, weights.Source("grit-detector", files=()))
        self.device, self.setting = _compute.device(setting), setting
        self.canvas = config.canvas
        self.network = Network().eval()
        fill(self.network, found, _RULES)
        self.network.to(self.device)
        self.pixels = Pixels("keep", self.canvas, self.canvas[0], "bicubic", *IMAGENET)
        self.spec = _compute.spec(
            "grit",
            self.version,
            found.digest,
            _fields(setting.storage, config.canvas),
            setting,
            preprocess={**self.pixels.as_json(), "fit": config.resize},
            config=as_dict(config),
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """The picture resized to fit the canvas, (h, w, 3) uint8, and its original size (2,)."""
        assert isinstance(item, Image.Image)
        width, height = fitted(item.width, item.height, self.canvas)
        if min(width, height) < 1:
            raise ImageError(
                "too-narrow", f"{item.width} x {item.height} leaves no pixel to resize"
            )
        resized = item.resize((width, height), Image.Resampling.BICUBIC)
        return {
            "pixels": np.asarray(resized),
            "size": np.array([item.height, item.width], np.int64),
        }

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """Features of every picture; the canvas makes them independent of one another."""
        pixels, padding = self.on_canvas([one["pixels"] for one in batch])
        with _compute.forwarding(self.setting, self.device):
            out = self.network(pixels, padding)
        sizes = np.stack([one["size"] for one in batch])
        rows = {
            "grid": _compute.rows(out["grid"], self.setting.storage),
            "mask": ~out["padding"].cpu().numpy(),
            "region": _compute.rows(out["region"], self.setting.storage),
            "boxes": _in_pixels(out["boxes"].float().cpu().numpy(), sizes),
            "size": sizes,
        }
        return [{name: array[i] for name, array in rows.items()} for i in range(len(batch))]

    def on_canvas(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Pictures, top left on zeros (B, 3, H, W), and True around them (B, H, W)."""
        canvas = torch.zeros(len(pictures), 3, *self.canvas, device=self.device)
        padding = torch.ones(len(pictures), *self.canvas, dtype=torch.bool, device=self.device)
        for i, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            canvas[i, :, :height, :width] = self.pixels.tensor([picture], self.device)[0]
            padding[i, :height, :width] = False
        return canvas, padding


def fitted(width: int, height: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) inside the canvas with this aspect ratio, rounded down."""
    scale = min(canvas[1] / width, canvas[0] / height)
    return int(width * scale), int(height * scale)


def _shrunk(padding: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W) bool to (B, height, width), nearest."""
    return F.interpolate(padding[:, None].float(), (height, width))[:, 0].bool()


def _in_pixels(boxes: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, 150, 4) relative centres and sizes to pixel corners; sizes (B, 2): height, width."""
    scale = sizes[:, None, ::-1].astype(np.float32)  # (B, 1, 2)
    centre, half = boxes[..., :2] * scale, boxes[..., 2:] * scale / 2
    return np.concatenate([centre - half, centre + half], -1).astype(np.float32)


PLUGIN = Grit
