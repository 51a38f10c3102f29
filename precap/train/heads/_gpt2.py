"""GPT-2 (Radford et al., 2019) that continues a prefix of embeddings, with the prefix kept once.

The prefix of an image passes through the network once; its keys and values are memory that all
captions and hypotheses of the image share. Text attends to the prefix and to its own past.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precap.train.contract import Memory, State
from precap.train.layers import Attention, FeedForward, Packed, merge, split

gelu = partial(F.gelu, approximate="tanh")


def gated(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, gate: Tensor | None) -> Tensor:
    """(B, H, L, d) attention over N keys where ``mask`` (B, 1, L, N) allows.

    gate: (B, N) weights in 0..1 that scale the softmax before it is normalised again: with 0 and 1
    exactly a mask, and unlike one it has a gradient (the straight-through form of OPG's mask).
    """
    if gate is None:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    logits = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, L, N)
    weights = logits.masked_fill(~mask, float("-inf")).softmax(-1) * gate[:, None, None]
    return (weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)) @ values


class Block(nn.Module):
    """x + attention(LN x), then x + feed(LN x)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.own = Attention(dim, heads, dropout)
        self.feed = FeedForward(dim, 4 * dim, 0.0, gelu)
        self.dropout = nn.Dropout(dropout)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block, from the merged attention (B, L, D)."""
        x = x + self.dropout(self.own.o(attended))
        out: Tensor = x + self.dropout(self.feed(self.between(x)))
        return out


class GPT2(nn.Module):
    """``size`` words; ``longest`` positions, the prefix included."""

    def __init__(
        self, size: int, dim: int, heads: int, layers: int, longest: int, dropout: float
    ) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(size, dim), nn.Embedding(longest, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.last = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits, tied to the word embedding."""
        return F.linear(hidden, self.word.weight)

    def prefix(self, x: Tensor, seen: Tensor, lengths: Tensor, gate: Tensor | None) -> Memory:
        """Embeddings (B, P, D) as memory; text follows after ``lengths`` (B,) of them.

        seen: (B, P), which may be attended to. Returns keys and values per block, and "last"
        (B, D), the hidden state that predicts the first word.
        """
        places = torch.arange(x.shape[1], device=x.device)
        mask = (places[:, None] >= places) & seen[:, None]  # (B, P, P) causal
        alone = ~mask.any(-1, keepdim=True) & (places[:, None] == places)
        mask = (mask | alone)[:, None]  # a row that sees nothing sees itself: no NaN
        x = self.dropout(x + self.place(places))
        memory: Memory = {"seen": seen, "length": lengths}
        if gate is not None:
            memory["gate"] = gate
        for i, block in enumerate(self._blocks()):
            h = block.before(x)
            keys, values = block.own.project(h)  # (B, H, P, d)
            memory[f"{i}.k"], memory[f"{i}.v"] = keys, values
            q = split(block.own.q(h), block.own.heads)
            x = block.finish(x, merge(gated(q, keys, values, mask, gate)))
        memory["last"] = self.last(x[torch.arange(len(x), device=x.device), lengths - 1])
        return memory

    def text(self, memory: Memory, packed: Packed) -> Tensor:
        """Packed text tokens, after the prefix of their image -> (B, L, D)."""
        x = self.word(packed.tokens) + self._places(memory, packed.positions)
        x = self.dropout(x)
        seen = memory["seen"][:, None, None].expand(-1, -1, x.shape[1], -1)  # (B, 1, L, P)
        mask = torch.cat([seen, packed.mask | _self(x)], -1)  # (B, 1, L, P + L)
        gate = memory.get("gate")
        if gate is not None:
            gate = torch.cat([gate, gate.new_ones(x.shape[:2])], 1)  # (B, P + L)
        for i, block in enumerate(self._blocks()):
            h = block.before(x)
            k, v = block.own.project(h)
            keys = torch.cat([memory[f"{i}.k"], k], 2)
            values = torch.cat([memory[f"{i}.v"], v], 2)
            q = split(block.own.q(h), block.own.heads)
            x = block.finish(x, merge(gated(q, keys, values, mask, gate)))
        out: Tensor = self.last(x)
        return out

    def start(self, memory: Memory, width: int) -> State:
        """Empty caches for ``width`` hypotheses per image."""
        state: State = {}
        for i, block in enumerate(self._blocks()):
            block.own.begin(len(memory["last"]), width, state, str(i))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) words at text position ``t`` (0 = the first word) -> (B, K, D), new state."""
        state = dict(state)
        at = torch.full_like(tokens, t)
        x = self.word(tokens) + self._places(memory, at)  # (B, K, D)
        for i, block in enumerate(self._blocks()):
            h, own, rows = block.before(x), block.own, tokens.shape
            heads = (*rows, own.heads, 1, -1)
            for name, value in (("k", own.k(h)), ("v", own.v(h))):
                state[f"{i}.{name}"] = torch.cat([state[f"{i}.{name}"], value.view(heads)], 3)
            q = own.q(h).view(*rows, own.heads, -1)  # (B, K, H, d)
            x = block.finish(x, self._look(memory, state, str(i), q))
        return self.last(x), state

    def _look(self, memory: Memory, state: State, at: str, q: Tensor) -> Tensor:
        """One query per hypothesis over the shared prefix and its own past: (B, K, D)."""
        scale, count = 1 / math.sqrt(q.shape[-1]), memory["seen"].shape[1]
        prefix = torch.einsum("bkhd,bhpd->bkhp", q, memory[f"{at}.k"]) * scale
        prefix = prefix.masked_fill(~memory["seen"][:, None, None], float("-inf"))
        past = torch.einsum("bkhd,bkhtd->bkht", q, state[f"{at}.k"]) * scale
        weights = torch.cat([prefix, past], -1).softmax(-1)  # (B, K, H, P + t)
        if "gate" in memory:
            gate = memory["gate"][:, None, None]
            weights = torch.cat([weights[..., :count] * gate, weights[..., count:]], -1)
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.einsum("bkhp,bhpd->bkhd", weights[..., :count], memory[f"{at}.v"])
        y = y + torch.einsum("bkht,bkhtd->bkhd", weights[..., count:], state[f"{at}.v"])
        return y.flatten(2)

    def _places(self, memory: Memory, positions: Tensor) -> Tensor:
        """Position embeddings of text positions: they go on after the image's prefix."""
        at = memory["length"][:, None] + positions
        out: Tensor = self.place(at.clamp_max(self.place.num_embeddings - 1))
        return out

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]


