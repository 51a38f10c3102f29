"""GRIT's captioner: Grid- and Region-based Image captioning Transformer (Nguyen et al., ECCV 2022).

Grid rows pass three self-attention layers, region rows enter the decoder as the detector gave
them; each decoder layer reads both, gated in parallel, one after the other, or joined.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

from torch import Tensor

from precap.config import Count, frozen
from precap.train.contract import Memory, Words
from precap.train.heads._captioner import Captioner
from precap.train.heads._fusion import (
    FusionLayer,
    GridEncoder,
    Reading,
    Sizes,
    keep_masks,
    region_input,
)
from precap.train.heads._meshed import Decoder, Positions, initialise, rows_of
from precap.train.heads._names import BUFFERS, FUSION, renamed, sizes
from precap.train.layers import seen

READINGS = {
    "parallel": Reading((("grid",), ("region",))),
    "sequential": Reading((("grid",), ("region",)), gated=False),
    "concatenated": Reading((("grid", "region"),), gated=False),
}


@frozen
class GRITConfig:
    """Published sizes are the defaults.

    layers: of the grid encoder, and of the decoder.
    positions: "xavier" reproduces the original's frozen random position table.
    shared_gate: True reproduces the original's parallel fusion, whose second gate is computed with
    the weights of the first; False gives each view its own gate.
    """

    dim: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: Count = 3
    dropout: float = 0.2
    attention_dropout: float = 0.2
    longest: int = 54
    fusion: Literal["parallel", "sequential", "concatenated"] = "parallel"
    positions: Positions = "sinusoid"
    shared_gate: bool = False


class GRIT(Captioner):
    """See the module. Any number of grid and region rows of any width."""

    Config = GRITConfig
    needs: ClassVar[frozenset[str]] = frozenset({"grid", "region"})
    takes: ClassVar[frozenset[str]] = needs

    def __init__(self, config: GRITConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c, s = config, Sizes.of(config)
        self.reading = replace(READINGS[c.fusion], shared_gate=c.shared_gate)
        self.grid = GridEncoder(dims["grid"], c.layers, s)
        self.region = region_input(dims["region"], s)
        layers = (FusionLayer(s, self.reading) for _ in range(c.layers))
        self.decoder = Decoder(layers, (s.block() for _ in range(c.layers)), words, c.longest)
        initialise(self, self.decoder, c.positions)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """The grid encoder, and the keys and values of every decoder layer."""
        weight = self.decoder.output.weight
        sources = {
            "grid": self.grid(rows_of(features, "grid", weight), seen(masks.get("grid"))),
            "region": self.region(rows_of(features, "region", weight)),
        }
        memory: Memory = {}
        keep_masks(self.reading, sources, masks, memory)
        for i, layer in enumerate(self.decoder.layers):
            cast(FusionLayer, layer).keep(sources, memory, str(i))
        return memory


#: The second gate is computed with fc_alpha1, so fc_alpha2 has no effect; the detector is no head.
DEAD = (*BUFFERS, r"^detector\.", r"\.fc_alpha2\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published GRIT state dict under our names."""
    return renamed(state, FUSION, DEAD)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config under which the published weights give the published answers."""
    found = sizes(state, "cap_generator")
    layer = "cap_generator.layers.0"
    if f"{layer}.fc_alpha1.weight" in state:
        return {**found, "fusion": "parallel", "shared_gate": True}
    joined = f"{layer}.vis_att2.attention.fc_q.weight" not in state
    return {**found, "fusion": "concatenated" if joined else "sequential"}


PLUGIN = GRIT
IMPORTERS = {"grit": convert}
IMPORT_OPTIONS = {"grit": options}
