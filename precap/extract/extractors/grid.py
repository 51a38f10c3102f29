"""Any timm backbone: its last feature map as tokens, and their mean."""

import difflib
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from precap.config import Count, as_dict, frozen
from precap.errors import ConfigError, ImageError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute
from precap.extract.extractors._pixels import IMAGENET, Fit, Pixels
from precap.types import Features, FeatureSpec, Field

Triple = tuple[float, float, float]
#: A picture of no network's own size (height, width), and the sides tried to find the shortest.
_ODD = (97, 129)
_SIDES = range(1, 97)


@frozen
class GridConfig:
    """Every value left at None comes from the backbone's own data configuration in timm.

    model: a timm name, with ``.tag`` to choose among published weights. preset: "resnet101" gives
    self-critical's ``att`` (14 x 14 x 2048) and ``fc`` whatever else is set. size: height = width
    of the network input. resize: side before the crop. fit: crop, squash or keep (original size).
    mean, std: of samples in 0..1. cells: average the map to cells x cells. pad_type: "same" for
    weights that come from TensorFlow. kwargs: further arguments of ``timm.create_model``.
    """

    model: str = "resnet50"
    preset: Literal["", "resnet101"] = ""
    size: Count | None = None
    resize: Count | None = None
    fit: Fit | None = None
    interpolation: str | None = None
    mean: Triple | float | None = None
    std: Triple | float | None = None
    cells: Count | None = None
    pad_type: Literal["", "same"] = ""
    kwargs: dict[str, Any] | None = None