def _self(x: Tensor) -> Tensor:
    return torch.eye(x.shape[1], dtype=torch.bool, device=x.device)[None, None]


NAMES = (
    (r"^(?:transformer\.)?wte\.weight$", "word.weight"),
    (r"^(?:transformer\.)?wpe\.weight$", "place.weight"),
    (r"^(?:transformer\.)?ln_f\.", "last."),
    (r"^(?:transformer\.)?h\.(\d+)\.ln_1\.", r"blocks.\1.before."),
    (r"^(?:transformer\.)?h\.(\d+)\.ln_2\.", r"blocks.\1.between."),
    (r"^(?:transformer\.)?h\.(\d+)\.attn\.c_proj\.", r"blocks.\1.own.o."),
    (r"^(?:transformer\.)?h\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.feed.inner."),
    (r"^(?:transformer\.)?h\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.feed.outer."),
    (r"^(?:transformer\.)?h\.(\d+)\.attn\.c_attn\.", r"blocks.\1.own.qkv."),
)


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Hugging Face names of GPT-2 under ours: its matrices are (in, out), q, k, v are one.

    The tied ``lm_head`` and the causal-mask buffers of old files hold nothing of their own.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith((".attn.bias", ".attn.masked_bias", "lm_head.weight")):
            continue
        for pattern, new in NAMES:
            key = re.sub(pattern, new, key)
        if value.dim() == 2 and key.startswith("blocks."):
            value = value.T.contiguous()
        if ".own.qkv." in key:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                found[key.replace("qkv", name)] = part.contiguous()
        else:
            found[key] = value
    return found
