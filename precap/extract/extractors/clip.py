"""CLIP image towers through open_clip: patch tokens after ln_post, and the pooled embedding."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import open_clip
from open_clip.model import _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from torch import Tensor, nn

from precap.config import NonEmpty, as_dict, frozen
from precap.errors import ConfigError
from precap.extract import weights
from precap.extract.contract import About, Prepared, Setting
from precap.extract.extractors import _compute
from precap.extract.extractors._pixels import CLIP, Fit, Pixels
from precap.plugins import guess
from precap.types import Features, FeatureSpec, Field

Output = Literal["tokens", "pooled", "projected"]


@frozen
class ClipConfig:
    """model: an open_clip name. pretrained: its tag there, which also names the preprocessing;
    "openai" where there is one, else the first.

    preset: "hin" = ViT-L-14 tokens and pooled; "clipcap" = pooled alone, not normalised, ViT-B-32
    unless ``model`` says otherwise; both are OpenAI's weights, so both mean quickgelu=true unless
    ``pretrained`` names others. outputs: which fields to keep; "projected" = every token times the
    projection, in the space of ``pooled``. quickgelu: the activation OpenAI trained with; None =
    what ``pretrained`` needs, to be said for a FILE that may be OpenAI's. normalize: pooled of
    length 1.
    """

    model: str = ""
    pretrained: str = ""
    preset: Literal["", "hin", "clipcap"] = ""
    outputs: Annotated[tuple[Output, ...], NonEmpty] = ("tokens", "pooled")
    quickgelu: bool | None = None
    normalize: bool = False


class Clip:
    """tokens (N, W) without the class token, row-major; pooled (D,); projected (N, D)."""

    Config: ClassVar[type[Any]] = ClipConfig
    reads: ClassVar[Literal["image", "store"]] = "image"
    version: ClassVar[int] = 1
    about: ClassVar[About] = About(
        fields=(Field("tokens", "grid", (49, 768)), Field("pooled", "global", (512,))),
        paper="Radford et al., ICML 2021",
        weights="open_clip: hub, cache or FILE",
        read_by="HIN (preset hin), ClipCap (preset clipcap), Dual-Modal Transformer (RN50x4)",
    )

    def __init__(self, config: ClipConfig, setting: Setting) -> None:
        """Build the image tower and load its weights; ConfigError when there are none."""
        config = _resolved(config)
        found = weights.find(setting.weights, _source(config))
        state = {} if found.path is None else _tower_part(weights.load_state(found.path))
        quick = _quickgelu(config, setting)
        self.device, self.setting = _compute.device(setting), setting
        self.tower = _tower(config.model, quick).eval()
        if found.path is None:
            weights.randomise(self.tower, found.seed or 0)
        else:
            weights.fit(self.tower, state, str(found.path))
        self.tower.to(self.device)
        self.pixels = _pixels(config)
        self.outputs, self.normalize = config.outputs, config.normalize
        self.spec = self._spec(config, quick, found.digest)

    def prepare(self, item: "Image.Image | Features") -> Prepared:
        """The resized and cropped picture, (H, W, 3) uint8."""
        assert isinstance(item, Image.Image)
        return {"pixels": self.pixels.array(item)}

    def extract(self, batch: Sequence[Prepared]) -> list[Features]:
        """The chosen outputs of every picture."""
        pixels = self.pixels.tensor([one["pixels"] for one in batch], self.device)
        with _compute.forwarding(self.setting, self.device):
            found = self._forward(pixels)
        return _compute.features({name: found[name] for name in self.outputs}, self.setting)

    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        if isinstance(self.tower, ModifiedResNet):
            out = self.tower.forward_intermediates(pixels, indices=[4])
            tokens = out["image_intermediates"][0].flatten(2).transpose(1, 2)  # (B, N, W)
        else:
            out = self.tower.forward_intermediates(  # type: ignore[operator]
                pixels, indices=1, output_fmt="NLC", normalize_intermediates=True
            )
            tokens = out["image_intermediates"][0]  # (B, N, W), class token removed, after ln_post
        pooled = out["image_features"]  # (B, D)
        if self.normalize:
            pooled = nn.functional.normalize(pooled.float(), dim=-1)
        found = {"tokens": tokens, "pooled": pooled}
        if "projected" in self.outputs:
            found["projected"] = _project(self.tower, tokens)
        return found

    def _spec(self, config: ClipConfig, quick: bool, digest: str) -> FeatureSpec:
        one = self.extract([{"pixels": np.zeros((*self.pixels.size, 3), np.uint8)}])[0]
        roles: dict[str, Any] = {"tokens": "grid", "pooled": "global", "projected": "grid"}
        dtype = self.setting.storage
        fields = tuple(Field(name, roles[name], one[name].shape, dtype) for name in self.outputs)
        kept = ("model", "outputs", "normalize")
        identity = {k: v for k, v in as_dict(config).items() if k in kept}
        return _compute.spec(
            "clip",
            self.version,
            digest,
            fields,
            self.setting,
            preprocess=self.pixels.as_json(),
            config={**identity, "quickgelu": quick},
        )


def _resolved(config: ClipConfig) -> ClipConfig:
    """Presets and defaults spelt out: equal features have equal specs, however asked for."""
    known = open_clip.list_models()
    name = config.model or ("ViT-L-14" if config.preset == "hin" else "ViT-B-32")
    plain = name.removesuffix("-quickgelu")
    name = plain if plain in known else name
    if name not in known:
        raise ConfigError(f"open_clip has no model {name!r}.{guess(name, known)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = config.pretrained or ("openai" if "openai" in tags else next(iter(tags), ""))
    if config.pretrained and tag not in tags:
        raise ConfigError(f"open_clip has no {name} weights {tag!r}.{guess(tag, tags)}")
    quick = True if config.model.endswith("-quickgelu") else config.quickgelu
    if quick is None and config.preset and tag == "openai":
        quick = True
    elif quick is None and config.pretrained:
        quick = _trained_quick(name, tag)
    return ClipConfig(
        model=name,
        pretrained=tag,
        outputs=("pooled",) if config.preset == "clipcap" else config.outputs,
        quickgelu=quick,
        normalize=config.normalize,
    )


def _tag(config: ClipConfig) -> dict[str, Any]:
    """What open_clip knows of the weights: where they are, preprocessing, activation."""
    found: dict[str, Any] = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    return found


def _source(config: ClipConfig) -> weights.Source:
    known = _tag(config)
    repo, _, file = known.get("hf_hub", "").rpartition("/")
    files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    name = f"clip-{config.model}-{config.pretrained}".replace("/", "-")
    return weights.Source(name, repo=repo, files=files, url=known.get("url", ""))


def _trained_quick(model: str, tag: str) -> bool:
    return bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))


def _quickgelu(config: ClipConfig, setting: Setting) -> bool:
    """Which activation the weights were trained with: the wrong one costs accuracy silently."""
    if config.quickgelu is not None:
        return config.quickgelu
    if setting.weights == "auto":
        return _trained_quick(config.model, config.pretrained)
    if config.pretrained == "openai" and not setting.weights.startswith("random:"):
        raise ConfigError(
            f"{setting.weights} may be OpenAI's {config.model}, which was trained with QuickGELU, "
            f"or another, trained with GELU; the file does not say. Say which: --set "
            f"quickgelu=true for OpenAI's (or the model name {config.model}-quickgelu), "
            f"quickgelu=false for LAION's and most others."
        )
    return False


def _tower(name: str, quick: bool) -> nn.Module:
    """The image half of an open_clip model alone: the text half would double memory and time."""
    known = open_clip.get_model_config(name)
    vision = {**known["vision_cfg"], "timm_model_pretrained": False}
    quick = quick or bool(known.get("quick_gelu", False))
    tower: nn.Module = _build_vision_tower(known["embed_dim"], vision, quick)
    return tower


def _tower_part(state: weights.State) -> weights.State:
    prefix = "visual."
    if not any(name.startswith(prefix) for name in state):
        return state
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _pixels(config: ClipConfig) -> Pixels:
    size = open_clip.get_model_config(config.model)["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    known = _tag(config)
    fits: dict[str, Fit] = {"shortest": "crop", "squash": "squash"}
    mode = known.get("resize_mode", "shortest")
    if mode not in fits:
        raise ConfigError(f"clip:{config.model} resizes by {mode!r}, which is not supported.")
    return Pixels(
        fit=fits[mode],
        size=(height, width),
        resize=height,
        interpolation=known.get("interpolation", "bicubic"),
        mean=tuple(known.get("mean", CLIP[0])),
        std=tuple(known.get("std", CLIP[1])),
    )


def _project(tower: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens in the joint space: what pooled would be if the tower looked at one cell alone."""
    if isinstance(tower, ModifiedResNet):
        pool: Any = tower.attnpool
        dense: Tensor = pool.c_proj(pool.v_proj(tokens))  # (B, N, D)
        return dense
    matrix = getattr(tower, "proj", None)
    if not isinstance(matrix, Tensor):
        raise ConfigError("This CLIP tower has no projection; leave 'projected' out of outputs.")
    return tokens @ matrix  # (B, N, D)


PLUGIN = Clip
