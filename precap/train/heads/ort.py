"""Object Relation Transformer (Herdade et al., NeurIPS 2019): regions and where they lie.

The encoder's attention between two regions is weighed by a learned function of their relative
position and size (equations 5 to 8).
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from precap.config import Count, frozen
from precap.train.contract import Memory, Words
from precap.train.heads._annotated import (
    AnnotatedNorm,
    Decoder,
    DotLook,
    EncoderLayer,
    initialise,
    keep_mask,
    sizes,
    table_rows,
)
from precap.train.heads._boxes import pairs, relative, waves
from precap.train.heads._captioner import Captioner


@frozen
class OrtConfig:
    """Published sizes are the defaults.

    trigonometric: sines and cosines of the geometry (64 numbers), else its 4 terms. Boxes are
    divided by the pictures' size where the store has one; the published weights want that.
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 6
    dropout: float = 0.1
    input_dropout: float = 0.5
    trigonometric: bool = True
    longest: int = 64


class RelationLayer(EncoderLayer):
    """Self-attention with ln max(ReLU(W_g geometry + b), 1e-6) added to the logits, per head."""

    def __init__(self, c: OrtConfig) -> None:
        super().__init__(c.dim, c.heads, c.hidden, c.dropout, AnnotatedNorm)
        self.geometry = nn.Linear(64 if c.trigonometric else 4, c.heads)

    def forward(self, x: Tensor, mask: Tensor | None, terms: Tensor | None = None) -> Tensor:
        """(B, N, D), mask (B, 1, 1, N), terms (B, N, N, 64) -> (B, N, D)."""
        assert terms is not None
        # clamp before log: a ReLU that gave 0 would make the pair impossible, and NaN in fp16
        bias = self.geometry(terms).relu().clamp_min(1e-6).log().permute(0, 3, 1, 2)
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        return super().forward(x, bias)


class Ort(Captioner):
    """See the module. Regions with boxes; ``size`` turns pixel boxes into relative ones."""

    Config = OrtConfig
    needs: ClassVar[frozenset[str]] = frozenset({"region", "boxes"})
    takes: ClassVar[frozenset[str]] = needs | {"size"}

    def __init__(self, config: OrtConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c = self.config = config
        self.region = nn.Sequential(
            nn.Linear(dims["region"], c.dim), nn.ReLU(), nn.Dropout(c.input_dropout)
        )
        self.encoder = nn.ModuleList(RelationLayer(c) for _ in range(c.layers))
        self.encoded = AnnotatedNorm(c.dim)
        self.decoder = Decoder(
            words, c.dim, c.heads, c.hidden, c.layers, c.dropout, c.longest,
            lambda: DotLook(c.dim, c.heads, c.dropout), AnnotatedNorm,
        )  # fmt: skip
        initialise(self.encoder)
        initialise(self.decoder)

    def terms(self, boxes: Tensor) -> Tensor:
        """Relative boxes (B, N, 4) -> what the geometry is judged by, (B, N, N, 64 or 4)."""
        raw = pairs(boxes.float())
        return waves(raw) if self.config.trigonometric else raw

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Regions among each other, once per image."""
        memory: Memory = {}
        mask = keep_mask(memory, masks)
        x = self.region(features["region"].to(self.decoder.output.weight.dtype))
        terms = self.terms(relative(features["boxes"], features.get("size"))).to(x.dtype)
        for layer in self.encoder:
            x = cast(RelationLayer, layer)(x, mask, terms)
        self.decoder.keep(self.encoded(x), memory)
        return memory


RULES = (
    (r"^att_embed\.0\.", "region.0."),
    (r"^model\.encoder\.layers\.", "encoder."),
    (r"^model\.encoder\.norm\.", "encoded."),
    (r"^model\.decoder\.layers\.", "decoder.layers."),
    (r"^model\.decoder\.norm\.", "decoder.last."),
    (r"^model\.tgt_embed\.0\.(lut|embedding)\.", "decoder.embed.word."),
    (r"^model\.tgt_embed\.1\.pe$", "decoder.embed.table"),
    (r"^model\.generator\.proj\.", "decoder.output."),
    *((rf"\.self_attn\.linears\.{i}\.", f".own.{n}.") for i, n in enumerate("qkvo")),
    *((rf"\.src_attn\.linears\.{i}\.", f".look.attention.{n}.") for i, n in enumerate("qkvo")),
    (r"\.feed_forward\.(w_1|fc\.0)\.", ".feed.inner."),
    (r"\.feed_forward\.(w_2|fc\.3)\.", ".feed.outer."),
    (r"\.sublayer\.(\d)\.norm\.", r".skips.\1.norm."),
    (r"\.a_2$", ".weight"),
    (r"\.b_2$", ".bias"),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published ORT state dict under our names: eight geometry layers become one."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        geometry = re.match(r"^model\.encoder\.layers\.(\d+)\.self_attn\.WGs\.(\d+)\.(.*)$", key)
        if geometry:
            name = f"encoder.{geometry[1]}.geometry.{geometry[3]}"
            parts.setdefault(name, {})[int(geometry[2])] = value
            continue
        for pattern, new in RULES:
            key = re.sub(pattern, new, key)
        found[key] = value
    found |= {name: torch.cat([heads[i] for i in sorted(heads)]) for name, heads in parts.items()}
    return table_rows(found)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config that the tensors decide."""
    found = sizes(state, "feed_forward.w_1.weight")
    width = state["model.encoder.layers.0.self_attn.WGs.0.weight"].shape[1]
    return {**found, "trigonometric": width == 64}


PLUGIN = Ort
IMPORTERS = {"ort": convert}
IMPORT_OPTIONS = {"ort": options}
