"""TinyViT: raw last-stage tokens, and the normed mean that Tini-Tiny's captioner reads.

Wu et al., ECCV 2022. The network is timm's; official checkpoints are renamed to its keys.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import timm
from PIL import Image
from torch import nn

from precap.config import as_dict, frozen
from precap.errors import ConfigError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute
from precap.extract.extractors._pixels import CLIP, IMAGENET, Pixels
from precap.types import Features, Field

Variant = Literal["5m", "11m", "21m", "21m_384", "21m_512"]
_WIDTHS = {"5m": 320, "11m": 448, "21m": 576, "21m_384": 576, "21m_512": 576}
_ZOO = "https://github.com/wkcn/TinyViT-model-zoo/releases/download/checkpoints/"
#: Official key -> timm's, in this order; the classifier is left out.
_RENAMES = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"\.c\.weight$", ".conv.weight"),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^norm_head\.", "head.norm."),
)


@frozen
class TinyViTConfig:
    """variant: parameters, and resolution when it is not 224.

    preset: which of three published preprocessings: "official" (short side 256/224 of the crop;
    384 and 512 are squashed), "timm" (its data configuration), "clip" (short side = crop, CLIP's
    mean and std: what Tini-Tiny's captioner feeds, though the network was trained otherwise).
    """

    variant: Variant = "21m"
    preset: Literal["official", "timm", "clip"] = "official"


class TinyViT:
    """tokens (N, C), row-major, no final norm; pooled (C,), layer norm of their mean."""

    Config: ClassVar[type[Any]] = TinyViTConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=(Field("tokens", "grid", (49, 576)), Field("pooled", "global", (576,))),
        paper="Wu et al., ECCV 2022",
        weights="hub, cache, or the official .pth as FILE",
        read_by="Tini-Tiny-Image-Captioner (preset clip)",
    )

    def __init__(self, config: TinyViTConfig, setting: Setting) -> None:
        """Build the network and load its weights; ConfigError when there are none."""
        found = weights.find(setting.weights, _source(config.variant))
        self.device, self.setting = _compute.device(setting), setting
        self.network = _network(config.variant).eval()
        _load(self.network, found)
        self.network.to(self.device)
        self.pixels = _pixels(config)
        side, width = self.pixels.size[0] // 32, _WIDTHS[config.variant]
        self.spec = _compute.spec(
            "tinyvit",
            self.version,
            found.digest,
            (
                Field("tokens", "grid", (side * side, width), setting.storage),
                Field("pooled", "global", (width,), setting.storage),
            ),
            setting,
            preprocess=self.pixels.as_json(),
            config={"variant": as_dict(config)["variant"]},
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """The resized and cropped picture, (H, W, 3) uint8."""
        assert isinstance(item, Image.Image)
        return {"pixels": self.pixels.array(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """tokens and pooled of every picture."""
        pixels = self.pixels.tensor([one["pixels"] for one in batch], self.device)
        with _compute.forwarding(self.setting, self.device):
            grid = self.network.forward_features(pixels)  # type: ignore[operator]  # (B, C, h, w)
            pooled = self.network.forward_head(grid, pre_logits=True)  # type: ignore[operator]
            tokens = grid.flatten(2).transpose(1, 2)  # (B, N, C)
        return _compute.features({"tokens": tokens, "pooled": pooled}, self.setting)


def _architecture(variant: str) -> str:
    return f"tiny_vit_{variant}" if variant.endswith(("384", "512")) else f"tiny_vit_{variant}_224"


def _source(variant: str) -> weights.Source:
    size = variant.partition("_")[2]
    stem = f"tiny_vit_{variant.partition('_')[0]}_22kto1k_{size + '_' if size else ''}distill"
    repo = f"timm/{_architecture(variant)}.dist_in22k_ft_in1k"
    return weights.Source(stem, repo=repo, url=f"{_ZOO}{stem}.pth")


def _network(variant: str) -> nn.Module:
    network: nn.Module = timm.create_model(_architecture(variant), num_classes=0)
    return network


def _load(network: nn.Module, found: weights.Weights) -> None:
    if found.path is None:
        weights.randomise(network, found.seed or 0)
        return
    weights.fit(network, renamed(weights.load_state(found.path)), str(found.path))


def renamed(state: weights.State) -> weights.State:
    """An official or timm state dict with timm's names, without classifier and index buffers."""
    kept = {k: v for k, v in state.items() if not k.endswith("attention_bias_idxs")}
    if "patch_embed.seq.0.c.weight" not in kept:
        return {k: v for k, v in kept.items() if not k.startswith("head.fc.")}
    names = {k: k for k in kept if not k.startswith("head.")}
    for pattern, name in _RENAMES:
        names = {old: re.sub(pattern, name, new) for old, new in names.items()}
    return {new: kept[old] for old, new in names.items()}


def _pixels(config: TinyViTConfig) -> Pixels:
    size = int(config.variant.partition("_")[2] or 224)
    square = (size, size)
    if config.preset == "clip":
        if size != 224:
            raise ConfigError("tinyvit: preset clip goes with the 224 variants. Use official.")
        return Pixels("crop", square, size, "bicubic", *CLIP)
    if config.preset == "timm":
        percent = {224: 0.95, 384: 1.0, 512: 1.0}[size]
        fit: Literal["crop", "squash"] = "squash" if size == 512 else "crop"
        return Pixels(fit, square, int(size / percent), "bicubic", *IMAGENET)
    if size == 224:
        return Pixels("crop", square, 256, "bicubic", *IMAGENET)
    return Pixels("squash", square, size, "bicubic", *IMAGENET)


PLUGIN = TinyViT
