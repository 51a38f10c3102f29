"""The pre-norm encoder-decoder of self-critical.pytorch ("annotated transformer"), in parts.

Spatial-Image-Captioning and the Object Relation Transformer both grew from it: they differ in
what the encoder's self-attention knows of boxes and in how the decoder looks at the image.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from precap.errors import DataError
from precap.train.contract import Memory, State, Words
from precap.train.layers import (
    Attention,
    FeedForward,
    Norm,
    Residual,
    TokenEmbedding,
    pack,
    seen,
)


class AnnotatedNorm(nn.Module):
    """a (x - mean) / (std + 1e-6) + b with the unbiased deviation: not quite LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        std, mean = torch.std_mean(x, -1, keepdim=True)
        return self.weight * (x - mean) / (std + 1e-6) + self.bias


class Look(Protocol):
    """How a decoder layer looks at the image (also an ``nn.Module``)."""

    def keep(self, rows: Tensor, memory: Memory, at: str) -> None:
        """Put what depends on the image alone under ``memory[at + ...]``."""
        ...

    def __call__(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        ...

    def where(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, N), summing to one over the rows."""
        ...


class DotLook(nn.Module):
    """Scaled dot-product attention over the encoded rows."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)

    def keep(self, rows: Tensor, memory: Memory, at: str) -> None:
        """Keys and values (B, H, N, d)."""
        memory[f"{at}.k"], memory[f"{at}.v"] = self.attention.project(rows)

    def forward(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.attention.attend(x, memory[f"{at}.k"], memory[f"{at}.v"], memory.get("mask"))

    def where(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """(B, L, N), the mean over heads."""
        return self.attention.weights(x, memory[f"{at}.k"], memory.get("mask"))


class EncoderLayer(nn.Module):
    """x + Drop(attention(LN x)), x + Drop(feed(LN x))."""

    def __init__(
        self, dim: int, heads: int, hidden: int, dropout: float, norm: Norm = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.own = Attention(dim, heads, dropout)
        self.feed = FeedForward(dim, hidden, dropout)
        self.skips = nn.ModuleList(Residual(dim, dropout, True, norm) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D); mask broadcasts to (B, H, N, N), boolean or added to the logits."""
        x = self.skips[0](x, lambda y: self.own(y, y, mask))
        out: Tensor = self.skips[1](x, self.feed)
        return out


class DecoderLayer(nn.Module):
    """Causal self-attention, a look at the image, feed-forward."""

    def __init__(
        self, dim: int, heads: int, hidden: int, dropout: float, look: nn.Module, norm: Norm
    ) -> None:
        super().__init__()
        self.own, self.look = Attention(dim, heads, dropout), look
        self.feed = FeedForward(dim, hidden, dropout)
        self.skips = nn.ModuleList(Residual(dim, dropout, True, norm) for _ in range(3))

    def rest(self, x: Tensor, memory: Memory, at: str) -> Tensor:
        """Everything after self-attention: (B, L, D) -> (B, L, D)."""
        x = self.skips[1](x, lambda y: self.look(y, memory, at))
        out: Tensor = self.skips[2](x, self.feed)
        return out


class Decoder(nn.Module):
    """Words in, hidden states out; embedding times sqrt(D), sinusoids, final norm, own output."""

    def __init__(  # noqa: PLR0913 - sizes, and the three choices in which its users differ
        self,
        words: Words,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float,
        longest: int,
        look: Callable[[], nn.Module],
        norm: Norm = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.words = words
        self.embed = TokenEmbedding(words.size, dim, longest, "sinusoid", True, dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads, hidden, dropout, look(), norm) for _ in range(layers)
        )
        self.last, self.output = norm(dim), nn.Linear(dim, words.size)

    def keep(self, rows: Tensor, memory: Memory) -> None:
        """What every layer needs of the encoded rows (B, N, D)."""
        for i, layer in enumerate(self._layers()):
            cast(Look, layer.look).keep(rows, memory, str(i))

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, D)."""
        packed = pack(tokens, self.words.pad)
        x = self.embed(packed.tokens, packed.positions)  # (B, L, D)
        for i, layer in enumerate(self._layers()):
            x = layer.skips[0](x, lambda y, own=layer.own: own(y, y, packed.mask))
            x = layer.rest(x, memory, str(i))
        return packed.unpack(self.last(x))

    def start(self, rows: int, width: int) -> State:
        """Empty self-attention caches."""
        state: State = {}
        for i, layer in enumerate(self._layers()):
            layer.own.begin(rows, width, state, str(i))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens at position ``t`` -> (B, K, D), new state."""
        state = dict(state)
        x = self.embed(tokens, t)  # (B, K, D)
        for i, layer in enumerate(self._layers()):
            x = layer.skips[0](x, lambda y, own=layer.own, i=i: own.extend(y, state, str(i)))
            x = layer.rest(x, memory, str(i))
        return self.last(x), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Where the last layer looks: "region" -> (B, C, T, N)."""
        packed = pack(tokens, self.words.pad)
        x = self.embed(packed.tokens, packed.positions)
        layers = self._layers()
        for i, layer in enumerate(layers):
            x = layer.skips[0](x, lambda y, own=layer.own: own(y, y, packed.mask))
            if i + 1 < len(layers):
                x = layer.rest(x, memory, str(i))
        last = layers[-1]
        query = cast(Residual, last.skips[1]).norm(x)
        weights = cast(Look, last.look).where(query, memory, str(len(layers) - 1))
        return {"region": packed.unpack(weights)}

    def _layers(self) -> list[Any]:
        return [*self.layers]


def keep_mask(memory: Memory, masks: Mapping[str, Tensor], role: str = "region") -> Tensor | None:
    """(B, 1, 1, N) under ``memory["mask"]``, and itself; None where every row is real."""
    see = seen(masks.get(role))
    if see is not None:
        memory["mask"] = see
    return see


def initialise(module: nn.Module) -> None:
    """Xavier-uniform for every matrix, embeddings included, as the originals do."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def table_rows(found: dict[str, Tensor], key: str = "decoder.embed.table") -> dict[str, Tensor]:
    """The published position table (1, n, D) as ours (n, D)."""
    if key in found:
        found[key] = found[key].squeeze(0)
    return found


def sizes(state: Mapping[str, Tensor], feed: str) -> dict[str, Any]:
    """Config values that the tensors decide; ``feed``: the first feed-forward matrix of layer 0."""
    try:
        words = state["model.generator.proj.weight"]
        hidden, table = state[f"model.encoder.layers.0.{feed}"], state["model.tgt_embed.1.pe"]
    except KeyError as error:
        raise DataError(f"These weights have no {error}: not of this --init-format.") from error
    layers = {k.split(".")[3] for k in state if k.startswith("model.encoder.layers.")}
    return {
        "dim": words.shape[1],
        "hidden": hidden.shape[0],
        "layers": len(layers),
        "longest": table.shape[1],
    }
