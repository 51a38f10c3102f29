"""The parts heads are wired from: attention, feed-forward, norms, positions, packing of captions.

Shapes: B images, C captions or K hypotheses each, T tokens, L packed tokens of one image,
N memory rows, H attention heads of width d, D = H * d. Masks are boolean, True = may be seen.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precap.train.contract import State

Norm = Callable[[int], nn.Module]
M = TypeVar("M", bound=nn.Module)


class Stack(nn.ModuleList, Generic[M]):
    """A ModuleList that tells the type checker what it holds."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, i: int) -> M: ...  # type: ignore[override]


def split(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) -> (B, H, L, d)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(B, H, L, d) -> (B, L, D)."""
    return x.transpose(1, 2).flatten(2)


def together(x: Tensor, *maps: nn.Linear) -> tuple[Tensor, ...]:
    """Several linear maps of one input as one matrix product, which is larger and so faster."""
    weight = torch.cat([m.weight for m in maps])
    bias = None if maps[0].bias is None else torch.cat([m.bias for m in maps])
    return F.linear(x, weight, bias).chunk(len(maps), -1)


def seen(mask: Tensor | None) -> Tensor | None:
    """(B, N) True = real row -> (B, 1, 1, N) for ``attend``.

    An image without a single real row sees its first (all-padding) row instead of giving NaN.
    """
    if mask is None:
        return None
    first = torch.zeros_like(mask)
    first[:, 0] = ~mask.any(1)
    return (mask | first)[:, None, None]  # (B, 1, 1, N)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014). On the CPU one random word of 64 bits serves four numbers,

    a third of the time of torch's own; the rate is then exact to 2^-16.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in eval mode."""
        if not self.training or not self.rate:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(self.rate * 2**16)  # of the 2^16 values of each 16 bits
        keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / max(1, 2**16 - dropped))


class Attention(nn.Module):
    """Scaled dot-product attention with H heads ("Attention is all you need", section 3.2).

    ``project`` computes keys and values once per image; ``attend`` lets any number of queries of
    that image look at them, so captions and beams are more queries, never copies of the memory.
    ``source`` is the width of the memory rows (default ``dim``).
    """

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, bias: bool = True, source: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = nn.Linear(dim, dim, bias)
        self.k = nn.Linear(source or dim, dim, bias)
        self.v = nn.Linear(source or dim, dim, bias)
        self.o = nn.Linear(dim, dim, bias)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, N, d) of ``memory`` (B, N, S)."""
        keys, values = together(memory, self.k, self.v)
        return split(keys, self.heads), split(values, self.heads)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, L, D) over keys and values (B, H, N, d) -> (B, L, D).

        ``mask`` broadcasts to (B, H, L, N): boolean (True = may be seen) or a float bias added to
        the logits.
        """
        return self._mix(split(self.q(x), self.heads), keys, values, mask)

    def _mix(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, dropout_p=p)
        out: Tensor = self.o(merge(y))  # (B, H, L, d) -> (B, L, D)
        return out

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, L, D) over ``memory`` (B, N, S) -> (B, L, D)."""
        if x is not memory or type(self).project is not Attention.project:
            return self.attend(x, *self.project(memory), mask)
        q, keys, values = (split(y, self.heads) for y in together(x, self.q, self.k, self.v))
        return self._mix(q, keys, values, mask)

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Where ``attend`` looks: (B, L, N), the mean over heads of the softmax."""
        q = split(self.q(x), self.heads)
        logits = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, L, N)
        if mask is not None:
            logits = logits + mask if mask.is_floating_point() else _blocked(logits, mask)
        return logits.softmax(-1).mean(1)

    def extend(self, x: Tensor, state: State, name: str) -> Tensor:
        """Causal self-attention of one new token per hypothesis: (B, K, D) -> (B, K, D).

        Appends the token's key and value to ``state[name + ".k"]`` and ``[name + ".v"]``,
        each (B, K, H, t, d), in place of the mapping's old entries.
        """
        rows, width = x.shape[:2]
        heads = (rows, width, self.heads, 1, -1)
        state[f"{name}.k"] = torch.cat([state[f"{name}.k"], self.k(x).view(heads)], 3)
        state[f"{name}.v"] = torch.cat([state[f"{name}.v"], self.v(x).view(heads)], 3)
        q = self.q(x).view(rows * width, self.heads, 1, -1)  # (B*K, H, 1, d)
        keys, values = state[f"{name}.k"].flatten(0, 1), state[f"{name}.v"].flatten(0, 1)
        y = F.scaled_dot_product_attention(q, keys, values)
        out: Tensor = self.o(y.reshape(rows, width, -1))
        return out

    def begin(self, rows: int, width: int, state: State, name: str) -> None:
        """Empty keys and values for ``rows`` images with ``width`` hypotheses each."""
        dim = self.k.out_features // self.heads
        empty = self.k.weight.new_zeros(rows, width, self.heads, 0, dim)
        state[f"{name}.k"], state[f"{name}.v"] = empty, empty


