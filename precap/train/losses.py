"""Losses over real tokens only: cross-entropy and the self-critical policy gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precap.train import ciderd, documents
from precap.train.batch import shifted
from precap.train.contract import Memory, Words
from precap.train.settings import SelfCritical


def real_logits(head: Any, memory: Memory, inputs: Tensor, real: Tensor) -> Tensor:
    """Logits (n, V) at the n real positions of (B, C, T) inputs; padding is never classified."""
    if hasattr(head, "hidden"):
        out: Tensor = head.classify(head.hidden(memory, inputs)[real])
        return out
    all_of_them: Tensor = head(memory, inputs)
    return all_of_them[real]


def cross_entropy(
    head: Any, memory: Memory, tokens: Tensor, words: Words, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum of the token losses (nats) of (B, C, T) captions, and the number of tokens."""
    inputs, targets, real = shifted(tokens, words)
    logits = real_logits(head, memory, inputs, real)
    loss = F.cross_entropy(
        logits.float(), targets[real], label_smoothing=smoothing, reduction="sum"
    )
    return loss, real.sum()


def logprobs(
    head: Any, memory: Memory, tokens: Tensor, words: Words, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token of (B, C, T) captions, and which are real: (B, C, T-1)."""
    inputs, targets, real = shifted(tokens, words)
    logits = real_logits(head, memory, inputs, real).float() / temperature
    picked = -F.cross_entropy(logits, targets[real], reduction="none")
    full = picked.new_zeros(real.shape).masked_scatter(real, picked)
    return full, real


def advantages(rewards: Tensor, baseline: str, greedy: Tensor | None = None) -> Tensor:
    """(B, K) rewards minus what the baseline expects: see ``settings.SelfCritical``."""
    if baseline == "greedy":
        assert greedy is not None, "the greedy baseline needs the greedy captions' rewards"
        return rewards - greedy[:, None]
    mean = rewards.mean(1, keepdim=True)
    if baseline == "mean":
        return rewards - mean
    many = rewards.shape[1]
    return (rewards - mean) * (many / (many - 1))  # = reward - mean of the others


def policy_gradient(
    logp: Tensor, real: Tensor, advantage: Tensor, reduce: str, steps: int
) -> tuple[Tensor, Tensor]:
    """Sum of -logp * advantage as ``reduce`` weighs it, and the number it is to be divided by."""
    weighted = -logp * advantage[..., None] * real  # (B, K, T)
    if reduce == "tokens":
        return weighted.sum(), real.sum()
    per = real.sum(-1).clamp_min(1) if reduce == "caption" else torch.tensor(float(steps))
    return (weighted.sum(-1) / per).sum(), torch.tensor(advantage.numel(), device=logp.device)


def until_end(tokens: np.ndarray[Any, Any], words: Words, count_eos: bool) -> ciderd.Ints:
    """(n, T) decoded tokens as hypotheses for the reward: -1 after the end token."""
    ends = (tokens == words.eos) | (tokens == words.pad)
    first = np.where(ends.any(1), ends.argmax(1), tokens.shape[1])
    at = np.arange(tokens.shape[1])
    keep = at < first[:, None]
    if count_eos:
        keep |= (at == first[:, None]) & (tokens == words.eos)
    hypotheses: ciderd.Ints = np.where(keep, tokens, -1)
    return hypotheses


class Reward:
    """CIDEr-D (and BLEU-4) of decoded tokens against the training captions of their images.

    numbered: image id -> its captions as numbers, without bos and eos. renumber: for vocabularies
    of pieces, from the decoded rows to rows of word numbers; None scores the tokens as they are.
    number: a word's number in the reward, for document frequencies from a file.
    """

    def __init__(
        self,
        numbered: Mapping[str, Sequence[Sequence[int]]],
        words: Words,
        config: SelfCritical,
        renumber: Callable[[np.ndarray[Any, Any]], Sequence[Sequence[int]]] | None = None,
        number: Callable[[str], int | None] = lambda word: None,
    ) -> None:
        self.config, self.words, self.renumber = config, words, renumber
        self.row = {image: i for i, image in enumerate(numbered)}
        self.end = [words.eos] if config.count_eos else []
        references = [[[*c, *self.end] for c in captions] for captions in numbered.values()]
        given = None
        if config.frequencies is not None:
            shared = renumber is None and words.eos == words.bos == 0
            end = words.eos if config.count_eos else None
            given = documents.for_reward(config.frequencies, number, end, shared)
        self.scorer = ciderd.CiderD(references, config.frequency, given)

    def __call__(self, ids: Sequence[str], tokens: Tensor) -> Tensor:
        """(B, K, T) tokens -> (B, K) float32 rewards on the tokens' device."""
        rows, many, _ = tokens.shape
        flat = tokens.flatten(0, 1).cpu().numpy()
        images = np.repeat(np.array([self.row[i] for i in ids], np.int64), many)
        if self.renumber is None:
            hypotheses = until_end(flat, self.words, self.config.count_eos)
        else:
            hypotheses = ciderd.as_table([[*r, *self.end] for r in self.renumber(flat)])
        scores = self.scorer.rewards(images, hypotheses, bleu=self.config.bleu > 0)
        total = self.config.cider * scores.cider + self.config.bleu * scores.bleu
        return torch.from_numpy(total).float().view(rows, many).to(tokens.device)
