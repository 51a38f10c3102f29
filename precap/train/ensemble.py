"""Several runs decode as one: the mean of their log-probabilities at every step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precap.errors import ConfigError
from precap.train.batch import floats
from precap.train.cache import StoreLike
from precap.train.contract import Memory, State
from precap.train.decode import BAD_ENDINGS, decode
from precap.train.events import Event, ignore
from precap.train.predict import evaluating, written
from precap.train.run import Recipe, Run
from precap.train.settings import Decode
from precap.types import Features, Prediction


class Together:
    """Heads as one set of steps: entries of head i in memory and state are named ``i|name``."""

    def __init__(self, heads: Sequence[Any]) -> None:
        self.heads = heads

    def start(self, memory: Memory, width: int) -> State:
        """Every head's own start."""
        state: State = {}
        for i, head in enumerate(self.heads):
            state |= _named(i, head.start(_own(memory, i), width))
        return state

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        """(B, K) tokens -> (B, K, V) mean of the heads' log-probabilities, new state."""
        total: Tensor | None = None
        after: State = {}
        for i, head in enumerate(self.heads):
            logits, own = head.step(_own(memory, i), _own(state, i), tokens, t)
            logp = torch.log_softmax(logits.float(), -1)
            total = logp if total is None else total + logp
            after |= _named(i, own)
        assert total is not None
        return total / len(self.heads), after


@dataclass(frozen=True)
class Ensemble:
    """Runs over one vocabulary; captions like a Run. Decoding options are the first run's."""

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
        options: Decode | None = None,
        on_event: Callable[[Event], None] = ignore,
    ) -> list[Prediction]:
        """The best caption of each image, in the order of ``ids``."""
        config = options or self.recipe.config.decode
        vocabulary = self.runs[0].vocabulary
        bad = [n for n in map(vocabulary.number, BAD_ENDINGS) if n is not None]
        together = Together([run.head for run in self.runs])
        found: list[Prediction] = []
        parts = [run.batches(stores, ids, config.batch_size) for run in self.runs]
        for batches in zip(*parts, strict=True):
            memory: Memory = {}
            for i, (run, batch) in enumerate(zip(self.runs, batches, strict=True)):
                with evaluating(run.head):
                    moved = floats(batch.to(run.device))
                    memory |= _named(i, run.head.encode(moved.features, moved.masks))
            with torch.no_grad():
                chosen = decode(together, memory, config, vocabulary.words, bad)
            found += written(batches[0].ids, chosen, vocabulary)
            on_event(Event("step", len(found), len(ids)))
        return found

    def in_memory(self, rows: Mapping[str, Mapping[str, Features]]) -> dict[str, StoreLike]:
        """Stores of features made on the fly, for all runs: image id -> store name -> Features."""
        found: dict[str, StoreLike] = {}
        for run in self.runs:
            found |= run.in_memory(rows)
        return found

    def caption(
        self, rows: Mapping[str, Mapping[str, Features]], options: Decode | None = None
    ) -> list[Prediction]:
        """Captions for features made on the fly."""
        return self.generate(self.in_memory(rows), list(rows), options)


def ensemble(runs: Sequence[Run]) -> Ensemble:
    """Join runs; ConfigError where their vocabularies differ, since their words would."""
    first = runs[0].vocabulary.as_json()
    for other in runs[1:]:
        if other.vocabulary.as_json() != first:
            raise ConfigError(
                f"{other.path} has another vocabulary than {runs[0].path}: they cannot decode "
                f"together. Train it with --set text.vocabulary=json "
                f"--set text.files={runs[0].path}/vocab.json"
            )
    return Ensemble(tuple(runs))


def _named(i: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{i}|{name}": value for name, value in values.items()}


def _own(values: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    start = f"{i}|"
    return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}
