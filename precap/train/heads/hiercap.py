"""HierCap's captioner: grid, region and global rows of one image, fused in every decoder layer.

Grid rows pass self-attention layers; the same grid passes relation-aware global attention, which
gates every cell by what all cells have in common with it; region rows enter as the detector gave
them. Four ways to fuse the three memories, as in the published code (``fusion``).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from precap.config import Count, frozen
from precap.errors import ConfigError
from precap.train.contract import Memory, Words
from precap.train.heads._captioner import Captioner
from precap.train.heads._fusion import (
    FusionLayer,
    GridEncoder,
    Reading,
    Sizes,
    keep_masks,
    region_input,
)
from precap.train.heads._meshed import Decoder, Feed, Positions, initialise, rows_of
from precap.train.heads._names import BUFFERS, FUSION, Rules, renamed, sizes
from precap.train.layers import Projection, seen

SINGLE = (("grid",), ("region",), ("global",))
JOINED = (("grid", "region"), ("region", "global"))
READINGS = {
    "parallel": Reading(SINGLE),
    "sequential": Reading(SINGLE, gated=False),
    "concatenated_parallel": Reading(JOINED),
    "concatenated_sequential": Reading(JOINED, gated=False, shared=True),
}


@frozen
class HierCapConfig:
    """Published sizes are the defaults.

    layers: of the grid encoder, of the global encoder, and of the decoder.
    cells: number of grid cells, padding included: the relation weights belong to them one by one.
    fusion: see READINGS; "concatenated_sequential" shares its attention by design.
    positions: "xavier" reproduces the original's frozen random position table.
    shared_attention: True reproduces the original's sequential fusion, which uses the grid's
    attention for regions and global rows too; False gives each its own.
    global_sees_padding: True reproduces the original, whose global encoder ignores the grid's mask;
    False takes padded cells out of the relations. (In training, batch statistics still count them.)
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 3
    dropout: float = 0.2
    attention_dropout: float = 0.2
    longest: int = 54
    cells: Count = 60
    fusion: Literal[
        "parallel", "sequential", "concatenated_parallel", "concatenated_sequential"
    ] = "parallel"
    positions: Positions = "sinusoid"
    shared_attention: bool = False
    global_sees_padding: bool = False


class Normed(nn.Module):
    """Linear without bias, batch norm over all cells of the batch: what a 1x1 Conv-BN is."""

    def __init__(self, source: int, dim: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(source, dim, bias=False), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, S) -> (B, N, dim)."""
        return self.norm(self.linear(x).flatten(0, 1)).view(*x.shape[:2], -1)  # type: ignore[no-any-return]


class Relation(nn.Module):
    """Relation-aware global attention, spatial branch: one gate per cell from all cells.

    A cell is described by its affinities with every cell in both directions and by itself.
    """

    def __init__(self, dim: int, cells: int) -> None:
        super().__init__()
        inner, described = dim // 4, max(cells // 8, 1)
        narrow = max((1 + described) // 8, 1)
        self.subject, self.object = Normed(dim, inner), Normed(dim, inner)
        self.itself = Normed(dim, inner)
        self.relations = Normed(2 * cells, described)
        self.squeeze, self.gate = Normed(1 + described, narrow), Normed(narrow, 1)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D), every cell scaled; ``real`` (B, N, 1) takes padding out."""
        subject, object_ = torch.relu(self.subject(x)), torch.relu(self.object(x))
        if real is not None:
            subject, object_ = subject * real, object_ * real
        affinity = subject @ object_.transpose(1, 2)  # (B, N, N)
        both = torch.cat([affinity, affinity.transpose(1, 2)], -1)  # (B, N, 2N)
        itself = torch.relu(self.itself(x)).mean(-1, keepdim=True)
        described = torch.cat([itself, torch.relu(self.relations(both))], -1)
        gate = torch.sigmoid(self.gate(torch.relu(self.squeeze(described))))  # (B, N, 1)
        return gate * x


