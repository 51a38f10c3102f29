"""Published parameter names of the meshed-memory family, turned into ours."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from precap.errors import DataError

#: (pattern, replacement), applied in order to every name.
Rules = Sequence[tuple[str, str]]

#: Decoding state and counters that the originals save with the weights; nothing is lost.
BUFFERS = (r"\.running_(keys|values|seq|mask_\w+)$",)

#: The parts all four heads share, once the decoder's prefix is ``decoder.``.
SHARED: Rules = (
    (r"\.attention\.fc_([qkvo])\.", r".attention.\1."),
    (r"\.pwff(\w*)\.fc1\.", r".feed\1.feed.inner."),
    (r"\.pwff(\w*)\.fc2\.", r".feed\1.feed.outer."),
    (r"\.pwff(\w*)\.layer_norm\.", r".feed\1.skip.norm."),
    (r"^decoder\.layers\.(\d+)\.self_att\.", r"decoder.own.\1."),
    (r"^decoder\.word_emb\.weight$", "decoder.embed.word.weight"),
    (r"^decoder\.pos_emb\.weight$", "decoder.embed.table"),
    (r"^decoder\.fc\.weight$", "decoder.output.weight"),
)

#: GRIT and HierCap name the grid encoder and the caption generator alike.
FUSION: Rules = (
    (r"^cap_generator\.", "decoder."),
    (r"^grid_net\.fc\.", "grid.input.0."),
    (r"^grid_net\.layer_norm\.", "grid.input.3."),
    (r"^grid_net\.layers\.(\d+)\.mhatt\.", r"grid.own.\1."),
    (r"^grid_net\.layers\.(\d+)\.pwff\.fc1\.", r"grid.feed.\1.feed.inner."),
    (r"^grid_net\.layers\.(\d+)\.pwff\.fc2\.", r"grid.feed.\1.feed.outer."),
    (r"^grid_net\.layers\.(\d+)\.pwff\.layer_norm\.", r"grid.feed.\1.skip.norm."),
    (r"\.vis_att1?\.", ".looks.0."),
    (r"\.vis_att2\.", ".looks.1."),
    (r"\.vis_att3\.", ".looks.2."),
    (r"\.fc_alpha1\.", ".gates.0."),
    (r"\.fc_alpha2\.", ".gates.1."),
    (r"\.fc_alpha3\.", ".gates.2."),
    *SHARED,
    (r"\.layer_norm\.", ".skip.norm."),
)


def renamed(state: Mapping[str, Tensor], rules: Rules, dead: Sequence[str]) -> dict[str, Tensor]:
    """``state`` under our names; names that match ``dead`` (no effect on any output) are left out.

    A name no rule knows stays as it is, so that a strict load reports it.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if any(re.search(pattern, key) for pattern in dead):
            continue
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        found[key] = value
    table = found.get("decoder.embed.table")
    if table is not None:
        found["decoder.embed.table"] = table[1:]  # row 0 is padding's; captions start at row 1
    return found


def sizes(state: Mapping[str, Tensor], decoder: str) -> dict[str, Any]:
    """The Config values that the tensors decide; ``decoder`` is its prefix, e.g. "decoder".

    The number of heads leaves no trace in the tensors: it keeps its published default.
    """
    needed = [f"{decoder}.{name}.weight" for name in ("word_emb", "pos_emb", "layers.0.pwff.fc1")]
    missing = [name for name in needed if name not in state]
    if missing:
        raise DataError(
            f"These weights have no {', '.join(missing)}, so they are not of this format. "
            f"Check --init-format."
        )
    words, table, inner = (state[name] for name in needed)
    layers = {
        int(match[1]) for key in state if (match := re.match(rf"{decoder}\.layers\.(\d+)\.", key))
    }
    return {
        "dim": words.shape[1],
        "hidden": inner.shape[0],
        "layers": len(layers),
        "longest": len(table) - 1,
        "positions": "xavier",
    }
