"""A golden case as a head with its published weights, its features, and the comparisons."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precap.train import run, settings, trainer, vocab
from precap.train.cache import Memory
from precap.train.contract import Words
from precap.train.decode import Decoded, decode
from precap.train.settings import Decode
from precap.types import FeatureSpec, Field
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
    """Case ``name`` as a run that ``train --init --init-format FORM`` makes of its weights.

    ``roles`` and ``masks``: role -> input name.
    """
    case = load_case(name)
    features = {role: torch.from_numpy(case.inputs[key]) for role, key in roles.items()}
    dims = {role: x.shape[-1] for role, x in features.items()}
    made = imported(case, head or form, form, dims, words)
    real = {role: torch.from_numpy(case.inputs[key]) for role, key in masks.items()}
    return Published(case, made, features, real, words)


def imported(
    case: Case, head: str, form: str, dims: Mapping[str, int], words: Words, **options: Any
) -> Any:
    """The head of a run that began with the case's weights, in a file under their own names.

    ``dims``: role -> width of its rows. ``options``: of the head.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = {key: torch.from_numpy(value) for key, value in case.weights.items()}
        torch.save({"epoch": 3, "state_dict": state}, folder / "weights.pth")
        vocabulary = vocab.WordVocabulary([f"w{n}" for n in range(words.size)], words)
        vocab.write(vocabulary, folder / "vocab.json")
        fields = (Field(r, r, (w,) if r == "global" else (None, w)) for r, w in dims.items())
        row = {r: np.zeros(w if r == "global" else (1, w), np.float16) for r, w in dims.items()}
        store = Memory(FeatureSpec("golden", 1, "none", tuple(fields)), {"image": row})
        config = settings.resolve({
            "head": head, "head_config": options, "init": folder / "weights.pth",
            "init_format": form, "text": {"vocabulary": "json", "files": folder / "vocab.json"},
            "xe": {"epochs": 0}, "scst": {"epochs": 0}, "device": "cpu",
        })  # fmt: skip
        captions = {"train": {"image": ["w5 w6"]}}
        trainer.fit(
            config, captions=captions, stores={"golden": store}, out=folder / "run",
            validate=lambda said: {},
        )  # fmt: skip
        return run.load(folder / "run", device="cpu").head


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
