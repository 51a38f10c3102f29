"""X-VLM's image encoder: Swin-B tokens after the final norm, their mean in front.

Zeng et al., ICML 2022. The network is timm's Swin-B (equal to the published code bit for bit);
loading at another resolution resizes the position tables by X-VLM's own cubic spline.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import timm
import torch
from PIL import Image
from scipy.interpolate import RectBivariateSpline
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from precap.config import Count, as_dict, frozen
from precap.errors import ConfigError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute
from precap.extract.extractors._pixels import CLIP, Pixels
from precap.types import Features, Field

WIDTH = 1024
_TABLE = "relative_position_bias_table"
_SOURCE = weights.Source(
    "xvlm-4m_base_model_state_step_199999",
    files=(),
    url="X-VLM's 4M or 16M checkpoint: links in the README of github.com/zengyan-97/X-VLM",
)


@frozen
class XVLMConfig:
    """size: 224 (OPG, 50 tokens), 384 (captioning fine-tunes, 145) or 480 (226): a multiple of 32.

    mean: whether row 0 of ``tokens`` is the mean of the others, as X-VLM and OPG have it.
    """

    size: Count = 224
    mean: bool = True


class XVLM:
    """tokens (1 + N, 1024), row-major after the mean; pooled (1024,), that mean."""

    Config: ClassVar[type[Any]] = XVLMConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=(Field("tokens", "grid", (50, WIDTH)), Field("pooled", "global", (WIDTH,))),
        paper="Zeng et al., ICML 2022",
        weights="X-VLM's 4M or 16M checkpoint (.th) as FILE; bare vision encoders load too",
        read_by="OPG",
    )

    def __init__(self, config: XVLMConfig, setting: Setting) -> None:
        """Build Swin-B and load its weights; ConfigError when there are none."""
        if config.size % 32:
            raise ConfigError(f"xvlm: size {config.size} is not a multiple of 32. Use 224 or 384.")
        found = weights.find(setting.weights, _SOURCE)
        self.device, self.setting = _compute.device(setting), setting
        self.network = _swin(config.size).eval()
        _load(self.network, found, config.size // 32)
        self.network.to(self.device)
        size = config.size
        self.pixels = Pixels("squash", (size, size), size, "bicubic", *CLIP)
        self.mean = config.mean
        rows = (size // 32) ** 2 + config.mean
        self.spec = _compute.spec(
            "xvlm",
            self.version,
            found.digest,
            (
                Field("tokens", "grid", (rows, WIDTH), setting.storage),
                Field("pooled", "global", (WIDTH,), setting.storage),
            ),
            setting,
            preprocess=self.pixels.as_json(),
            config=as_dict(config),
        )

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """The squashed picture, (size, size, 3) uint8."""
        assert isinstance(item, Image.Image)
        return {"pixels": self.pixels.array(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """tokens and pooled of every picture."""
        pixels = self.pixels.tensor([one["pixels"] for one in batch], self.device)
        with _compute.forwarding(self.setting, self.device):
            tokens = self.network.forward_features(pixels).flatten(1, 2)  # type: ignore[operator]
            pooled = tokens.mean(1)  # (B, 1024)
            if self.mean:
                tokens = torch.cat([pooled[:, None], tokens], 1)  # (B, 1 + N, 1024)
        return _compute.features({"tokens": tokens, "pooled": pooled}, self.setting)


def _swin(size: int) -> nn.Module:
    network: nn.Module = timm.create_model(
        "swin_base_patch4_window7_224", num_classes=0, img_size=size, window_size=size // 32
    )
    return network


def _load(network: nn.Module, found: weights.Weights, window: int) -> None:
    if found.path is None:
        weights.randomise(network, found.seed or 0)
        return
    state = vision_part(weights.load_state(found.path))
    for name in state:
        if name.endswith(_TABLE):
            state[name] = resized_table(state[name], window)
    weights.fit(network, checkpoint_filter_fn(state, network), str(found.path))


def vision_part(state: weights.State) -> weights.State:
    """The encoder's tensors without their prefix and without the buffers that a window implies."""
    prefix = "vision_encoder."
    if any(name.startswith(prefix) for name in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    derived = ("relative_position_index", "attn_mask")
    return {name: value for name, value in state.items() if not name.endswith(derived)}


def resized_table(table: Tensor, window: int) -> Tensor:
    """A position table ((2w - 1)^2, heads) for another window, as X-VLM resizes it.

    The source positions grow geometrically from the centre, so that the ends of both tables meet;
    a cubic spline through them is read at whole offsets.
    """
    source = round(table.shape[0] ** 0.5)
    target = 2 * window - 1
    if source == target:
        return table
    at, to = _positions(source, target), np.arange(-(target // 2), target // 2 + 0.1)
    values = table.detach().double().view(source, source, -1).numpy()  # (s, s, heads)
    resized = [RectBivariateSpline(at, at, head)(to, to) for head in values.transpose(2, 0, 1)]
    stacked = np.stack(resized, -1).reshape(target * target, -1)  # (t * t, heads)
    return torch.from_numpy(stacked).to(table.dtype)


def _positions(source: int, target: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``source`` offsets 0, +-1, +-(1 + q), ... with q such that the last is ``target // 2``."""
    low, high, ratio = 1.01, 1.5, 1.255
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reached = (1 - ratio ** (source // 2)) / (1 - ratio)
        low, high = (low, ratio) if reached > target // 2 else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(source // 2))  # the last ratio tried, as published
    return np.concatenate([-steps[::-1], [0.0], steps])


PLUGIN = XVLM
