"""Prefix captioning: image features become the first embeddings of a language model.

ClipCap (Mokady et al., 2021): a pooled feature to P embeddings, by an MLP with GPT-2 tuned or by
a transformer with GPT-2 frozen. Tini-Tiny: the same on TinyViT. OPG: every grid token to one
embedding (or a transformer over them), a learned sparse mask over the prefix, an auxiliary loss.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precap.config import Count, frozen
from precap.errors import ConfigError, DataError
from precap.train.contract import Memory, State, Words
from precap.train.heads._gpt2 import GPT2
from precap.train.heads._gpt2 import published as gpt2_names
from precap.train.heads._mappers import (
    LONE,
    PooledMLP,
    PooledTransformer,
    SparseMask,
    TokenMLP,
    TokenTransformer,
)
from precap.train.heads._pretrained import load as load_language_model
from precap.train.layers import pack

ROLES = ("global", "grid", "region")


@frozen
class PrefixConfig:
    """Sizes of the language model are GPT-2's; 6 layers make it DistilGPT-2.

    mapper: "mlp" or "transformer". inputs: which role makes the prefix; "auto" takes a pooled
    feature when there is one, else the grid, else regions. prefix: learned embeddings (pooled: P;
    token transformer: as many as tokens). inner: embeddings a pooled feature is unfolded to
    before the transformer. normalise: L2-normalise pooled features (ClipCap's transformer weights).
    sparse: OPG's mask over the prefix: "none", "exact" (its hard threshold, which never learns) or
    "straight-through" (the same forward, with a gradient). rows: prefix tokens the mask is for.
    auxiliary: weight of OPG's contrastive loss (0.1 as published). auxiliary_padding: average over
    20 text positions, padding included, as OPG does; else over the real words.
    tune: train the language model too, else it is frozen for real and stays in eval mode.
    language_model: what a fresh training begins with: "" random weights, "gpt2" or "distilgpt2"
    (from the Hugging Face cache or hub), or a folder or file of such weights.
    """

    mapper: Literal["mlp", "transformer"] = "mlp"
    inputs: Literal["auto", "global", "grid", "region"] = "auto"
    prefix: Count = 10
    inner: Count = 10
    mapper_layers: Count = 8
    mapper_heads: int = 8
    hidden: Count = 3072
    normalise: bool = False
    sparse: Literal["none", "exact", "straight-through"] = "none"
    threshold: float = 0.5
    rows: int = 50
    auxiliary: float = 0.0
    auxiliary_padding: bool = False
    dim: int = 768
    heads: int = 12
    layers: Count = 12
    positions: int = 1024
    dropout: float = 0.1
    tune: bool = True
    language_model: str = ""


class Prefix(nn.Module):
    """See the module."""

    Config = PrefixConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset(ROLES)

    def __init__(self, config: PrefixConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c = self.config = config
        self.words, self.role = words, _role(c, dims)
        self.mapper = _mapper(c, dims[self.role], pooled=self.role == "global")
        self.mask = SparseMask(c.dim, c.rows) if c.sparse != "none" else None
        self.gpt = GPT2(words.size, c.dim, c.heads, c.layers, c.positions, c.dropout)
        if not c.tune:
            self.gpt.requires_grad_(False)

    def pretrained(self) -> None:
        """The language model that others trained, for a fresh beginning."""
        if self.config.language_model:
            load_language_model(self.gpt, self.config.language_model)

    def train(self, mode: bool = True) -> Self:
        """A frozen language model keeps its dropout off."""
        super().train(mode)
        if not self.config.tune:
            self.gpt.eval()
        return self

    def prefix(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """The prefix embeddings (B, P, D)."""
        x = features[self.role].to(self.gpt.word.weight.dtype)
        if self.config.normalise:
            x = F.normalize(x, dim=-1)
        out: Tensor = self.mapper(x, masks.get(self.role))
        return out

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Map, mask, and pass the prefix through the language model once."""
        x = self.prefix(features, masks)  # (B, P, D)
        if x.shape[1] >= self.config.positions:
            raise ConfigError(
                f"The prefix is {x.shape[1]} embeddings long, the language model has "
                f"{self.config.positions} positions for it and the caption. Raise head.positions, "
                f"or use head.mapper=transformer, whose prefix is always head.prefix long."
            )
        seen = x.new_ones(x.shape[:2], dtype=torch.bool)
        if self.role in masks and isinstance(self.mapper, TokenMLP):
            seen = masks[self.role]
        lengths = _behind(seen)
        mean = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp_min(1)
        gate = None
        if self.mask is not None:
            hard, soft = self._sparse(x)
            if self.config.sparse == "straight-through":
                gate = (hard + soft - soft.detach()) * seen
            else:
                seen = seen & (hard > 0)
        return {**self.gpt.prefix(x, seen, lengths, gate), "mean": mean}

    def _sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.mask is not None
        if x.shape[1] != self.config.rows:
            raise ConfigError(
                f"The sparse mask is for {self.config.rows} prefix tokens, these features make "
                f"{x.shape[1]}. Set head.rows={x.shape[1]}, or head.sparse=none."
            )
        hard, soft = self.mask(x, self.config.threshold)
        return hard, soft

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, D). The bos slot holds what the prefix alone predicts."""
        first = memory["last"][:, None, None].expand(-1, tokens.shape[1], 1, -1)
        if tokens.shape[2] == 1:
            return first
        packed = pack(tokens[..., 1:], self.words.pad)
        return torch.cat([first, packed.unpack(self.gpt.text(memory, packed))], 2)

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits."""
        return self.gpt.classify(hidden)

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, V) logits."""
        return self.classify(self.hidden(memory, tokens))

    def start(self, memory: Memory, width: int) -> State:
        """Empty caches."""
        return self.gpt.start(memory, width)

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens at position ``t`` -> (B, K, V) logits; t = 0 is the prefix's own answer."""
        if t == 0:
            first = memory["last"][:, None].expand(-1, tokens.shape[1], -1)
            return self.classify(first), dict(state)
        hidden, state = self.gpt.step(memory, state, tokens, t - 1)
        return self.classify(hidden), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Per-token mappers: where the last block looks within the prefix, else nothing to show."""
        if not isinstance(self.mapper, TokenMLP):
            return {}
        return {self.role: _looks(self.gpt, memory, tokens, self.words)}

    def auxiliary(self, memory: Memory, tokens: Tensor) -> Tensor:
        """OPG's contrastive loss between mean prefix and mean word embeddings, weighted.

        Each caption's mean word embedding t is to pick its image's mean prefix v among the batch:
        CE(t v') + 0.005 (sum |t|^2 + sum |v|^2) / B.
        """
        if not self.config.auxiliary:
            return memory["mean"].new_zeros(())
        t = self._mean_words(tokens[..., 1:])  # (B, C, D)
        v = memory["mean"]  # (B, D)
        real = (tokens[..., 1:] != self.words.pad).any(-1)  # (B, C)
        owner = torch.arange(len(v), device=v.device)[:, None].expand(real.shape)[real]
        t = t[real]  # (n, D)
        loss = F.cross_entropy(t @ v.T, owner)
        size = t.square().sum() / len(t) + v.square().sum() / len(v)
        return self.config.auxiliary * (loss + 0.02 * 0.25 * size)

    def _mean_words(self, text: Tensor) -> Tensor:
        if self.config.auxiliary_padding:
            text = F.pad(text, (0, max(0, LONE - text.shape[-1])), value=self.words.pad)
            padded: Tensor = self.gpt.word(text[..., :LONE])  # (B, C, 20, D)
            return padded.mean(2)
        words: Tensor = self.gpt.word(text)  # (B, C, T, D)
        real = (text != self.words.pad)[..., None]
        return (words * real).sum(2) / real.sum(2).clamp_min(1)


def _behind(seen: Tensor) -> Tensor:
    """(B, P) -> (B,) the place behind the last real token, at least 1."""
    places = torch.arange(1, seen.shape[1] + 1, device=seen.device)
    return (seen * places).amax(1).clamp_min(1)


def _looks(gpt: GPT2, memory: Memory, tokens: Tensor, words: Words) -> Tensor:
    """(B, C, T, P): the last block's attention within the prefix, summing to one."""
    last = gpt._blocks()[-1]
    at = len(gpt.blocks) - 1
    caught: list[Tensor] = []
    handle = last.before.register_forward_hook(lambda _m, _i, out: caught.append(out))
    try:
        packed = pack(tokens, words.pad)
        gpt.text(memory, packed)
    finally:
        handle.remove()
    seen = memory["seen"][:, None, None]  # (B, 1, 1, P)
    return packed.unpack(last.own.weights(caught[0], memory[f"{at}.k"], seen))


def _role(c: PrefixConfig, dims: Mapping[str, int]) -> str:
    if c.inputs != "auto":
        if c.inputs not in dims:
            raise ConfigError(
                f"head.inputs={c.inputs}, but the features offer {', '.join(dims)}. Add a store."
            )
        return c.inputs
    return next(role for role in ROLES if role in dims)


def _mapper(c: PrefixConfig, width: int, pooled: bool) -> nn.Module:
    if pooled and c.mapper == "mlp":
        return PooledMLP(width, c.dim, c.prefix)
    if pooled:
        return PooledTransformer(width, c.dim, c.inner, c.prefix, c.mapper_layers, c.mapper_heads)
    if c.mapper == "mlp":
        return TokenMLP(width, c.dim, c.hidden)
    return TokenTransformer(width, c.dim, c.prefix, c.mapper_layers, c.mapper_heads)


RULES = (
    (r"^clip_project\.model\.0\.", "mapper.inner."),
    (r"^clip_project\.model\.2\.", "mapper.outer."),
    (r"^clip_project\.linear\.", "mapper.unfold."),
    (r"^clip_project\.prefix_const$", "mapper.learned"),
    (r"^clip_project\.transformer\.layers\.(\d+)\.norm1\.", r"mapper.layers.\1.before."),
    (r"^clip_project\.transformer\.layers\.(\d+)\.norm2\.", r"mapper.layers.\1.between."),
    (r"^clip_project\.transformer\.layers\.(\d+)\.attn\.to_queries\.", r"mapper.layers.\1.own.q."),
    (r"^clip_project\.transformer\.layers\.(\d+)\.attn\.project\.", r"mapper.layers.\1.own.o."),
    (r"^clip_project\.transformer\.layers\.(\d+)\.mlp\.fc1\.", r"mapper.layers.\1.feed.inner."),
    (r"^clip_project\.transformer\.layers\.(\d+)\.mlp\.fc2\.", r"mapper.layers.\1.feed.outer."),
    (r"^prefix_mask$", "mask.query"),
    (r"^linear1\.", "mask.keys."),
    (r"^linear2\.", "mask.values."),
    (r"^norm\.", "mask.norm."),
)
#: OPG's final mapper norm, which its forward throws away, and its encoder, which is an extractor.
DEAD = (r"^clip_project\.transformer\.norm\.", r"^swin\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ClipCap, Tini-Tiny and OPG weights under our names."""
    inner = {k.removeprefix("gpt."): v for k, v in state.items() if k.startswith("gpt.")}
    found = {f"gpt.{k}": v for k, v in gpt2_names(inner).items()}
    for key, value in state.items():
        if key.startswith("gpt.") or any(re.search(pattern, key) for pattern in DEAD):
            continue
        for pattern, new in RULES:
            key = re.sub(pattern, new, key)
        if key.endswith(".attn.to_keys_values.weight"):
            at = re.sub(r"^clip_project\.transformer\.layers\.(\d+)\..*", r"mapper.layers.\1", key)
            k, v = value.chunk(2)
            found[f"{at}.own.k.weight"], found[f"{at}.own.v.weight"] = k, v
        else:
            found[key] = value
    return found


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        table = state["gpt.transformer.wpe.weight"]
    except KeyError as error:
        raise DataError("These weights hold no GPT-2 (gpt.transformer.*).") from error
    layers = 1 + max(
        int(m[1]) for m in (re.match(r"gpt\.transformer\.h\.(\d+)\.", k) for k in state) if m
    )
    found: dict[str, Any] = {"dim": table.shape[1], "positions": len(table), "layers": layers}
    depth = [
        m for m in (re.match(r".*transformer\.layers\.(\d+)\.norm1\.w", k) for k in state) if m
    ]
    if depth:
        found |= {"mapper": "transformer", "mapper_layers": 1 + max(int(m[1]) for m in depth)}
        found["prefix"] = len(state["clip_project.prefix_const"])
    return found


def clipcap(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config of ClipCap and Tini-Tiny weights: a pooled feature.

    Every released transformer mapping wants it at length 1, and no released MLP does.
    """
    found = {**_sizes(state), "inputs": "global"}
    if found.get("mapper") == "transformer":
        inner = len(state["clip_project.linear.bias"]) // found["dim"]
        return {**found, "inner": inner, "normalise": True}
    return {
        **found,
        "mapper": "mlp",
        "prefix": len(state["clip_project.model.2.bias"]) // found["dim"],
    }


def opg(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config of OPG weights: grid tokens, the sparse mask with its published threshold."""
    found = {**_sizes(state), "inputs": "grid", "auxiliary_padding": True}
    if "prefix_mask" in state:
        found |= {"sparse": "exact", "rows": len(state["prefix_mask"]), "threshold": 0.1}
    if "clip_project.model.0.bias" in state:
        found |= {"mapper": "mlp", "hidden": len(state["clip_project.model.0.bias"])}
    return found


PLUGIN = Prefix
IMPORTERS = {"clipcap": convert, "tinytiny": convert, "opg": convert}
IMPORT_OPTIONS = {"clipcap": clipcap, "tinytiny": clipcap, "opg": opg}
