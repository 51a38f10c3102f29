"""From image features to prefix embeddings: the mapping networks of ClipCap and OPG."""

from typing import cast

import torch
from torch import Tensor, nn

from precap.train.layers import Attention, FeedForward

#: Text positions that OPG's auxiliary loss averages.
LONE = 20


class MapperLayer(nn.Module):
    """Pre-norm, bidirectional, no bias on queries, keys and values; hidden width 2 D."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.own = Attention(dim, heads, bias=False)
        self.own.o = nn.Linear(dim, dim)
        self.feed = FeedForward(dim, 2 * dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        h = self.before(x)
        x = x + self.own(h, h, mask)
        out: Tensor = x + self.feed(self.between(x))
        return out


class PooledMLP(nn.Module):
    """(B, S) -> Linear, Tanh, Linear -> (B, P, D)."""

    def __init__(self, width: int, dim: int, prefix: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, dim * prefix // 2)
        self.outer = nn.Linear(dim * prefix // 2, dim * prefix)
        self.prefix = prefix

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S) -> (B, P, D)."""
        flat = self.outer(torch.tanh(self.inner(x)))  # (B, P D)
        out: Tensor = flat.view(len(x), self.prefix, -1)
        return out


class PooledTransformer(nn.Module):
    """(B, S) unfolded to K embeddings, followed by P learned ones; the latter's answers."""

    def __init__(
        self, width: int, dim: int, inner: int, prefix: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.unfold, self.inner = nn.Linear(width, inner * dim), inner
        self.learned = nn.Parameter(torch.randn(prefix, dim))
        self.layers = nn.ModuleList(MapperLayer(dim, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S) -> (B, P, D)."""
        x = self.unfold(x).view(len(x), self.inner, -1)  # (B, K, D)
        return _answers(x, self.learned, self.layers, None)


class TokenMLP(nn.Module):
    """Every token on its own: Linear, Tanh, Linear."""

    def __init__(self, width: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, S) -> (B, N, D)."""
        out: Tensor = self.outer(torch.tanh(self.inner(x)))
        return out


class TokenTransformer(nn.Module):
    """Projected tokens followed by P learned embeddings; the latter's answers."""

    def __init__(self, width: int, dim: int, prefix: int, layers: int, heads: int) -> None:
        super().__init__()
        self.unfold = nn.Linear(width, dim)
        self.learned = nn.Parameter(torch.randn(prefix, dim))
        self.layers = nn.ModuleList(MapperLayer(dim, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, S) and mask (B, N) -> (B, P, D)."""
        if mask is not None:
            mask = nn.functional.pad(mask, (0, len(self.learned)), value=True)[:, None, None]
        return _answers(self.unfold(x), self.learned, self.layers, mask)


class SparseMask(nn.Module):
    """OPG's mask over its prefix X: a = K m, s = a V, p = sigmoid(LN s), 1 where p > tau.

    K = W1 X and V = W2 X are (P, P); m is learned. The index of the result is a feature of W2's
    output that OPG identifies with the prefix position of the same number.
    """

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(rows))
        self.keys, self.values = nn.Linear(dim, rows), nn.Linear(dim, rows)
        self.norm = nn.LayerNorm(rows)

    def forward(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """(B, P, D) -> the mask (B, P) of 0 and 1, and the probabilities it was cut from."""
        a = self.keys(x) @ self.query  # (B, P)
        s = torch.einsum("bl,blj->bj", a, self.values(x))
        p = torch.sigmoid(self.norm(s))
        return (p > threshold).to(p.dtype), p


def _answers(x: Tensor, learned: Tensor, layers: nn.ModuleList, mask: Tensor | None) -> Tensor:
    x = torch.cat([x, learned.expand(len(x), -1, -1)], 1)
    for layer in layers:
        x = cast(MapperLayer, layer)(x, mask)
    return x[:, -len(learned) :]
