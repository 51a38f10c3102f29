"""Spatial-Image-Captioning: regions that know which rows and columns of a grid they cover.

The spatial encoding is added before the encoder; the decoder looks at the regions by X-Linear
attention (Pan et al., CVPR 2020): bilinear, with a spatial softmax and a channel gate.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precap.config import Count, frozen
from precap.errors import ConfigError
from precap.train.contract import Memory, Words
from precap.train.heads._annotated import (
    Decoder,
    DotLook,
    EncoderLayer,
    initialise,
    keep_mask,
    sizes,
    table_rows,
)
from precap.train.heads._boxes import coverage, relative, sums
from precap.train.heads._captioner import Captioner
from precap.train.heads.ort import RULES


@frozen
class SpatialConfig:
    """Published sizes are the defaults, but for dropout: the original's 0.5 everywhere underfits.

    encoding: "gxg" row and column sums of a ``cells`` x ``cells`` grid (spatial_pe), "g2" its cells
    flat, "box" the four relative coordinates, "none". The grid comes from a ``weights`` field
    (cells^2 numbers per region), else from boxes. look: "xlinear" or "dot".
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 6
    dropout: float = 0.1
    encoding: Literal["gxg", "g2", "box", "none"] = "gxg"
    cells: Count = 12
    look: Literal["xlinear", "dot"] = "xlinear"
    squeezed: int = 256
    longest: int = 64


