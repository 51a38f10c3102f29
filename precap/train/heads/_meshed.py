"""What HIN, HierCap, GRIT and M2 share: post-norm blocks, the caption decoder around their layers.

All four descend from the meshed-memory transformer (Cornia et al., CVPR 2020): every sub-block is
LN(x + Drop(f(x))), words get a fixed position table, the output matrix has no bias and is not tied.
Shapes: B images, C captions or K hypotheses, L packed tokens of one image, N memory rows, V words.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from precap.errors import ConfigError
from precap.train.contract import Memory, State, Words
from precap.train.layers import Attention, FeedForward, Residual, Stack, TokenEmbedding, pack, seen

#: "sinusoid" is what the papers say. "xavier": a frozen random table, which is what all four
#: published code bases train with, because they initialise the table along with the weights.
Positions = Literal["sinusoid", "xavier"]


class Block(nn.Module):
    """Attention and its skip: LN(x + Drop(Att(x, rows)))."""

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, attention_dropout)
        self.skip = Residual(dim, dropout)

    def forward(self, x: Tensor, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, L, D) over rows (B, N, D) -> (B, L, D)."""
        out: Tensor = self.skip(x, lambda y: self.attention(y, rows, mask))
        return out

    def keep(self, rows: Tensor, memory: Memory, name: str) -> None:
        """Project ``rows`` (B, N, D) once; ``look`` and ``where`` find them under ``name``."""
        memory[f"{name}.k"], memory[f"{name}.v"] = self.attention.project(rows)

    def look(self, x: Tensor, memory: Memory, name: str, mask: Tensor | None) -> Tensor:
        """``forward`` over kept rows: (B, L, D) -> (B, L, D)."""
        keys, values = memory[f"{name}.k"], memory[f"{name}.v"]
        out: Tensor = self.skip(x, lambda y: self.attention.attend(y, keys, values, mask))
        return out

    def where(self, x: Tensor, memory: Memory, name: str, mask: Tensor | None) -> Tensor:
        """The weights that ``look`` gives to the kept rows, mean over heads: (B, L, N)."""
        return self.attention.weights(x, memory[f"{name}.k"], mask)


class Feed(nn.Module):
    """Feed-forward and its skip: LN(x + Drop(W2 Drop(ReLU(W1 x))))."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.feed, self.skip = FeedForward(dim, hidden, dropout), Residual(dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.skip(x, self.feed)
        return out


class Decoder(nn.Module):
    """Words and positions, per layer causal self-attention and the head's own part, the logits.

    ``layers`` are the head's own: called as ``layer(x, memory, at)`` after self-attention with the
    layer's number as text, (B, L, D) -> (B, L, D); ``layer.see(x, memory, at)`` gives role ->
    (B, L, N), where it looks. ``own`` makes the self-attention block of one layer.
    """

    def __init__(
        self, layers: Iterable[nn.Module], own: Iterable[Block], words: Words, longest: int
    ) -> None:
        super().__init__()
        self.layers: Stack[Any] = Stack(layers)
        self.own: Stack[Block] = Stack(own)
        self.pad = words.pad
        dim = self.own[0].attention.q.in_features
        self.embed = TokenEmbedding(words.size, dim, longest)
        self.output = nn.Linear(dim, words.size, bias=False)

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) input tokens -> (B, C, T, D), zero at padding."""
        self._check(tokens.shape[-1])
        packed = pack(tokens, self.pad)
        x = self.embed(packed.tokens, packed.positions)  # (B, L, D)
        for i, (own, layer) in enumerate(zip(self.own, self.layers, strict=True)):
            x = layer(own(x, x, packed.mask), memory, str(i))
        return packed.unpack(x)

    def start(self, rows: int, width: int) -> State:
        """Empty self-attention caches for ``rows`` images with ``width`` hypotheses each."""
        state: State = {}
        for i, own in enumerate(self.own):
            own.attention.begin(rows, width, state, str(i))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens at position ``t`` -> (B, K, D) and the longer caches."""
        self._check(t + 1)
        state = dict(state)
        x = self.embed(tokens, t)  # (B, K, D)
        for i, (own, layer) in enumerate(zip(self.own, self.layers, strict=True)):
            x = own.skip(x, lambda y, own=own, i=i: own.attention.extend(y, state, str(i)))
            x = layer(x, memory, str(i))
        return x, state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Role -> (B, C, T, N): where the last layer looks, zero at padding."""
        self._check(tokens.shape[-1])
        packed = pack(tokens, self.pad)
        x = self.embed(packed.tokens, packed.positions)
        last = len(self.layers) - 1
        for i in range(last):
            x = self.layers[i](self.own[i](x, x, packed.mask), memory, str(i))
        x = self.own[last](x, x, packed.mask)
        seen_by_role = self.layers[last].see(x, memory, str(last))
        return {role: packed.unpack(weights) for role, weights in seen_by_role.items()}

    def _check(self, length: int) -> None:
        table = self.embed.table
        if table is not None and length > len(table):
            raise ConfigError(
                f"A caption of {length} tokens: this head has positions for {len(table)}. "
                f"Cut the captions, or train with --set head.longest={length} or more."
            )


def initialise(head: nn.Module, decoder: Decoder, positions: Positions) -> None:
    """Xavier-uniform for every matrix, embeddings included; zero biases in attention; the table."""
    for parameter in head.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for part in head.modules():
        if isinstance(part, Attention):
            for linear in (part.q, part.k, part.v, part.o):
                nn.init.zeros_(linear.bias)
    if positions == "xavier" and decoder.embed.table is not None:
        nn.init.xavier_uniform_(decoder.embed.table)


def rows_of(features: Mapping[str, Tensor], role: str, like: Tensor) -> Tensor:
    """The rows of ``role``, (B, N, D), in the dtype of the weight ``like``."""
    return features[role].to(like.dtype)


def keep_mask(memory: Memory, masks: Mapping[str, Tensor], role: str) -> Tensor | None:
    """Keep ``role``'s mask (B, 1, 1, N) in ``memory`` as ``ROLE.mask``; None without a mask."""
    see = seen(masks.get(role))
    if see is not None:
        memory[f"{role}.mask"] = see
    return see


def zero_rows(x: Tensor) -> Tensor:
    """(B, N, D) -> (B, N) bool: True where a row is not exactly zero."""
    return torch.any(x != 0, -1)
