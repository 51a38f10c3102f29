"""M2: Meshed-Memory Transformer for image captioning (Cornia et al., CVPR 2020), over regions.

Each encoder layer also attends to learned slots that hold no image content; each decoder layer
looks at every encoder level and adds what it sees, each level through its own gate.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precap.config import Count, frozen
from precap.train.contract import Memory, Words
from precap.train.heads._captioner import Captioner
from precap.train.heads._meshed import (
    Block,
    Decoder,
    Feed,
    Positions,
    initialise,
    keep_mask,
    rows_of,
)
from precap.train.heads._names import BUFFERS, SHARED, Rules, renamed, sizes
from precap.train.layers import Attention, Projection, split


@frozen
class M2Config:
    """Published sizes are the defaults.

    layers: encoder levels; the decoder has as many layers. slots: memory slots per encoder layer.
    positions: "xavier" reproduces the original's frozen random position table.
    visible_rows: 0 masks padding. The original meant to, but tests for zero rows only after the
    projection and so never masks: 50 reproduces it; regions are cut or zero-padded to 50 rows and
    all rows are seen.
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 3
    slots: int = 40
    dropout: float = 0.1
    longest: int = 54
    positions: Positions = "sinusoid"
    visible_rows: int = 0


class MemoryAttention(Attention):
    """Attention whose keys and values are followed by learned slots (equation 4 of the paper)."""

    def __init__(self, dim: int, heads: int, slots: int) -> None:
        super().__init__(dim, heads)
        self.slot_k = nn.Parameter(torch.empty(1, slots, dim))
        self.slot_v = nn.Parameter(torch.empty(1, slots, dim))

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, N + m, d) of ``memory`` (B, N, D)."""
        keys, values = super().project(memory)
        slots, width = self.slot_k.shape[1], keys.shape[-1]
        shape = (len(memory), -1, -1, -1)
        more_k = split(math.sqrt(width) * self.slot_k, self.heads).expand(shape)  # (B, H, m, d)
        more_v = split(math.sqrt(slots) * self.slot_v, self.heads).expand(shape)
        return torch.cat([keys, more_k], 2), torch.cat([values, more_v], 2)


class EncoderLayer(nn.Module):
    """Self-attention with slots, feed-forward."""

    def __init__(self, c: M2Config) -> None:
        super().__init__()
        self.own, self.slots = Block(c.dim, c.heads, c.dropout), c.slots
        self.own.attention = MemoryAttention(c.dim, c.heads, c.slots)
        self.feed = Feed(c.dim, c.hidden, c.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) and mask (B, 1, 1, N) -> (B, N, D)."""
        if mask is not None:
            mask = F.pad(mask, (0, self.slots), value=True)
        out: Tensor = self.feed(self.own(x, x, mask))
        return out


class Mesh(nn.Module):
    """The decoder layer after self-attention: one attention on every level, gates, feed-forward."""

    def __init__(self, c: M2Config) -> None:
        super().__init__()
        self.look = Block(c.dim, c.heads, c.dropout)
        self.gates = nn.ModuleList(nn.Linear(2 * c.dim, c.dim) for _ in range(c.layers))
        self.feed = Feed(c.dim, c.hidden, c.dropout)

    def keep(self, levels: list[Tensor], memory: Memory, at: str) -> None:
        """Keys and values of every level."""
        for i, rows in enumerate(levels):
            self.look.keep(rows, memory, f"{at}.{i}")

    def forward(self, s: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        total = torch.zeros_like(s)
        for i, gate in enumerate(self.gates):
            a = self.look.look(s, memory, f"{at}.{i}", memory.get("region.mask"))
            total = total + torch.sigmoid(gate(torch.cat([s, a], -1))) * a
        out: Tensor = self.feed(total / math.sqrt(len(self.gates)))
        return out

    def see(self, s: Tensor, memory: Memory, at: str) -> dict[str, Tensor]:
        """Mean over the levels: "region" -> (B, L, N)."""
        mask = memory.get("region.mask")
        looks = [self.look.where(s, memory, f"{at}.{i}", mask) for i in range(len(self.gates))]
        return {"region": torch.stack(looks).mean(0)}


class M2(Captioner):
    """See the module. Any number of region rows of any width."""

    Config = M2Config
    needs: ClassVar[frozenset[str]] = frozenset({"region"})
    takes: ClassVar[frozenset[str]] = needs

    def __init__(self, config: M2Config, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c = self.config = config
        self.region = Projection(dims["region"], c.dim, c.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(c) for _ in range(c.layers))
        layers = (Mesh(c) for _ in range(c.layers))
        own = (Block(c.dim, c.heads, c.dropout) for _ in range(c.layers))
        self.decoder = Decoder(layers, own, words, c.longest)
        initialise(self, self.decoder, c.positions)
        for part in self.encoder.modules():
            if isinstance(part, MemoryAttention):
                nn.init.normal_(part.slot_k, std=c.heads / c.dim)
                nn.init.normal_(part.slot_v, std=1 / c.slots)

    def levels(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Raw regions (B, N, S) and mask (B, 1, 1, N) -> every level's rows, (B, N, D) each."""
        x, found = self.region(x), []
        for layer in self.encoder:
            x = layer(x, mask)
            found.append(x)
        return found

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """All levels, and their keys and values for every decoder layer."""
        memory: Memory = {}
        x = rows_of(features, "region", self.decoder.output.weight)
        if self.config.visible_rows:
            x, masks = self._visible(x, masks), {}
        levels = self.levels(x, keep_mask(memory, masks, "region"))
        for i, layer in enumerate(self.decoder.layers):
            cast(Mesh, layer).keep(levels, memory, str(i))
        return memory

    def _visible(self, x: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        rows = self.config.visible_rows
        if "region" in masks:
            x = x * masks["region"][..., None]
        return F.pad(x[:, :rows], (0, 0, 0, max(rows - x.shape[1], 0)))


RULES: Rules = (
    (r"^encoder\.(fc)\.", "region.0."),
    (r"^encoder\.layer_norm\.", "region.3."),
    (r"\.mhatt\.attention\.m_([kv])$", r".own.attention.slot_\1"),
    (r"\.mhatt\.", ".own."),
    (r"^encoder\.layers\.", "encoder."),
    (r"\.enc_att\.", ".look."),
    (r"\.fc_alpha1\.", ".gates.0."),
    (r"\.fc_alpha2\.", ".gates.1."),
    (r"\.fc_alpha3\.", ".gates.2."),
    *SHARED,
    (r"\.layer_norm\.", ".skip.norm."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published M2 state dict under our names."""
    return renamed(state, RULES, BUFFERS)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config under which the published weights give the published answers."""
    found = {**sizes(state, "decoder"), "visible_rows": 50}
    slots = state.get("encoder.layers.0.mhatt.attention.m_k")
    return found if slots is None else {**found, "slots": slots.shape[1]}


PLUGIN = M2
IMPORTERS = {"m2": convert}
IMPORT_OPTIONS = {"m2": options}
