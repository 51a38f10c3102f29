"""What a captioning head is, and the batch it is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

#: What ``encode`` gives: named tensors, each with the image axis first (B, ...).
Memory = dict[str, Tensor]
#: What decoding carries from step to step: named tensors, each (B, K, ...), regathered per beam.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """B images, their features by role, and C captions each.

    features: role -> (B, N, D) for grid/region/boxes/weights, (B, D) for global, (B, 2) for size;
    floating point as stored (fp16 is cast on the device). masks: role -> (B, N) bool, True where
    the row is real; a role without a mask is real everywhere.
    tokens: (B, C, T) int64, ``bos w .. w eos pad ..``; a missing caption is a row of pads only.
    """

    ids: list[str]
    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    tokens: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``; copies overlap with compute when memory is pinned."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self.features.items()}
        masks = {k: v.to(device, non_blocking=True) for k, v in self.masks.items()}
        tokens = self.tokens.to(device, non_blocking=True)
        return replace(self, features=moved, masks=masks, tokens=tokens)


@dataclass(frozen=True)
class Words:
    """The numbers of a vocabulary that heads and decoding need. ``unk`` -1: no such word."""

    size: int
    pad: int
    bos: int
    eos: int
    unk: int = -1


class Head(Protocol):
    """A captioning model over cached features (also a ``torch.nn.Module``). ``PLUGIN`` names it.

    Built as ``PLUGIN(config, dims, words)``: ``dims`` maps each role it is given to the width of
    its rows. The encoder runs once per image whatever the number of captions or beams: captions
    and beams are an extra axis of the queries, never copies of the memory. Features reach
    ``encode`` as float32 (the trainer casts them on the device).

    A head may offer more, which the trainer uses when it is there:

    - ``hidden(memory, tokens) -> (B, C, T, D)`` and ``classify(hidden) -> (..., V)``, of which
      ``forward`` is the composition: the loss then classifies real positions only;
    - ``auxiliary(memory, tokens) -> scalar``: one more loss, already weighted, added to the
      cross-entropy in training;
    - ``pretrained() -> None``: fetch weights that others trained, such as a language model; called
      once, before a training begins fresh, and never when a run is loaded or resumed;
    - a float attribute ``sampling`` on an LSTM, the probability of scheduled sampling, which the
      trainer sets from its schedule; ``forward`` then feeds back its own samples in training.
    """

    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]]  # roles it cannot work without
    takes: ClassVar[frozenset[str]]  # roles it uses when they are there

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Everything that depends on the image alone, cross-attention keys and values included."""
        ...

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Teacher forcing: (B, C, T) input tokens -> (B, C, T, V) logits of the next token."""
        ...

    def start(self, memory: Memory, width: int) -> State:
        """The state before the first token, for ``width`` hypotheses per image."""
        ...

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """One token: (B, K) tokens at position ``t`` (0 = bos) -> (B, K, V) logits, new state."""
        ...

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Role -> (B, C, T, N): where each prediction looked (last layer, mean over heads)."""
        ...