class Bilinear(nn.Module):
    """LN(CELU(W z + b)): one of X-Linear's projections (its GroupNorm has one group)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, z: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.norm(F.celu(self.linear(z)))
        return out


class XLinearLook(nn.Module):
    """X-Linear attention with one head; keys and values are made once per image.

    E_ij = Drop(ReLU(W_e (q_i * k_j))); a_ij = softmax_j(w . E_ij); c_i = sigmoid(W_c mean_j E_ij);
    out_i = q'_i * (sum_j a_ij v_j) * c_i.
    """

    def __init__(self, dim: int, squeezed: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.gain, self.value = (Bilinear(dim) for _ in range(4))
        self.embed, self.spatial = nn.Linear(dim, squeezed), nn.Linear(squeezed, 1)
        self.channel, self.dropout = nn.Linear(squeezed, dim), nn.Dropout(dropout)

    def keep(self, rows: Tensor, memory: Memory, at: str) -> None:
        """Keys and values (B, N, D)."""
        memory[f"{at}.k"], memory[f"{at}.v"] = self.key(rows), self.value(rows)

    def forward(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        pair = self._pairs(x, memory, at)  # (B, L, N, M)
        real = self._real(pair, memory)
        weights = self._softmax(pair, real)
        mean = (pair * real[..., None]).sum(2) / real.sum(2).clamp_min(1)[..., None]
        gate = torch.sigmoid(self.channel(mean))  # (B, L, D)
        out: Tensor = self.gain(x) * (weights @ memory[f"{at}.v"]) * gate
        return out

    def where(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, N)."""
        pair = self._pairs(x, memory, at)
        return self._softmax(pair, self._real(pair, memory))

    def _pairs(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        both = self.query(x)[:, :, None] * memory[f"{at}.k"][:, None]  # (B, L, N, D)
        out: Tensor = self.dropout(F.relu(self.embed(both)))
        return out

    def _real(self, pair: Tensor, memory: Memory) -> Tensor:
        if "mask" not in memory:
            return pair.new_ones(1, 1, pair.shape[2], dtype=torch.bool)
        return memory["mask"][:, 0]  # (B, 1, N)

    def _softmax(self, pair: Tensor, real: Tensor) -> Tensor:
        logits = self.spatial(pair)[..., 0]  # (B, L, N)
        weights: Tensor = logits.masked_fill(~real, float("-inf")).softmax(-1)
        return weights


class Encoding(nn.Module):
    """What the place of a region adds to it; replaces the row by Drop(W3 x + ...) for "gxg"."""

    def __init__(self, c: SpatialConfig) -> None:
        super().__init__()
        self.kind, self.cells = c.encoding, c.cells
        if c.encoding == "gxg":
            self.rows, self.columns = nn.Linear(c.cells, c.dim), nn.Linear(c.cells, c.dim)
            self.row, self.dropout = nn.Linear(c.dim, c.dim), nn.Dropout(c.dropout)
        elif c.encoding == "g2":
            self.cell = nn.Linear(c.cells**2, c.dim)
        elif c.encoding == "box":
            self.box = nn.Sequential(
                nn.Linear(4, c.dim // 2), nn.ReLU(), nn.Linear(c.dim // 2, c.dim)
            )

    def forward(self, x: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.kind == "box":
            x = x + self.box(_boxes(features).to(x.dtype))
        if self.kind == "g2":
            x = x + self.cell(self._cells(features).to(x.dtype))
        if self.kind != "gxg":
            return x
        rows, columns = (part.to(x.dtype) for part in self._sums(features))
        placed: Tensor = self.dropout(self.row(x) + self.rows(rows) + self.columns(columns))
        return placed

    def _sums(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Row sums and column sums of the grid, (B, N, g) each."""
        if "weights" in features:
            flat = features["weights"].float()  # (B, N, g^2)
            grid = flat.view(*flat.shape[:2], self.cells, self.cells)
            return grid.sum(-1), grid.sum(-2)
        return sums(*coverage(_boxes(features), self.cells))

    def _cells(self, features: Mapping[str, Tensor]) -> Tensor:
        if "weights" in features:
            return features["weights"]
        rows, columns = coverage(_boxes(features), self.cells)
        return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def _boxes(features: Mapping[str, Tensor]) -> Tensor:
    return relative(features["boxes"].float(), features.get("size"))


class Spatial(Captioner):
    """See the module. Regions, with ``weights`` or ``boxes`` (and ``size``) for the encoding."""

    Config = SpatialConfig
    needs: ClassVar[frozenset[str]] = frozenset({"region"})
    takes: ClassVar[frozenset[str]] = needs | {"weights", "boxes", "size"}

    def __init__(self, config: SpatialConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c = self.config = config
        _check(c, dims)
        self.region = nn.Sequential(
            nn.Linear(dims["region"], c.dim), nn.ReLU(), nn.Dropout(c.dropout)
        )
        self.place = Encoding(c)
        self.encoder = nn.ModuleList(
            EncoderLayer(c.dim, c.heads, c.hidden, c.dropout) for _ in range(c.layers)
        )
        self.encoded = nn.LayerNorm(c.dim)
        self.decoder = Decoder(
            words, c.dim, c.heads, c.hidden, c.layers, c.dropout, c.longest, lambda: _look(c)
        )
        for part in (self.place, self.encoder, self.decoder):
            initialise(part)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Regions with their places, among each other, once per image."""
        memory: Memory = {}
        mask = keep_mask(memory, masks)
        x = self.region(features["region"].to(self.decoder.output.weight.dtype))
        x = self.place(x, features)
        for layer in self.encoder:
            x = layer(x, mask)
        self.decoder.keep(self.encoded(x), memory)
        return memory


def _look(c: SpatialConfig) -> nn.Module:
    if c.look == "dot":
        return DotLook(c.dim, c.heads, c.dropout)
    return XLinearLook(c.dim, c.squeezed, c.dropout)


def _check(c: SpatialConfig, dims: Mapping[str, int]) -> None:
    if c.encoding == "none" or (c.encoding == "box" and "boxes" in dims):
        return
    if c.encoding == "box" or not {"weights", "boxes"} & set(dims):
        raise ConfigError(
            f"head.encoding={c.encoding} needs boxes (or grid weights) beside the regions. Add a "
            f"store that has them (precap extract geometry --parent STORE), or head.encoding=none."
        )
    if dims.get("weights", c.cells**2) != c.cells**2:
        side = round(dims["weights"] ** 0.5)
        raise ConfigError(
            f"The weights have {dims['weights']} numbers per region, head.cells={c.cells} needs "
            f"{c.cells**2}. Set head.cells={side}."
        )


SPATIAL: tuple[tuple[str, str], ...] = (
    (r"^model\.src_embed\.fc1\.", "place.rows."),
    (r"^model\.src_embed\.fc2\.", "place.columns."),
    (r"^model\.src_embed\.fc3\.", "place.row."),
    *(
        (rf"\.cross_attn\.linears\.{i}\.{j}\.", f".look.{name}.{part}.")
        for i, name in enumerate(("query", "key", "gain", "value"))
        for j, part in ((0, "linear"), (2, "norm"))
    ),
    *(
        (rf"\.cross_attn\.linears\.{i}\.(weight|bias)$", rf".look.attention.{n}.\1")
        for i, n in enumerate("qkvo")
    ),
    (r"\.cross_attn\.attention\.embed\.0\.", ".look.embed."),
    (r"\.cross_attn\.attention\.spatial\.", ".look.spatial."),
    (r"\.cross_attn\.attention\.squeeze\.0\.", ".look.channel."),
    *RULES,
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published spatial_pe state dict under our names."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in ("model.src_embed.rows", "model.src_embed.cols"):
            continue  # index buffers, saved but unused
        for pattern, new in SPATIAL:
            key = re.sub(pattern, new, key)
        found[key] = value
    return table_rows(found)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config that the tensors decide."""
    found = sizes(state, "feed_forward.fc.0.weight")
    sides = state.get("model.src_embed.fc1.weight")
    place = {"encoding": "none"} if sides is None else {"encoding": "gxg", "cells": sides.shape[1]}
    bilinear = "model.decoder.layers.0.cross_attn.attention.spatial.weight" in state
    return {**found, **place, "look": "xlinear" if bilinear else "dot"}


PLUGIN = Spatial
IMPORTERS = {"spatial": convert}
IMPORT_OPTIONS = {"spatial": options}
