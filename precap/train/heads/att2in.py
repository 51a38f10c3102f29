"""Att2in (Rennie et al., CVPR 2017): one maxout LSTM; what was seen enters its cell input only.

As ``att2in2`` of self-critical.pytorch. Works on grid features and on regions.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precap.config import frozen
from precap.train.contract import Memory, State, Words
from precap.train.heads._recurrent import (
    AdditiveAttention,
    Recurrent,
    keep_mask,
    renamed,
    rows_role,
    sizes,
)


@frozen
class Att2inConfig:
    """Sizes of the code base."""

    dim: int = 512
    words: int = 512
    attention: int = 512
    dropout: float = 0.5


class Att2in(Recurrent):
    """See the module."""

    Config = Att2inConfig
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"region", "grid"})

    def __init__(self, config: Att2inConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c, self.words, self.role = config, words, rows_role(dims)
        self.sampling, self.dim = 0.0, c.dim
        self.rows = nn.Sequential(
            nn.Linear(dims[self.role], c.dim), nn.ReLU(), nn.Dropout(c.dropout)
        )
        self.keys = nn.Linear(c.dim, c.attention)
        self.embed = nn.Sequential(
            nn.Embedding(words.size, c.words), nn.ReLU(), nn.Dropout(c.dropout)
        )
        self.word, self.past = nn.Linear(c.words, 5 * c.dim), nn.Linear(c.dim, 5 * c.dim)
        self.seen = nn.Linear(c.dim, 2 * c.dim)
        self.attention = AdditiveAttention(c.dim, c.attention)
        self.dropout, self.output = nn.Dropout(c.dropout), nn.Linear(c.dim, words.size)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Rows and their attention keys."""
        rows = self.rows(features[self.role].to(self.output.weight.dtype))  # (B, N, R)
        memory: Memory = {"rows": rows, "keys": self.keys(rows)}
        keep_mask(memory, masks, self.role)
        return memory

    def core(self, x: Tensor, memory: Memory, state: State) -> tuple[Tensor, State, Tensor]:
        """Words (B, K, E) -> output (B, K, R), new state, attention (B, K, N)."""
        seen, weights = self.attention(state["h"], memory)
        sums = self.word(x) + self.past(state["h"])  # (B, K, 5 R)
        gates = torch.sigmoid(sums[..., : 3 * self.dim])
        come, forget, out = gates.chunk(3, -1)
        inner = (sums[..., 3 * self.dim :] + self.seen(seen)).chunk(2, -1)
        c = forget * state["c"] + come * torch.maximum(*inner)
        h = out * torch.tanh(c)
        return self.dropout(h), {"h": h, "c": c}, weights


RULES = (
    (r"^att_embed\.0\.", "rows.0."),
    (r"^ctx2att\.", "keys."),
    (r"^core\.i2h\.", "word."),
    (r"^core\.h2h\.", "past."),
    (r"^core\.a2c\.", "seen."),
    (r"^core\.attention\.h2att\.", "attention.state."),
    (r"^core\.attention\.alpha_net\.", "attention.score."),
    (r"^logit\.", "output."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """self-critical.pytorch's att2in2 under our names."""
    return renamed(state, RULES)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config that the tensors decide."""
    return sizes(state, "core.a2c.weight", "att2in2")


PLUGIN = Att2in
IMPORTERS = {"self-critical": convert}
IMPORT_OPTIONS = {"self-critical": options}
