"""What the LSTM heads of self-critical.pytorch share: inputs, additive attention, the word loop."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from precap.errors import ConfigError
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
