"""Up-Down (Anderson et al., CVPR 2018): an attention LSTM and a language LSTM over regions.

As ``updown``/``topdown`` of self-critical.pytorch. Works on grid features as well.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precap.config import frozen
from precap.train.contract import Memory, State, Words
from precap.train.heads._recurrent import (
    AdditiveAttention,
    Recurrent,
    keep_mask,
    mean_rows,
    renamed,
    rows_role,
    sizes,
)


@frozen
class UpdownConfig:
    """Published sizes of the bottom-up paper: 1000, 1000, 512; the code base's default is 512."""

    dim: int = 1000
    words: int = 1000
    attention: int = 512
    dropout: float = 0.5


class Updown(Recurrent):
    """See the module. ``global`` is the mean of the rows when no store has one."""

    Config = UpdownConfig
    states: ClassVar[tuple[str, ...]] = ("h1", "c1", "h2", "c2")
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"region", "grid", "global"})

    def __init__(self, config: UpdownConfig, dims: Mapping[str, int], words: Words) -> None:
        super().__init__()
        c, self.words, self.role = config, words, rows_role(dims)
        self.sampling = 0.0
        self.whole = "global" if "global" in dims else self.role

        def squash(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, c.dim), nn.ReLU(), nn.Dropout(c.dropout))

        self.rows, self.image = squash(dims[self.role]), squash(dims[self.whole])
        self.keys = nn.Linear(c.dim, c.attention)
        self.embed = nn.Sequential(
            nn.Embedding(words.size, c.words), nn.ReLU(), nn.Dropout(c.dropout)
        )
        self.looking = nn.LSTMCell(c.words + 2 * c.dim, c.dim)
        self.telling = nn.LSTMCell(2 * c.dim, c.dim)
        self.attention = AdditiveAttention(c.dim, c.attention)
        self.dropout, self.output = nn.Dropout(c.dropout), nn.Linear(c.dim, words.size)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Memory:
        """Rows, their attention keys, and the image vector."""
        dtype = self.output.weight.dtype
        x = features[self.role].to(dtype)
        rows = self.rows(x)  # (B, N, R)
        given = features[self.whole].to(dtype)
        image = given if given.dim() == 2 else mean_rows(given, masks.get(self.role))
        memory: Memory = {"rows": rows, "keys": self.keys(rows), "image": self.image(image)}
        keep_mask(memory, masks, self.role)
        return memory

    def core(self, x: Tensor, memory: Memory, state: State) -> tuple[Tensor, State, Tensor]:
        """Words (B, K, E) -> output (B, K, R), new state, attention (B, K, N)."""
        shape = x.shape[:2]
        image = memory["image"][:, None].expand(-1, shape[1], -1)
        h1, c1 = self._cell(
            self.looking, torch.cat([state["h2"], image, x], -1), state["h1"], state["c1"]
        )
        seen, weights = self.attention(h1, memory)
        h2, c2 = self._cell(self.telling, torch.cat([seen, h1], -1), state["h2"], state["c2"])
        return self.dropout(h2), {"h1": h1, "c1": c1, "h2": h2, "c2": c2}, weights

    def _cell(self, cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        many = x.shape[:2]
        h, c = cell(x.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
        return h.view(*many, -1), c.view(*many, -1)


RULES = (
    (r"^embed\.0\.", "embed.0."),
    (r"^fc_embed\.0\.", "image.0."),
    (r"^att_embed\.0\.", "rows.0."),
    (r"^ctx2att\.", "keys."),
    (r"^core\.att_lstm\.", "looking."),
    (r"^core\.lang_lstm\.", "telling."),
    (r"^core\.attention\.h2att\.", "attention.state."),
    (r"^core\.attention\.alpha_net\.", "attention.score."),
    (r"^logit\.", "output."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """self-critical.pytorch's updown under our names."""
    return renamed(state, RULES)


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Config that the tensors decide."""
    return sizes(state, "core.att_lstm.weight_ih", "updown or topdown")


PLUGIN = Updown
IMPORTERS = {"self-critical": convert}
IMPORT_OPTIONS = {"self-critical": options}
