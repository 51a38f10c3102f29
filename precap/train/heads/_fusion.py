"""What GRIT and HierCap share: the grid encoder, and decoder layers that read several memories."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from precap.train.contract import Memory
from precap.train.heads._meshed import Block, Feed
from precap.train.layers import Projection, seen


@dataclass(frozen=True)
class Reading:
    """views: what each attention looks at, names of memories joined along their rows.

    gated: every attention starts from the words and a gate weighs what it saw; otherwise each
    starts from what the one before saw. shared: one attention serves all views.
    shared_gate: one gate serves all views.
    """

    views: tuple[tuple[str, ...], ...]
    gated: bool = True
    shared: bool = False
    shared_gate: bool = False


@dataclass(frozen=True)
class Sizes:
    """Widths and regularisation of a layer."""

    dim: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float

    @staticmethod
    def of(config: Any) -> "Sizes":
        """The fields of the same names of a head's Config."""
        return Sizes(**{field.name: getattr(config, field.name) for field in fields(Sizes)})

    def block(self) -> Block:
        """An attention block of these sizes."""
        return Block(self.dim, self.heads, self.dropout, self.attention_dropout)


class GridEncoder(nn.Module):
    """Projection, then self-attention layers; what HierCap and GRIT call the grid net."""

    def __init__(self, source: int, layers: int, s: Sizes) -> None:
        super().__init__()
        self.input = Projection(source, s.dim, s.dropout)
        self.own = nn.ModuleList(s.block() for _ in range(layers))
        self.feed = nn.ModuleList(Feed(s.dim, s.hidden, s.dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, S) and mask (B, 1, 1, N) -> (B, N, D)."""
        x = self.input(x)
        for own, feed in zip(self.own, self.feed, strict=True):
            x = feed(own(x, x, mask))
        return x


def region_input(source: int, s: Sizes) -> nn.Module:
    """Region rows of model width enter the decoder as they are, as published; others projected."""
    return nn.Identity() if source == s.dim else Projection(source, s.dim, s.dropout)


class FusionLayer(nn.Module):
    """A decoder layer after self-attention: look at every view, combine, feed-forward."""

    def __init__(self, sizes: Sizes, reading: Reading) -> None:
        super().__init__()
        self.reading, views = reading, len(reading.views)
        self.looks = nn.ModuleList(sizes.block() for _ in range(1 if reading.shared else views))
        gates = (1 if reading.shared_gate else views) if reading.gated else 0
        self.gates = nn.ModuleList(nn.Linear(2 * sizes.dim, sizes.dim) for _ in range(gates))
        self.feed = Feed(sizes.dim, sizes.hidden, sizes.dropout)

    def keep(self, sources: Mapping[str, Tensor], memory: Memory, at: str) -> None:
        """Keys and values of every view of ``sources``, name -> (B, N, D)."""
        for i, view in enumerate(self.reading.views):
            self._look(i).keep(torch.cat([sources[name] for name in view], 1), memory, f"{at}.{i}")

    def forward(self, s: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        total, x = torch.zeros_like(s), s
        for i in range(len(self.reading.views)):
            x = s if self.gates else x
            a = self._look(i).look(x, memory, f"{at}.{i}", memory.get(f"view{i}.mask"))
            if self.gates:
                gate = self.gates[0 if self.reading.shared_gate else i]
                total = total + torch.sigmoid(gate(torch.cat([s, a], -1))) * a
            x = a
        if self.gates:
            x = total / math.sqrt(len(self.reading.views))
        out: Tensor = self.feed(x)
        return out

    def see(self, s: Tensor, memory: Memory, at: str) -> dict[str, Tensor]:
        """Where it looks: memory name -> (B, L, N); a memory in several views gives their mean.

        Each result sums to one over its rows, whatever share of a joined view it had.
        """
        found: dict[str, list[Tensor]] = {}
        x = s
        for i, view in enumerate(self.reading.views):
            mask = memory.get(f"view{i}.mask")
            weights = self._look(i).where(x, memory, f"{at}.{i}", mask)
            parts = torch.split(weights, [memory[f"{name}.real"].shape[1] for name in view], -1)
            for name, part in zip(view, parts, strict=True):
                found.setdefault(name, []).append(part)
            if not self.gates:
                x = self._look(i).look(x, memory, f"{at}.{i}", mask)
        means = {name: torch.stack(parts).mean(0) for name, parts in found.items()}
        return {name: w / w.sum(-1, keepdim=True).clamp_min(1e-12) for name, w in means.items()}

    def _look(self, i: int) -> Block:
        block: Block = self.looks[0 if self.reading.shared else i]  # type: ignore[assignment]
        return block


def keep_masks(
    reading: Reading, sources: Mapping[str, Tensor], masks: Mapping[str, Tensor], memory: Memory
) -> None:
    """Keep ``NAME.real`` (B, N) of every source, and ``viewI.mask`` of every view with padding."""
    for name, rows in sources.items():
        whole = rows.new_ones(rows.shape[:2], dtype=torch.bool)
        memory[f"{name}.real"] = masks.get(name, whole)
    for i, view in enumerate(reading.views):
        if any(name in masks for name in view):
            joined = seen(torch.cat([memory[f"{name}.real"] for name in view], 1))
            assert joined is not None
            memory[f"view{i}.mask"] = joined
