"""Optimisers, learning rates as a pure function of the step, and the average of the weights."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from precap.train.settings import Optim


def make(head: nn.Module, config: Optim) -> torch.optim.Optimizer:
    """The optimiser; only matrices decay. Runs fused, so a step is one pass over each tensor."""
    trained = [p for p in head.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0])
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def rate(config: Optim, step: int, total: int, per_epoch: int) -> float:
    """The learning rate of update ``step`` (from 0) of a phase of ``total`` updates.

    constant: lr after a linear warm-up. cosine, linear: from lr after the warm-up to
    ``floor`` * lr at the end. noam: factor * dim^-0.5 * min(s^-0.5, s * warmup^-1.5), s from 1;
    lr is not used. steps: lr * rate^((epoch - start) // every) from epoch ``start`` on. epochs:
    lr times the factor of the last row of ``table`` whose epoch has come.
    """
    warm = config.warmup * total if config.warmup < 1 else config.warmup
    epoch = step // max(1, per_epoch)
    if config.schedule == "noam":
        s, warm = step + 1, max(1.0, warm)
        return float(config.factor * config.dim**-0.5 * min(s**-0.5, s * warm**-1.5))
    if config.schedule == "epochs":
        factor = [f for start, f in config.table if epoch >= start]
        return config.lr * (factor[-1] if factor else 1.0)
    if config.schedule == "steps":
        past = max(0, epoch - config.start)
        return float(config.lr * config.rate ** (past // config.every))
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1.0, total - warm))
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}
    return config.lr * (config.floor + (1 - config.floor) * shape[config.schedule])


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Average:
    """Exponential moving average of the weights; early on the decay is (1 + n) / (10 + n)."""

    def __init__(self, head: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.live = [p for p in head.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """After an update of the weights."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.live], 1 - decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the head has the averaged weights."""
        held = [p.detach().clone() for p in self.live]
        _copy(self.live, self.shadow)
        try:
            yield
        finally:
            _copy(self.live, held)


@torch.no_grad()
def _copy(to: Iterable[Tensor], source: Iterable[Tensor]) -> None:
    for a, b in zip(to, source, strict=True):
        a.copy_(b)


def clip(head: nn.Module, norm: float, value: float) -> float | Tensor:
    """Clip gradients by value, then by their common norm; returns the norm before clipping."""
    parameters = [p for p in head.parameters() if p.grad is not None]
    if value:
        torch.nn.utils.clip_grad_value_(parameters, value)
    return torch.nn.utils.clip_grad_norm_(parameters, norm if norm else math.inf)
