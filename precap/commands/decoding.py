"""``--set decode.x=value`` of the commands that caption."""

from collections.abc import Sequence
from typing import Any

from precap import config
from precap.errors import ConfigError

HELP = "how to decode, e.g. --set decode.length_penalty=1 --set decode.block_trigrams=true"


def chosen(pairs: Sequence[str]) -> dict[str, Any]:
    """``["decode.length_penalty=1"]`` as {"length_penalty": 1}; the names are checked later."""
    found = {}
    for key, value in config.parse_settings(pairs).items():
        start, _, name = key.rpartition(".")
        if start != "decode":
            raise ConfigError(
                f"--set {key}: a trained run only takes decoding options. Did you mean "
                f"decode.{name}?"
            )
        found[name] = value
    return found
