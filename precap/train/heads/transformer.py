"""The plain encoder-decoder transformer over any tokens: grid, region and global rows together.

"Attention is all you need" (Vaswani et al., 2017) over cached features, as the transformer
baselines of the captioning literature use it: every role is projected to the model width, marked
with a learned vector of its kind, and all rows are encoded as one sequence.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from precap.config import Count, Natural, frozen
from precap.errors import ConfigError
from precap.train.contract import Memory, State, Words
from precap.train.layers import (
    Attention,
    Dropout,
    FeedForward,
    Residual,
    Stack,
    TokenEmbedding,
    pack,
    seen,
)

ROLES = ("grid", "region", "global")


@frozen
class TransformerConfig:
    """Widths and regularisation. ``tie`` shares word embedding and output matrix.

    word_dropout: share of the input words that training replaces by the unknown word.
    row_dropout: share of the memory rows that training hides from the decoder and encoder.
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    encoder_layers: Natural = 3
    decoder_layers: Count = 3
    dropout: float = 0.1
    attention_dropout: float = 0.0
    input_dropout: float = 0.1
    word_dropout: float = 0.0
    row_dropout: float = 0.0
    pre_norm: bool = True
    tie: bool = True
    positions: Literal["sinusoid", "learned", "none"] = "sinusoid"
    grid_positions: bool = True
    longest: int = 64
    largest_grid: int = 1024


class EncoderLayer(nn.Module):
    """Self-attention over the image's rows, then feed-forward."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(c.dim, c.heads, c.attention_dropout)
        self.feed = FeedForward(c.dim, c.hidden, c.dropout)
        self.skips: Stack[Residual] = Stack(
            Residual(c.dim, c.dropout, c.pre_norm) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.skips[0](x, lambda y: self.attention(y, y, mask))
        out: Tensor = self.skips[1](x, self.feed)
        return out


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the memory, feed-forward."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.own = Attention(c.dim, c.heads, c.attention_dropout)
        self.image = Attention(c.dim, c.heads, c.attention_dropout)
        self.feed = FeedForward(c.dim, c.hidden, c.dropout)
        self.skips: Stack[Residual] = Stack(
            Residual(c.dim, c.dropout, c.pre_norm) for _ in range(3)
        )

    def rest(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Everything after self-attention: (B, L, D) -> (B, L, D)."""
        x = self.skips[1](x, lambda y: self.image.attend(y, keys, values, mask))
        out: Tensor = self.skips[2](x, self.feed)
        return out


