"""A head around a ``decoder``: everything it is asked about words, it asks the decoder."""

from typing import Any

from torch import Tensor, nn

from precap.train.contract import Memory, State


class Captioner(nn.Module):
    """All of the Head protocol but ``encode``; its ``decoder`` is _meshed's or _annotated's."""

    decoder: Any

    def hidden(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, D), what ``classify`` turns into logits."""
        out: Tensor = self.decoder.hidden(memory, tokens)
        return out

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits."""
        out: Tensor = self.decoder.output(hidden)
        return out

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T, V) logits."""
        return self.classify(self.hidden(memory, tokens))

    def start(self, memory: Memory, width: int) -> State:
        """Empty self-attention caches."""
        state: State = self.decoder.start(len(next(iter(memory.values()))), width)
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens at position ``t`` -> (B, K, V) logits."""
        hidden, state = self.decoder.step(memory, state, tokens, t)
        return self.classify(hidden), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """Where the last layer looks: role -> (B, C, T, N), each summing to one."""
        looks: dict[str, Tensor] = self.decoder.attend(memory, tokens)
        return looks
