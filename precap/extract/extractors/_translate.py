"""A published checkpoint's key names to a network's own; no key is passed over in silence."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from precap.errors import ConfigError

#: (pattern of the original key, replacement); a replacement of None drops the key on purpose.
Rules = Sequence[tuple[str, str | None]]


def translate(state: Mapping[str, Tensor], rules: Rules, source: str) -> dict[str, Tensor]:
    """``state`` under new names: the first rule whose pattern matches the whole key decides.

    Raises ConfigError, naming some keys, when a key matches no rule.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        found = next(((m, new) for p, new in compiled if (m := p.fullmatch(key))), None)
        if found is None:
            unknown.append(key)
        elif found[1] is not None:
            renamed[found[0].expand(found[1])] = value
    if unknown:
        raise ConfigError(
            f"{source}: {len(unknown)} keys are not of this network, such as {_some(unknown)}. "
            f"Is it the checkpoint of another model?"
        )
    return renamed


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "") if keys else "none"