class Transformer(nn.Module):
    """See the module. Takes any of grid, region and global; needs at least one of them."""

    Config = TransformerConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset(ROLES)
    several: ClassVar[bool] = True  # "grid" of one store, "grid@2" of another

    def __init__(self, config: TransformerConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c, self.config, self.words = config, config, words
        self.roles = sorted((r for r in dims if _kind(r) in ROLES), key=_order)
        self.inputs = nn.ModuleDict(
            {r: nn.Sequential(nn.Linear(dims[r], c.dim), nn.LayerNorm(c.dim)) for r in self.roles}
        )
        self.kinds = nn.ParameterDict({r: 0.02 * torch.randn(c.dim) for r in self.roles})
        grids = [r for r in self.roles if c.grid_positions and _kind(r) == "grid"]
        self.places = nn.ParameterDict(
            {r: 0.02 * torch.randn(c.largest_grid, c.dim) for r in grids}
        )
        self.input_dropout = Dropout(c.input_dropout)
        self.encoder: Stack[EncoderLayer] = Stack(EncoderLayer(c) for _ in range(c.encoder_layers))
        self.decoder: Stack[DecoderLayer] = Stack(DecoderLayer(c) for _ in range(c.decoder_layers))
        last = nn.LayerNorm if c.pre_norm else nn.Identity
        self.encoded, self.decoded = last(c.dim), last(c.dim)
        self.embed = TokenEmbedding(
            words.size, c.dim, c.longest, c.positions, scaled=c.tie, dropout=c.dropout
        )
        self.output = nn.Linear(c.dim, words.size, bias=not c.tie)
        _initialise(self)
        if c.tie:
            self.output.weight = self.embed.word.weight

    def _rows(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """All roles as one sequence (B, N, D); its mask (B, N), None if every row is real."""
        rows, real = [], []
        for role in self.roles:
            x = features[role].to(self.kinds[role].dtype)
            x = self.inputs[role](x if x.dim() == 3 else x[:, None]) + self.kinds[role]  # (B, n, D)
            if role in self.places:
                x = x + self._places(role, x.shape[1])
            rows.append(x)
            real.append(masks.get(role, x.new_ones(x.shape[:2], dtype=torch.bool)))
        mask = torch.cat(real, 1) if any(role in masks for role in self.roles) else None
        return self.input_dropout(torch.cat(rows, 1)), mask

    def _places(self, role: str, count: int) -> Tensor:
        table: Tensor = self.places[role]
        if count > len(table):
            raise ConfigError(
                f"An image has {count} {role} rows and this head has places for {len(table)}. "
                f"Set head.largest_grid={count}, or head.grid_positions=false."
            )
        return table[:count]

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Encode once per image; keep each decoder layer's keys and values."""
        x, mask = self._rows(features, masks)
        if self.training and self.config.row_dropout:
            kept = torch.rand(x.shape[:2], device=x.device) >= self.config.row_dropout
            mask = kept if mask is None else kept & mask
        see = seen(mask)
        for encode in self.encoder:
            x = encode(x, see)
        x = self.encoded(x)
        sizes = [features[r].shape[1] if features[r].dim() == 3 else 1 for r in self.roles]
        memory: Memory = {"sizes": torch.tensor(sizes).expand(len(x), -1)}
        if see is not None:
            memory["mask"] = see
        for i, layer in enumerate(self.decoder):
            memory[f"{i}.k"], memory[f"{i}.v"] = layer.image.project(x)
        return memory

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) input tokens -> (B, C, T, D), what ``classify`` turns into logits."""
        packed = pack(tokens, self.words.pad)
        x = self.embed(self._hide(packed.tokens), packed.positions)  # (B, L, D)
        for i, layer in enumerate(self.decoder):
            x = layer.skips[0](x, lambda y, own=layer.own: own(y, y, packed.mask))
            x = layer.rest(x, memory[f"{i}.k"], memory[f"{i}.v"], memory.get("mask"))
        return packed.unpack(self.decoded(x))

    def _hide(self, tokens: Tensor) -> Tensor:
        """Word dropout: (B, L) with some words unknown; never the first token."""
        rate, unk = self.config.word_dropout, self.words.unk
        if not self.training or not rate or unk < 0:
            return tokens
        hidden = torch.rand(tokens.shape, device=tokens.device) < rate
        return torch.where(hidden & (tokens != self.words.bos), unk, tokens)

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits."""
        out: Tensor = self.output(hidden)
        return out

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, V)."""
        return self.classify(self.hidden(memory, tokens))

    def start(self, memory: Memory, width: int) -> State:
        """Empty self-attention caches."""
        state: State = {}
        for i, layer in enumerate(self.decoder):
            layer.own.begin(memory["0.k"].shape[0], width, state, str(i))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens at position ``t`` -> (B, K, V) logits."""
        state = dict(state)
        x = self.embed(tokens, t)  # (B, K, D)
        for i, layer in enumerate(self.decoder):
            x = layer.skips[0](x, lambda y, own=layer.own, i=i: own.extend(y, state, str(i)))
            x = layer.rest(x, memory[f"{i}.k"], memory[f"{i}.v"], memory.get("mask"))
        return self.classify(self.decoded(x)), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Last layer's attention over the rows of each role: role -> (B, C, T, N)."""
        packed = pack(tokens, self.words.pad)
        x = self.embed(packed.tokens, packed.positions)
        last = len(self.decoder) - 1
        for i, layer in enumerate(self.decoder):
            x = layer.skips[0](x, lambda y, own=layer.own: own(y, y, packed.mask))
            if i < last:
                x = layer.rest(x, memory[f"{i}.k"], memory[f"{i}.v"], memory.get("mask"))
        skip, keys = self.decoder[last].skips[1], memory[f"{last}.k"]
        query = skip.norm(x) if skip.pre else x
        weights = self.decoder[last].image.weights(query, keys, memory.get("mask"))
        return self._by_role(packed.unpack(weights), memory)

    def _by_role(self, weights: Tensor, memory: Memory) -> dict[str, Tensor]:
        sizes = memory["sizes"][0].tolist()
        return dict(zip(self.roles, torch.split(weights, sizes, -1), strict=True))


def _kind(role: str) -> str:
    """ "grid" for "grid@2": the second store that offers grids."""
    return role.partition("@")[0]


def _order(role: str) -> tuple[int, str]:
    return ROLES.index(_kind(role)), role


def _initialise(module: nn.Module) -> None:
    """Xavier for every matrix, normal(1/sqrt(D)) for words, so that tied logits start near zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=part.embedding_dim**-0.5)


PLUGIN = Transformer