class Grid:
    """tokens (N, C), row-major over the map; pooled (C,), their mean before any ``cells``."""

    Config: ClassVar[type[Any]] = GridConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=(Field("tokens", "grid", (49, 2048)), Field("pooled", "global", (2048,))),
        paper="the backbone's own; preset resnet101: Rennie et al., CVPR 2017",
        weights="any timm model: hub, cache or FILE; resnet101: caffe-converted resnet101.pth",
        read_by="Spatial-Image-Captioning (preset resnet101)",
    )

    def __init__(self, config: GridConfig, setting: Setting) -> None:
        """Build the backbone and load its weights; ConfigError when there are none."""
        found = weights.find(setting.weights, _source(config))
        self.device, self.setting = _compute.device(setting), setting
        self.network = _backbone(config).eval()
        _load(self.network, found)
        self.network.to(self.device)
        self.pixels = _pixels(config, self.network)
        self.cells = 14 if config.preset else config.cells
        self.shortest = self._shortest(config) if self.pixels.fit == "keep" else 1
        self.spec = self._spec(config, found.digest)

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """The resized picture, (H, W, 3) uint8."""
        assert isinstance(item, Image.Image)
        if min(item.size) < self.shortest:
            size = f"{item.width} x {item.height}"
            raise ImageError("too-narrow", f"{size}; the network needs sides of {self.shortest}")
        return {"pixels": self.pixels.array(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """tokens and pooled of every picture of one batch of equal sizes."""
        pixels = self.pixels.tensor([one["pixels"] for one in batch], self.device)
        with _compute.forwarding(self.setting, self.device):
            tokens, pooled = self._forward(pixels)
        return _compute.features({"tokens": tokens, "pooled": pooled}, self.setting)

    def _forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.forward_features(pixels)  # type: ignore[operator]
        tokens = _as_tokens(found, self.network)  # (B, N, C) or (B, C, h, w)
        if tokens.ndim == 4:
            pooled = tokens.mean((2, 3))  # (B, C)
            if self.cells:
                tokens = nn.functional.adaptive_avg_pool2d(tokens, self.cells)
            return tokens.flatten(2).transpose(1, 2), pooled  # (B, N, C)
        if self.cells:
            raise ConfigError(
                f"{type(self.network).__name__} gives a sequence of tokens, not a map whose cells "
                f"could be averaged: leave cells out."
            )
        return tokens, tokens.mean(1)

    def _blank(self, height: int, width: int) -> Features:
        """Features of a black picture; _Refused when the network takes none of this size."""
        try:
            return self.extract([{"pixels": np.zeros((height, width, 3), np.uint8)}])[0]
        except (ConfigError, torch.OutOfMemoryError):
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _Refused(f"{height} x {width}: {error}") from error

    def _shortest(self, config: GridConfig) -> int:
        """The shortest side of a picture that the network takes at the picture's own size."""
        try:
            self._blank(*_ODD)
        except _Refused as error:
            raise ConfigError(
                f"grid:{_architecture(config)} does not take pictures of any size ({error}), as "
                f"fit=keep needs. Use fit=crop or squash, or a convolutional network."
            ) from error
        for side in _SIDES:
            try:
                self._blank(side, side)
            except _Refused:
                continue
            return side
        return min(_ODD)

    def _spec(self, config: GridConfig, digest: str) -> FeatureSpec:
        try:
            one = self._blank(*self.pixels.size)
        except _Refused as error:
            raise ConfigError(
                f"grid:{_architecture(config)} does not take pictures of {error}. Leave size out, "
                f"choose another, or build the network for it: --set 'kwargs={{img_size: SIZE}}'."
            ) from error
        count, width = one["tokens"].shape
        keep = self.pixels.fit == "keep" and not self.cells
        dtype = self.setting.storage
        fields = (
            Field("tokens", "grid", (None if keep else count, width), dtype),
            Field("pooled", "global", (width,), dtype),
        )
        kept = ("model", "preset", "cells", "pad_type", "kwargs")
        identity = {k: v for k, v in as_dict(config).items() if k in kept}
        return _compute.spec(
            "grid",
            self.version,
            digest,
            fields,
            self.setting,
            preprocess=self.pixels.as_json(),
            config=identity,
        )


class _Refused(Exception):
    """What the network said of a picture's size."""


def _architecture(config: GridConfig) -> str:
    return "resnet101" if config.preset else config.model


def _source(config: GridConfig) -> weights.Source:
    if config.preset:
        return weights.Source("resnet101-caffe", files=())
    try:
        known: Any = timm.get_pretrained_cfg(config.model, allow_unregistered=False)
    except RuntimeError as error:
        raise ConfigError(f"grid:{config.model}: {error} {_similar(config.model)}") from error
    name = f"timm-{config.model}" + ("" if "." in config.model else f".{known.tag}")
    return weights.Source(name.rstrip("."), repo=known.hf_hub_id or "", url=known.url or "")


def _similar(name: str) -> str:
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}All names: python -c 'import timm; print(*timm.list_models())'."


def _backbone(config: GridConfig) -> nn.Module:
    name = _architecture(config)
    options = dict(config.kwargs or {})
    if config.pad_type:
        options["pad_type"] = config.pad_type
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        raise ConfigError(f"timm.create_model({name!r}) refused an option: {error}") from error
    return _as_caffe(network) if config.preset else network


def _as_caffe(network: nn.Module) -> nn.Module:
    """The converted caffe network: unpadded pooling, stride in the first 1x1 convolution."""
    network.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for stage in ("layer2", "layer3", "layer4"):
        block = getattr(network, stage)[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    return network


def _load(network: nn.Module, found: weights.Weights) -> None:
    if found.seed is not None:
        weights.randomise(network, found.seed)
        return
    assert found.path is not None
    state: dict[str, Any] = weights.load_state(found.path)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, network)
    weights.fit(network, _without_classifier(state, network), str(found.path))


def _without_classifier(state: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """The classifier is never used: whatever the file has there, keep the network's own."""
    names = getattr(network, "default_cfg", {}).get("classifier") or ()
    heads = (names,) if isinstance(names, str) else tuple(names)
    own = network.state_dict()
    for head in heads:
        for key in (f"{head}.weight", f"{head}.bias"):
            state.pop(key, None)
            if key in own:
                state[key] = own[key]
    return state


def _pixels(config: GridConfig, network: nn.Module) -> Pixels:
    if config.preset:
        return Pixels("keep", (224, 224), 224, "bicubic", *IMAGENET)
    data: Any = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    size = config.size or data["input_size"][-1]
    fit = config.fit or _fit(data["crop_mode"])
    return Pixels(
        fit=fit,
        size=(size, size),
        resize=config.resize or (int(size / data["crop_pct"]) if config.fit is None else size),
        interpolation=config.interpolation or data["interpolation"],
        mean=_triple(config.mean, data["mean"]),
        std=_triple(config.std, data["std"]),
    )


def _fit(crop_mode: str) -> Fit:
    if crop_mode == "border":
        raise ConfigError("This backbone pads to a square; choose --set fit=crop or squash.")
    return "squash" if crop_mode == "squash" else "crop"


def _triple(value: Triple | float | None, default: Triple) -> Triple:
    if value is None:
        return default
    return (value, value, value) if isinstance(value, float) else value


def _as_tokens(found: Tensor, network: nn.Module) -> Tensor:
    """timm's three layouts -> (B, C, h, w) for maps, (B, N, C) for token sequences."""
    if found.ndim == 4:
        last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        return found.permute(0, 3, 1, 2) if last else found
    if found.ndim == 3:
        return found[:, int(getattr(network, "num_prefix_tokens", 0)) :]
    raise ConfigError(f"{type(network).__name__} gives {found.ndim}-d features: not a grid.")


PLUGIN = Grid