class GlobalEncoder(nn.Module):
    """Projection, then relation gates and feed-forward; no mask but the one the gates take."""

    def __init__(self, source: int, layers: int, cells: int, s: Sizes) -> None:
        super().__init__()
        self.input = Projection(source, s.dim, s.dropout)
        self.relate = nn.ModuleList(Relation(s.dim, cells) for _ in range(layers))
        self.feed = nn.ModuleList(Feed(s.dim, s.hidden, s.dropout) for _ in range(layers))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(B, N, S) -> (B, N, D)."""
        x = self.input(x)
        for relate, feed in zip(self.relate, self.feed, strict=True):
            x = feed(relate(x, real))
        return x


class HierCap(Captioner):
    """See the module. Any number of regions of any width; ``cells`` grid cells of any width."""

    Config = HierCapConfig
    needs: ClassVar[frozenset[str]] = frozenset({"grid", "region"})
    takes: ClassVar[frozenset[str]] = needs

    def __init__(self, config: HierCapConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c, s = config, Sizes.of(config)
        self.config = c
        self.reading = READINGS[c.fusion]
        if c.shared_attention:
            self.reading = replace(self.reading, shared=True)
        self.grid = GridEncoder(dims["grid"], c.layers, s)
        self.whole = GlobalEncoder(dims["grid"], c.layers, c.cells, s)
        self.region = region_input(dims["region"], s)
        layers = (FusionLayer(s, self.reading) for _ in range(c.layers))
        self.decoder = Decoder(layers, (s.block() for _ in range(c.layers)), words, c.longest)
        initialise(self, self.decoder, c.positions)

    def sources(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The three memories: name -> (B, N, D)."""
        weight = self.decoder.output.weight
        grid, mask = rows_of(features, "grid", weight), masks.get("grid")
        if grid.shape[1] != self.config.cells:
            raise ConfigError(
                f"The grid has {grid.shape[1]} cells and this hiercap was built for "
                f"{self.config.cells}. Train with --set head.cells={grid.shape[1]}, or use the "
                f"features it was trained on."
            )
        real = None if mask is None or self.config.global_sees_padding else mask[..., None]
        return {
            "grid": self.grid(grid, seen(mask)),
            "region": self.region(rows_of(features, "region", weight)),
            "global": self.whole(grid, real),
        }

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Both encoders, and the keys and values of every decoder layer."""
        sources = self.sources(features, masks)
        if "grid" in masks:
            masks = {**masks, "global": masks["grid"]}
        memory: Memory = {}
        keep_masks(self.reading, sources, masks, memory)
        for i, layer in enumerate(self.decoder.layers):
            cast(FusionLayer, layer).keep(sources, memory, str(i))
        return memory

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """The last layer's looks: "grid" and "region" -> (B, C, T, N), each summing to one."""
        looks = super().attend(memory, tokens)
        return {role: looks[role] for role in ("grid", "region")}


RULES: Rules = (
    (r"^glob_net\.fc\.", "whole.input.0."),
    (r"^glob_net\.layer_norm\.", "whole.input.3."),
    (r"^glob_net\.layers\.(\d+)\.gratt\.", r"whole.relate.\1."),
    (r"^glob_net\.layers\.(\d+)\.pwff\.fc1\.", r"whole.feed.\1.feed.inner."),
    (r"^glob_net\.layers\.(\d+)\.pwff\.fc2\.", r"whole.feed.\1.feed.outer."),
    (r"^glob_net\.layers\.(\d+)\.pwff\.layer_norm\.", r"whole.feed.\1.skip.norm."),
    (r"\.W_spatial\.0\.", ".squeeze.linear."),
    (r"\.W_spatial\.1\.", ".squeeze.norm."),
    (r"\.W_spatial\.3\.", ".gate.linear."),
    (r"\.W_spatial\.4\.", ".gate.norm."),
    (r"\.theta_spatial\.", ".subject."),
    (r"\.phi_spatial\.", ".object."),
    (r"\.gx_spatial\.", ".itself."),
    (r"\.gg_spatial\.", ".relations."),
    (r"^(whole\.relate\.\d+\.\w+)\.0\.", r"\1.linear."),
    (r"^(whole\.relate\.\d+\.\w+)\.1\.", r"\1.norm."),
    *FUSION,
)
DEAD = (*BUFFERS, r"^detector\.")
#: Sequential fusion uses vis_att1 three times: the other two have no effect.
DEAD_SEQUENTIAL = (*DEAD, r"\.vis_att[23]\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published HierCap state dict under our names; 1x1 convolutions become matrices."""
    dead = DEAD_SEQUENTIAL if _fusion_of(state) == "sequential" else DEAD
    found = renamed(state, RULES, dead)
    return {k: v.flatten(1) if k.endswith(".linear.weight") else v for k, v in found.items()}


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config under which the published weights give the published answers."""
    found = {**sizes(state, "cap_generator"), "global_sees_padding": True}
    relations = state.get("glob_net.layers.0.gratt.gg_spatial.0.weight")
    if relations is not None:
        found["cells"] = relations.shape[1] // 2
    fusion = _fusion_of(state)
    return {**found, "fusion": fusion, "shared_attention": fusion == "sequential"}


def _fusion_of(state: Mapping[str, Tensor]) -> str:
    layer = "cap_generator.layers.0"
    gates = sum(f"{layer}.fc_alpha{i}.weight" in state for i in (1, 2, 3))
    if gates:
        return "parallel" if gates == 3 else "concatenated_parallel"
    joined = f"{layer}.vis_att.attention.fc_q.weight" in state
    return "concatenated_sequential" if joined else "sequential"


PLUGIN = HierCap
IMPORTERS = {"hiercap": convert}
IMPORT_OPTIONS = {"hiercap": options}
