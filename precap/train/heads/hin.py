"""HIN: Hierarchical Interaction Network for image captioning, over a grid and regions.

Encoder layers align the two kinds of rows through global tokens (CTFA); a chain of cross-attention
over all encoder levels lets grid and region rows exchange (HI); each decoder layer reads one level
and fuses what it saw directly and across kinds through a gate (BGAF). Wiring after the published
code; its two attentions that look at a single key are written as what they compute, a value.
"""

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
    zero_rows,
)
from precap.train.heads._names import BUFFERS, SHARED, Rules, renamed, sizes
from precap.train.layers import Attention, Projection, seen


@frozen
class HINConfig:
    """Published sizes are the defaults.

    layers: encoder levels and decoder layers, one decoder layer per level.
    positions: "xavier" reproduces the original's frozen random position table.
    zero_rows_are_padding: True reproduces the original, which takes a region row that is exactly
    zero for padding; False trusts the masks alone.
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 3
    dropout: float = 0.1
    longest: int = 54
    positions: Positions = "sinusoid"
    zero_rows_are_padding: bool = False


class Summary(nn.Module):
    """One learned query reads a sequence: LN(Drop(Att(query, rows))), no skip."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, c.dim))
        self.attention = Attention(c.dim, c.heads)
        self.dropout, self.norm = nn.Dropout(c.dropout), nn.LayerNorm(c.dim)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, 1, D)."""
        query = self.query.expand(len(rows), -1, -1)
        out: Tensor = self.norm(self.dropout(self.attention(query, rows, mask)))
        return out


class Carry(nn.Module):
    """Attention over one key is its value: LN(Drop(Wo Wv x)), whatever the query."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        self.v, self.o = nn.Linear(c.dim, c.dim), nn.Linear(c.dim, c.dim)
        self.dropout, self.norm = nn.Dropout(c.dropout), nn.LayerNorm(c.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        out: Tensor = self.norm(self.dropout(self.o(self.v(x))))
        return out


class Align(nn.Module):
    """CTFA: both sequences attend to themselves, to their own summary and to one shared token."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        self.sum_grid, self.sum_region = Summary(c), Summary(c)
        self.carry_grid, self.carry_region = Carry(c), Carry(c)
        self.weigh = nn.Linear(2 * c.dim, 2)
        self.mix_norm, self.mix = nn.LayerNorm(c.dim), nn.Linear(c.dim, c.dim)
        self.own_grid = Block(c.dim, c.heads, c.dropout)
        self.own_region = Block(c.dim, c.heads, c.dropout)
        self.feed_grid = Feed(c.dim, c.hidden, c.dropout)
        self.feed_region = Feed(c.dim, c.hidden, c.dropout)

    def forward(
        self, grid: Tensor, region: Tensor, grid_mask: Tensor | None, region_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, M, D) and masks (B, 1, 1, N), (B, 1, 1, M) -> both, one level up."""
        g, r = self.sum_grid(grid, grid_mask), self.sum_region(region, region_mask)  # (B, 1, D)
        shared = self._shared(self.carry_grid(g), self.carry_region(r))
        grid = self._level(self.own_grid, grid, shared, g, grid_mask)
        region = self._level(self.own_region, region, shared, r, region_mask)
        return self.feed_grid(grid), self.feed_region(region)

    def _shared(self, g: Tensor, r: Tensor) -> Tensor:
        weight = self.weigh(torch.cat([g, r], -1)).softmax(-1)  # (B, 1, 2)
        mixed = weight[..., :1] * g + weight[..., 1:] * r
        return F.relu(self.mix(self.mix_norm(mixed)))

    @staticmethod
    def _level(
        own: Block, rows: Tensor, shared: Tensor, summary: Tensor, mask: Tensor | None
    ) -> Tensor:
        # The two extra tokens are only looked at: what they would become is never used.
        keys = torch.cat([shared, summary, rows], 1)  # (B, 2 + N, D)
        if mask is not None:
            mask = torch.cat([mask.new_ones(*mask.shape[:3], 2), mask], -1)
        out: Tensor = own(rows, keys, mask)
        return out


class Interact(nn.Module):
    """HI: each kind's rows walk up the levels, looking at the other kind and their own in turn."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        levels = range(c.layers - 1)
        self.to_grid = nn.ModuleList(Block(c.dim, c.heads, c.dropout) for _ in levels)
        self.to_region = nn.ModuleList(Block(c.dim, c.heads, c.dropout) for _ in levels)

    def forward(
        self, levels: list[tuple[Tensor, Tensor]], masks: tuple[Tensor | None, Tensor | None]
    ) -> list[tuple[Tensor, Tensor]]:
        """[(grid, region)] of all levels -> the same shapes, interacted."""
        grid, region = levels[0]
        out = [(grid, region)]
        for i, (g, r) in enumerate(levels[1:]):
            to_grid, to_region = self.to_grid[i], self.to_region[i]
            if i % 2 == 0:
                grid, region = to_region(grid, r, masks[1]), to_grid(region, g, masks[0])
            else:
                grid, region = to_grid(grid, g, masks[0]), to_region(region, r, masks[1])
            out.append((grid, region))
        return out


class Choose(nn.Module):
    """One-step attention: each token weighs its own few candidates; LN(s + Drop(Att(s, them)))."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        self.block, self.heads = Block(c.dim, c.heads, c.dropout), c.heads

    def forward(self, s: Tensor, candidates: list[Tensor]) -> Tensor:
        """(B, L, D) and some (B, L, D) -> (B, L, D)."""
        attention, rows = self.block.attention, torch.stack(candidates, 2)  # (B, L, n, D)
        q = attention.q(s).unflatten(-1, (self.heads, -1))[:, :, None]  # (B, L, 1, H, d)
        k = attention.k(rows).unflatten(-1, (self.heads, -1))  # (B, L, n, H, d)
        v = attention.v(rows).unflatten(-1, (self.heads, -1))
        weight = ((q * k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5).softmax(2)
        mixed = (weight * v).sum(2).flatten(2)  # (B, L, D)
        out: Tensor = self.block.skip(s, lambda _: attention.o(mixed))
        return out


class Fuse(nn.Module):
    """BGAF, the decoder layer after self-attention: look at both kinds, look across, gate, feed."""

    def __init__(self, c: HINConfig) -> None:
        super().__init__()
        self.grid, self.region = (Block(c.dim, c.heads, c.dropout) for _ in range(2))
        self.grid_then_region = Block(c.dim, c.heads, c.dropout)
        self.region_then_grid = Block(c.dim, c.heads, c.dropout)
        self.direct, self.across = Choose(c), Choose(c)
        self.gate, self.from_direct, self.from_across = (nn.Linear(c.dim, c.dim) for _ in range(3))
        self.dropout, self.norm = nn.Dropout(c.dropout), nn.LayerNorm(c.dim)
        self.feed = Feed(c.dim, c.hidden, c.dropout)

    def keep(self, grid: Tensor, region: Tensor, memory: Memory, at: str) -> None:
        """Keys and values of this layer's level."""
        self.grid.keep(grid, memory, f"{at}.grid")
        self.region_then_grid.keep(grid, memory, f"{at}.region_then_grid")
        self.region.keep(region, memory, f"{at}.region")
        self.grid_then_region.keep(region, memory, f"{at}.grid_then_region")

    def forward(self, s: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        gm, rm = memory.get("grid.mask"), memory.get("region.mask")
        a = self.grid.look(s, memory, f"{at}.grid", gm)
        c = self.region.look(s, memory, f"{at}.region", rm)
        ac = self.grid_then_region.look(a, memory, f"{at}.grid_then_region", rm)
        ca = self.region_then_grid.look(c, memory, f"{at}.region_then_grid", gm)
        e, x = self.direct(s, [a, c]), self.across(s, [ac, ca])
        gate = torch.sigmoid(self.gate(s + e + x))
        fused = gate * self.from_direct(e) + (1 - gate) * self.from_across(x)
        out: Tensor = self.feed(self.norm(s + self.dropout(fused)))
        return out

    def see(self, s: Tensor, memory: Memory, at: str) -> dict[str, Tensor]:
        """Where the two direct looks go: role -> (B, L, N)."""
        return {
            role: block.where(s, memory, f"{at}.{role}", memory.get(f"{role}.mask"))
            for role, block in (("grid", self.grid), ("region", self.region))
        }


class HIN(Captioner):
    """See the module. Any number of grid and region rows of any width."""

    Config = HINConfig
    needs: ClassVar[frozenset[str]] = frozenset({"grid", "region"})
    takes: ClassVar[frozenset[str]] = needs

    def __init__(self, config: HINConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c = self.config = config
        self.grid = Projection(dims["grid"], c.dim, c.dropout)
        self.region = Projection(dims["region"], c.dim, c.dropout)
        self.align = nn.ModuleList(Align(c) for _ in range(c.layers))
        self.interact = Interact(c)
        layers = (Fuse(c) for _ in range(c.layers))
        own = (Block(c.dim, c.heads, c.dropout) for _ in range(c.layers))
        self.decoder = Decoder(layers, own, words, c.longest)
        initialise(self, self.decoder, c.positions)

    def levels(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Interacted (grid, region) rows of every level, (B, N, D) and (B, M, D)."""
        weight = self.decoder.output.weight
        region = rows_of(features, "region", weight)
        gm, rm = seen(masks.get("grid")), seen(masks.get("region"))
        g, r = self.grid(rows_of(features, "grid", weight)), self.region(region)
        found = []
        for layer in self.align:
            g, r = layer(g, r, gm, rm)
            found.append((g, r))
        return cast(list[tuple[Tensor, Tensor]], self.interact(found, (gm, rm)))

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Both encoders, the interaction, and the keys and values of every decoder layer."""
        masks = self._masks(features, masks)
        memory: Memory = {}
        keep_mask(memory, masks, "grid")
        keep_mask(memory, masks, "region")
        for i, (grid, region) in enumerate(self.levels(features, masks)):
            cast(Fuse, self.decoder.layers[i]).keep(grid, region, memory, str(i))
        return memory

    def _masks(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if not self.config.zero_rows_are_padding:
            return masks
        real = zero_rows(features["region"])
        return {**masks, "region": real & masks["region"] if "region" in masks else real}


RULES: Rules = (
    (r"^encoder\.(grid|region)_proj\.", r"\1."),
    (r"^encoder\.layers\.", "align."),
    (r"^encoder\.quer2att_(grid|region)\.", r"interact.to_\1."),
    (r"\.cls_(grid|region)$", r".sum_\1.query"),
    (r"\.global_(grid|region)\.layer_norm\.", r".sum_\1.norm."),
    (r"\.global_(grid|region)\.", r".sum_\1."),
    (r"\.golbal_cls_(grid|region)\.attention\.fc_([vo])\.", r".carry_\1.\2."),
    (r"\.golbal_cls_(grid|region)\.layer_norm\.", r".carry_\1.norm."),
    (r"\.gate_golbal_cls\.", ".weigh."),
    (r"\.middle_LN\.", ".mix_norm."),
    (r"\.middle_fc\.0\.", ".mix."),
    (r"\.self_(grid|region)\.", r".own_\1."),
    (r"\.(grid|region)_att\.", r".\1."),
    (r"\.(grid|region)_cross_(grid|region)\.", r".\1_then_\2."),
    (r"\.self_cross_enc\.", ".direct.block."),
    (r"\.self_cross_enc_cross\.", ".across.block."),
    (r"\.gate\.0\.", ".gate."),
    (r"\.proj1\.", ".from_direct."),
    (r"\.proj2\.", ".from_across."),
    (r"\.lnorm2\.", ".norm."),
    *SHARED,
    (r"\.layer_norm\.", ".skip.norm."),
)
#: Queries and keys of the attentions over a single key: their softmax is 1 whatever they are.
DEAD = (*BUFFERS, r"\.golbal_cls_(grid|region)\.attention\.fc_[qk]\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published HIN state dict under our names."""
    return renamed(state, RULES, DEAD)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config under which the published weights give the published answers."""
    return {**sizes(state, "decoder"), "zero_rows_are_padding": True}


PLUGIN = HIN
IMPORTERS = {"hin": convert}
IMPORT_OPTIONS = {"hin": options}
