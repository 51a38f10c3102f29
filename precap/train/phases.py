"""The two phases of a training: what one batch contributes to the loss in each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from precap.train import losses
from precap.train.batch import lengths, parts
from precap.train.contract import Batch, Words
from precap.train.data import Loader
from precap.train.decode import decode
from precap.train.predict import evaluating
from precap.train.settings import CrossEntropy, Decode, Optim, SelfCritical


@dataclass(frozen=True)
class Share:
    """Part of a batch ready for its loss. ``images``: its part of all images of the update."""

    batch: Batch
    advantage: Tensor | None = None


class Phase(Protocol):
    """One way to learn from a batch."""

    name: str
    loader: Loader
    epochs: float
    optim: Optim

    def begin_epoch(self, epoch: int) -> None: ...

    def prepare(self, batch: Batch, count: int) -> tuple[list[Share], Tensor, dict[str, Tensor]]:
        """The batch in ``count`` shares, the sum of their weights, and figures to log (sums)."""
        ...

    def loss(self, share: Share) -> tuple[Tensor, Tensor | None]:
        """Sum of the losses, to be divided by the weights of the whole update; and one more loss
        that is a mean over the share's images, or None."""
        ...


class Teacher:
    """Cross-entropy on the given captions, with scheduled sampling for heads that offer it."""

    name = "xe"

    def __init__(self, head: Any, words: Words, loader: Loader, config: CrossEntropy) -> None:
        self.head, self.words, self.loader, self.config = head, words, loader, config
        self.epochs, self.optim = config.epochs, config.optim

    def begin_epoch(self, epoch: int) -> None:
        """Set the probability of scheduled sampling (Bengio et al., 2015) for this epoch."""
        c = self.config
        if hasattr(self.head, "sampling"):
            past = (epoch - c.sampling_start) // c.sampling_every
            used = c.sampling_start >= 0 and epoch > c.sampling_start
            self.head.sampling = min(c.sampling_step * past, c.sampling_most) if used else 0.0

    def prepare(self, batch: Batch, count: int) -> tuple[list[Share], Tensor, dict[str, Tensor]]:
        """Shares of the batch; weights are tokens."""
        weight = lengths(batch.tokens, self.words).sum()
        return [Share(part) for part in parts(batch, count)], weight, {}

    def loss(self, share: Share) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of the share's captions, and the head's auxiliary loss."""
        batch, smoothing = share.batch, self.config.label_smoothing
        memory = self.head.encode(batch.features, batch.masks)
        total, _ = losses.cross_entropy(self.head, memory, batch.tokens, self.words, smoothing)
        if not hasattr(self.head, "auxiliary"):
            return total, None
        return total, self.head.auxiliary(memory, batch.tokens)


class Critic:
    """Self-critical training: candidates of the head itself, weighed by how well they score."""

    name = "scst"

    def __init__(
        self,
        head: Any,
        words: Words,
        loader: Loader,
        config: SelfCritical,
        longest: int,
        reward: Callable[[list[str], Tensor], Tensor],
    ) -> None:
        self.head, self.words, self.loader, self.config = head, words, loader, config
        self.longest, self.reward = longest, reward
        self.epochs, self.optim = config.epochs, config.optim
        sampled = config.candidates == "sample"
        self.how = Decode(
            beam=config.samples,
            sample=sampled,
            temperature=config.temperature if sampled else 1.0,
            longest=longest,
            all_beams=True,
            suppress_unk=False,
        )

    def begin_epoch(self, epoch: int) -> None:
        """The candidates' own words are scored: nothing is sampled in their place."""
        if hasattr(self.head, "sampling"):
            self.head.sampling = 0.0

    def prepare(self, batch: Batch, count: int) -> tuple[list[Share], Tensor, dict[str, Tensor]]:
        """Draw and score the candidates without gradients; the loss runs them once more."""
        c = self.config
        found = self.candidates(batch, self.how, c.sample_dropout)  # (B, K, T)
        greedy = None
        if c.baseline == "greedy":
            best = self.candidates(batch, replace(self.how, beam=1, sample=False))
            greedy = self.reward(batch.ids, best)[:, 0]
        rewards = self.reward(batch.ids, found)
        advantage = losses.advantages(rewards, c.baseline, greedy)
        begin = torch.full_like(found[..., :1], self.words.bos)
        batch = replace(batch, tokens=torch.cat([begin, found], -1))
        many = torch.tensor(float(rewards.numel()), device=rewards.device)
        weight = lengths(batch.tokens, self.words).clamp_max(found.shape[-1]).sum()
        shares = [
            Share(part, adv)
            for part, adv in zip(
                parts(batch, count), advantage.tensor_split(min(count, len(batch.ids))), strict=True
            )
        ]
        figures = {"reward": rewards.sum(), "candidates": many}
        return shares, weight if c.reduce == "tokens" else many, figures

    def candidates(self, batch: Batch, how: Decode, dropout: bool = False) -> Tensor:
        """(B, K, T) captions of the head as it is."""
        with torch.no_grad() if dropout else evaluating(self.head):
            memory = self.head.encode(batch.features, batch.masks)
            return decode(self.head, memory, how, self.words).tokens

    def loss(self, share: Share) -> tuple[Tensor, Tensor | None]:
        """Policy gradient of the share's candidates, under the distribution they came from."""
        assert share.advantage is not None
        batch = share.batch
        memory = self.head.encode(batch.features, batch.masks)
        logp, real = losses.logprobs(
            self.head, memory, batch.tokens, self.words, self.how.temperature
        )
        total, _ = losses.policy_gradient(
            logp, real, share.advantage, self.config.reduce, self.longest
        )
        return total, None
