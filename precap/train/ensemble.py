"""Several trained runs as one captioner: each word's probability is their mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from precap.errors import ConfigError
from precap.train.batch import floats
from precap.train.cache import StoreLike
from precap.train.contract import Batch, Memory, State
from precap.train.decode import BAD_ENDINGS, decode
from precap.train.events import Event, ignore
from precap.train.predict import written
from precap.train.run import Recipe, Run
from precap.train.settings import Decode
from precap.types import Features, Prediction

Mean = Literal["probabilities", "logarithms"]


class Ensemble:
    """The steps of several heads at once; their memories and states lie side by side by number.

    mean: of the probabilities, or of their logarithms (HIN, M2), which is normalised again.
    """

    def __init__(self, heads: Sequence[Any], mean: Mean = "probabilities") -> None:
        self.heads, self.mean = heads, mean

    def encode(self, batches: Sequence[Batch]) -> Memory:
        """One batch per head: the same images, each with that head's features."""
        memory: Memory = {}
        for i, (head, batch) in enumerate(zip(self.heads, batches, strict=True)):
            memory |= _named(i, head.encode(batch.features, batch.masks))
        return memory

    def start(self, memory: Memory, width: int) -> State:
        """The states of all heads."""
        state: State = {}
        for i, head in enumerate(self.heads):
            state |= _named(i, head.start(_own(i, memory), width))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens -> (B, K, V) log-probabilities of the mean."""
        found, after = [], State()
        for i, head in enumerate(self.heads):
            logits, new = head.step(_own(i, memory), _own(i, state), tokens, t)
            found.append(logits.float().log_softmax(-1))
            after |= _named(i, new)
        logp = torch.stack(found)  # (heads, B, K, V)
        if self.mean == "logarithms":
            return logp.mean(0), after
        return logp.logsumexp(0) - torch.tensor(float(len(found))).log(), after


def generate(
    runs: Sequence[Run],
    stores: Mapping[str, StoreLike],
    ids: Sequence[str],
    config: Decode | None = None,
    mean: Mean = "probabilities",
) -> list[Prediction]:
    """The runs' common caption of each image. ConfigError when their vocabularies differ."""
    first = runs[0]
    for run in runs[1:]:
        if run.vocabulary.as_json() != first.vocabulary.as_json():
            raise ConfigError(
                f"{first.path} and {run.path} have different vocabularies and cannot vote on a "
                f"word together. Train the second with --set text.vocabulary=json and "
                f"--set text.files={first.path / 'vocab.json'}."
            )
    how = config or first.recipe.config.decode
    ensemble = Ensemble([run.head for run in runs], mean)
    bad = [n for n in map(first.vocabulary.number, BAD_ENDINGS) if n is not None]
    found: list[Prediction] = []
    for batches in zip(*(run.batches(stores, ids, how.batch_size) for run in runs), strict=True):
        moved = [floats(batch.to(first.device)) for batch in batches]
        with torch.no_grad():
            memory = ensemble.encode(moved)
            best = decode(ensemble, memory, how, first.vocabulary.words, bad)
        found += written(batches[0].ids, best, first.vocabulary)
    return found


@dataclass(frozen=True)
class Panel:
    """Runs that caption together, used like one Run; decoding options are the first run's."""

    runs: tuple[Run, ...]

    @property
    def recipe(self) -> Recipe:
        """The first run's."""
        return self.runs[0].recipe

    @property
    def path(self) -> Path:
        """The first run's folder."""
        return self.runs[0].path

    def generate(
        self,
        stores: Mapping[str, StoreLike],
        ids: Sequence[str],
        config: Decode | None = None,
        on_event: Callable[[Event], None] = ignore,
    ) -> list[Prediction]:
        """The best common caption of each image, in the order of ``ids``."""
        found = generate(self.runs, stores, ids, config)
        on_event(Event("step", len(found), len(ids)))
        return found

    def in_memory(self, rows: Mapping[str, Mapping[str, Features]]) -> dict[str, StoreLike]:
        """Stores of features made on the fly, for all runs: image id -> store name -> Features."""
        found: dict[str, StoreLike] = {}
        for run in self.runs:
            found |= run.in_memory(rows)
        return found

    def caption(
        self, rows: Mapping[str, Mapping[str, Features]], config: Decode | None = None
    ) -> list[Prediction]:
        """Captions for features made on the fly."""
        return self.generate(self.in_memory(rows), list(rows), config)


def _named(number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{number}:{name}": value for name, value in tensors.items()}


def _own(number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{number}:"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