def _blocked(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, float("-inf"))


class FeedForward(nn.Module):
    """W2 Drop(act(W1 x)), position by position (same paper, section 3.3)."""

    def __init__(
        self, dim: int, hidden: int, dropout: float = 0.0, act: Callable[[Tensor], Tensor] = F.relu
    ) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.act, self.dropout = act, Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.outer(self.dropout(self.act(self.inner(x))))
        return out


class Residual(nn.Module):
    """One sub-block f with its skip: post-norm LN(x + Drop(f(x))), pre-norm x + Drop(f(LN(x)))."""

    def __init__(
        self, dim: int, dropout: float = 0.0, pre: bool = False, norm: Norm = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.norm, self.dropout, self.pre = norm(dim), Dropout(dropout), pre

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """(..., D) -> (..., D); ``f`` maps (..., D) to (..., D)."""
        y: Tensor = x + self.dropout(f(self.norm(x) if self.pre else x))
        return y if self.pre else self.norm(y)


class Projection(nn.Sequential):
    """Features to model width: LN(Drop(ReLU(Linear(x)))), as in HIN, M2 and GRIT."""

    def __init__(self, source: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(source, dim), nn.ReLU(), Dropout(dropout), nn.LayerNorm(dim))


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim) table of the same paper's section 3.5: even columns sine, odd cosine."""
    at = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(at * rate)
    table[:, 1::2] = torch.cos(at * rate)[:, : dim // 2]
    return table.float()


class TokenEmbedding(nn.Module):
    """Drop(scale * word + position). ``positions``: "sinusoid" (fixed), "learned" or "none"."""

    def __init__(
        self,
        size: int,
        dim: int,
        longest: int = 64,
        positions: str = "sinusoid",
        scaled: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(size, dim)
        self.scale = math.sqrt(dim) if scaled else 1.0
        self.dropout = Dropout(dropout)
        table = (
            sinusoids(longest, dim) if positions == "sinusoid" else 0.02 * torch.randn(longest, dim)
        )
        self.table: Tensor | None
        if positions == "learned":
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", None if positions == "none" else table)

    def forward(self, tokens: Tensor, positions: Tensor | int) -> Tensor:
        """tokens (B, L) and their positions (B, L), or one position for all -> (B, L, D)."""
        x = self.word(tokens) * self.scale
        if self.table is not None:
            x = x + self.table[positions]
        out: Tensor = self.dropout(x)
        return out


@dataclass(frozen=True)
class Packed:
    """All captions of an image as one row without padding between them.

    tokens, positions: (B, L) int64; ``real`` (B, L) bool, False on the padding at the row's end.
    mask: (B, 1, L, L) for self-attention: a token sees earlier tokens of its own caption.
    """

    tokens: Tensor
    positions: Tensor
    real: Tensor
    mask: Tensor
    index: Tensor  # (B * L,) place of each packed token in the flat (B, C, T) grid
    shape: torch.Size  # (B, C, T)

    def unpack(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, C, T, D), zero where the tokens were padding."""
        x = x * self.real[..., None]
        flat = x.new_zeros(self.shape.numel(), x.shape[-1])
        return flat.index_copy(0, self.index, x.flatten(0, 1)).view(*self.shape, -1)


def pack(tokens: Tensor, pad: int) -> Packed:
    """Pack input tokens (B, C, T), ``bos w .. w pad ..``.

    Position 0 always counts as real, because in some vocabularies bos and pad are one number.
    Padding is then paid per image, not per caption: L is the largest number of real tokens that
    one image of the batch has.
    """
    rows, _, longest = tokens.shape
    real = tokens != pad
    real[:, :, 0] = True
    flat = real.flatten(1)  # (B, C*T)
    length = int(flat.sum(1).max())
    order = torch.argsort(flat, dim=1, descending=True, stable=True)[:, :length]  # (B, L)
    kept = flat.gather(1, order)
    caption, position = order // longest, order % longest
    same = caption[:, :, None] == caption[:, None, :]
    causal = position[:, :, None] >= position[:, None, :]
    mask = (same & causal & kept[:, None, :])[:, None]  # (B, 1, L, L)
    base = torch.arange(rows, device=tokens.device)[:, None] * flat.shape[1]
    picked = tokens.flatten(1).gather(1, order)
    return Packed(picked, position, kept, mask, (base + order).flatten(), tokens.shape)
