"""What the LSTM heads of self-critical.pytorch share: inputs, additive attention, the word loop."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from precap.errors import ConfigError, DataError
from precap.train.contract import Memory, State, Words


class AdditiveAttention(nn.Module):
    """softmax_j(w . tanh(p_j + W h)) over all rows, then masked and normalised again."""

    def __init__(self, state: int, width: int) -> None:
        super().__init__()
        self.state, self.score = nn.Linear(state, width), nn.Linear(width, 1)

    def forward(self, h: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """h (B, K, R) -> attended rows (B, K, R), weights (B, K, N)."""
        near = torch.tanh(memory["keys"][:, None] + self.state(h)[:, :, None])  # (B, K, N, A)
        weights = self.score(near)[..., 0].softmax(-1)  # (B, K, N)
        if "mask" in memory:
            weights = weights * memory["mask"][:, None]
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        return weights @ memory["rows"], weights


class Core(Protocol):
    """One step of a recurrent decoder: words (B, K, E) and state -> output (B, K, R), weights."""

    def __call__(self, x: Tensor, memory: Memory, state: State) -> tuple[Tensor, State, Tensor]: ...


def run(
    core: Core, embed: nn.Module, output: nn.Module, memory: Memory, state: State, tokens: Tensor,
    words: Words, sampling: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Teacher forcing over (B, C, T) -> outputs (B, C, T, R) and attention (B, C, T, N).

    sampling: probability of feeding back a word drawn from the model's own last answer instead of
    the caption's (scheduled sampling, Bengio et al., 2015).
    """
    outputs, looks = [], []
    given = tokens[..., 0]
    for t in range(tokens.shape[2]):
        out, state, weights = core(embed(given), memory, state)
        outputs.append(out)
        looks.append(weights)
        if t + 1 == tokens.shape[2]:
            break
        given = tokens[..., t + 1]
        if sampling > 0:
            own = output(out.detach()).softmax(-1).flatten(0, 1).multinomial(1).view_as(given)
            mine = (torch.rand(given.shape, device=given.device) < sampling) & (given != words.pad)
            given = torch.where(mine, own, given)
    return torch.stack(outputs, 2), torch.stack(looks, 2)


class Recurrent(nn.Module):
    """A head that says word by word what its ``core`` tells: the Head protocol but ``encode``.

    Its parts are named ``embed`` and ``output``; ``states`` names the tensors of its LSTMs, whose
    width is that of the rows.
    """

    states: ClassVar[tuple[str, ...]]
    core: Core
    embed: nn.Module
    output: nn.Linear
    words: Words
    role: str
    sampling: float

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
        """Every LSTM at zero."""
        rows, _, dim = memory["rows"].shape
        zero = memory["rows"].new_zeros(rows, width, dim)
        return {name: zero for name in self.states}

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens -> (B, K, V) logits."""
        out, state, _ = self.core(self.embed(tokens), memory, state)
        return self.classify(out), state

    def attend(self, memory: Memory, tokens: Tensor) -> dict[str, Tensor]:
        """role -> (B, C, T, N)."""
        return {self.role: self._run(memory, tokens)[1]}


def renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """``state`` with every rule applied to every name."""
    found = {}
    for key, value in state.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        found[key] = value
    return found


def sizes(state: Mapping[str, Tensor], core: str, whose: str) -> dict[str, Any]:
    """The Config that the tensors decide; DataError when there is no ``core``: not ``whose``."""
    if core not in state:
        raise DataError(f"These weights have no {core}: they are no {whose}.")
    try:
        dim, inner = state["att_embed.0.weight"].shape[0], state["ctx2att.weight"].shape[0]
        return {"dim": dim, "attention": inner, "words": state["embed.0.weight"].shape[1]}
    except KeyError as error:
        raise DataError(f"These weights have no {error}: not of this --init-format.") from error


def rows_role(dims: Mapping[str, int]) -> str:
    """Which role the attention reads: regions when there are any, else the grid."""
    role = next((r for r in ("region", "grid") if r in dims), None)
    if role is None:
        raise ConfigError(
            f"This head attends to region or grid features; the stores offer {', '.join(dims)}. "
            f"Add such a store to --features, or choose --head prefix: it reads a pooled feature."
        )
    return role


def keep_mask(memory: Memory, masks: Mapping[str, Tensor], role: str) -> None:
    """(B, N) as numbers under ``memory["mask"]``, when rows are padded."""
    if role in masks:
        memory["mask"] = masks[role].to(memory["rows"].dtype)


def mean_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, S) -> (B, S), over real rows."""
    if mask is None:
        return x.mean(1)
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
