"""A published checkpoint's key names to a network's own; every key dropped is named on purpose."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from precap.extract import weights

#: (pattern, replacement) substitutions, applied in order; None drops the keys that match.
Rules = Sequence[tuple[str, str | None]]


def translate(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """``state`` under new names. A key that no rule knows keeps its name, for ``fit`` to refuse."""
    return {new: value for key, value in state.items() if (new := _renamed(key, rules))}


def _renamed(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if replacement is None:
            key = "" if re.search(pattern, key) else key
        else:
            key = re.sub(pattern, replacement, key)
    return key


def fill(network: nn.Module, found: weights.Weights, rules: Rules = ()) -> None:
    """Fill ``network`` from a seed, or strictly from a file whose keys ``rules`` rename."""
    if found.seed is not None:
        weights.randomise(network, found.seed)
    elif found.path is not None:
        state = translate(weights.load_state(found.path), rules)
        weights.fit(network, state, str(found.path))
