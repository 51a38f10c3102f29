"""Att2in (Rennie et al., CVPR 2017): one maxout LSTM; what was seen enters its cell input only.

As ``att2in2`` of self-critical.pytorch. Works on grid features and on regions.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precap.config import frozen
from precap.errors import DataError
from precap.train.contract import Memory, State, Words
from precap.train.heads._recurrent import AdditiveAttention, keep_mask, rows_role, run


@frozen
class Att2inConfig:
    """Sizes of the code base."""

    dim: int = 512
    words: int = 512
    attention: int = 512
    dropout: float = 0.5


class Att2in(nn.Module):
    """See the module."""

    Config = Att2inConfig
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

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, R), what ``classify`` turns into logits."""
        return self._run(memory, tokens)[0]

    def _run(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
        state = self.start(memory, tokens.shape[1])
        sampling = self.sampling if self.training else 0.0
        return run(self.core, self.embed, self.output, memory, state, tokens, self.words, sampling)

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., R) -> (..., V) logits."""
        out: Tensor = self.output(hidden)
        return out

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, V) logits."""
        return self.classify(self.hidden(memory, tokens))

    def start(self, memory: Memory, width: int) -> State:
        """The LSTM at zero."""
        zero = memory["rows"].new_zeros(memory["rows"].shape[0], width, self.dim)
        return {"h": zero, "c": zero}

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens -> (B, K, V) logits."""
        out, state, _ = self.core(self.embed(tokens), memory, state)
        return self.classify(out), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """role -> (B, C, T, N)."""
        return {self.role: self._run(memory, tokens)[1]}


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
    found = {}
    for key, value in state.items():
        for pattern, new in RULES:
            key = re.sub(pattern, new, key)
        found[key] = value
    return found


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config that the tensors decide."""
    try:
        dim, inner = state["att_embed.0.weight"].shape[0], state["ctx2att.weight"].shape[0]
        return {"dim": dim, "attention": inner, "words": state["embed.0.weight"].shape[1]}
    except KeyError as error:
        raise DataError(f"These weights have no {error}: not of this --init-format.") from error


PLUGIN = Att2in
IMPORTERS = {"self-critical": convert}
IMPORT_OPTIONS = {"self-critical": options}
