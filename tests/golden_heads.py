"""A golden case as a head with its published weights, its features, and the comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precap import plugins
from precap.config import build
from precap.train import checkpoint, heads
from precap.train import published as weights
from precap.train.contract import Words
from precap.train.decode import Decoded, decode
from precap.train.settings import Decode
from tests.golden_rule import Case, load_case

#: hin, m2, grit, hiercap: how the originals number 97 words.
MESHED = Words(size=97, pad=1, bos=2, eos=3, unk=0)


@dataclass(frozen=True)
class Published:
    """A head that holds a case's weights, and what goes into it."""

    case: Case
    head: Any
    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    words: Words

    def encode(self) -> dict[str, Tensor]:
        with torch.no_grad():
            memory: dict[str, Tensor] = self.head.encode(self.features, self.masks)
        return memory

    def logprobs(self, tokens: Tensor) -> Tensor:
        """(B, T) input tokens -> (B, T, V) log-probabilities."""
        with torch.no_grad():
            logits: Tensor = self.head(self.encode(), tokens[:, None])
        return logits.log_softmax(-1)[:, 0]

    def beam(self, size: int, longest: int) -> Decoded:
        config = Decode(beam=size, longest=longest, suppress_unk=False, all_beams=True)
        with torch.no_grad():
            return decode(self.head, self.encode(), config, self.words)


def published(
    name: str,
    form: str,
    roles: Mapping[str, str],
    masks: Mapping[str, str],
    words: Words = MESHED,
    head: str = "",
) -> Published:
    """Case ``name`` imported as format ``form`` by the functions that ``train --init`` calls.

    ``roles`` and ``masks``: role -> input name.
    """
    case = load_case(name)
    whole = {"epoch": 3, "state_dict": {k: torch.from_numpy(v) for k, v in case.weights.items()}}
    state = weights.unwrapped(whole, Path(f"{name}.pth"))
    kind = plugins.load(heads, head or form)
    config = build(kind.Config, weights.options(kind, weights.form_of(kind, form), state))
    features = {role: torch.from_numpy(case.inputs[key]) for role, key in roles.items()}
    made = kind(config, {k: x.shape[-1] for k, x in features.items()}, words)
    checkpoint.load_weights(made, weights.convert(kind, form, state), name)
    real = {role: torch.from_numpy(case.inputs[key]) for role, key in masks.items()}
    return Published(case, made.eval(), features, real, words)


def check_teacher_forcing(p: Published) -> None:
    """Log-probabilities after every real input word."""
    tokens = torch.from_numpy(p.case.inputs["captions"])
    np.testing.assert_array_equal(tokens, p.case.expected["captions"])
    found, expected = p.logprobs(tokens).numpy(), p.case.expected["teacher_logprobs"]
    real = (tokens != p.words.pad).numpy()
    close(found[real], expected[real], p.case.tolerance("teacher_logprobs"))


def check_beam(p: Published) -> None:
    """All hypotheses, best first: tokens up to and with eos, the log-probability of each, sums.

    After eos the originals write word 0 with log-probability 0 where we write padding.
    """
    rule, expected = p.case.meta["inputs"]["beam"], p.case.expected
    found = p.beam(rule["size"], rule["max_len"])
    missing = rule["max_len"] - found.tokens.shape[2]
    tokens = torch.nn.functional.pad(found.tokens, (0, missing), value=p.words.pad)
    ended = np.cumsum(expected["beam_tokens"] == p.words.eos, -1)
    after = (ended > 0) & (expected["beam_tokens"] != p.words.eos)
    assert after.any(), "no hypothesis of this case ends: it would prove little"
    np.testing.assert_array_equal(tokens[after], p.words.pad)
    np.testing.assert_array_equal(tokens[~after], expected["beam_tokens"][~after])
    close(found.scores.numpy(), expected["beam_scores"], p.case.tolerance("beam_scores"))
    logprobs = torch.nn.functional.pad(found.logprobs, (0, missing)).numpy()
    close(logprobs, expected["beam_token_logprobs"], p.case.tolerance("beam_scores"))


def close(found: Any, expected: Any, tolerance: float) -> None:
    """Equal within an absolute tolerance."""
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
