"""A run folder: what was trained on what, and its head ready to caption."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precap import atomic, plugins
from precap.config import as_dict, build
from precap.errors import ConfigError, DataError
from precap.train import cache, checkpoint, heads, vocab
from precap.train.cache import StoreLike
from precap.train.contract import Batch, Words
from precap.train.data import Loader, Split
from precap.train.distributed import Ranks, pick_device
from precap.train.events import Event, ignore
from precap.train.predict import evaluating, predict
from precap.train.roles import Source
from precap.train.settings import Decode, TrainConfig, make
from precap.types import Features, FeatureSpec, Prediction


@dataclass(frozen=True)
class Recipe:
    """What ``run.json`` holds: enough to build the head again and to find its features."""

    config: TrainConfig
    head_config: Any
    sources: Mapping[str, Source]

    @property
    def dims(self) -> dict[str, int]:
        """Role -> width of its rows."""
        return {role: source.width for role, source in self.sources.items()}

    def build(self, words: Words) -> Any:
        """A fresh head."""
        return plugins.load(heads, self.config.head)(self.head_config, self.dims, words)

    def write(self, path: Path) -> None:
        """As JSON."""
        sources = {
            role: {
                "store": s.store,
                "field": s.field.name,
                "fingerprint": s.spec.fingerprint,
                "spec": s.spec.as_json(),
            }
            for role, s in self.sources.items()
        }
        values = {
            "version": 1,
            "head": self.config.head,
            "head_config": as_dict(self.head_config),
            "features": sources,
            "config": as_dict(self.config),
        }
        atomic.write_text(path, json.dumps(values, indent=1, ensure_ascii=False))

    @staticmethod
    def read(path: Path) -> "Recipe":
        """What ``write`` wrote; ConfigError outside a run folder, DataError for a damaged file."""
        try:
            values = json.loads(path.read_text("utf-8"))
            config = make(values["config"], str(path))
            kind = plugins.load(heads, config.head).Config
            sources = {role: _source(s) for role, s in values["features"].items()}
            return Recipe(config, build(kind, values["head_config"], str(path)), sources)
        except (FileNotFoundError, NotADirectoryError) as error:
            lost = any(path.parent.glob("*.safetensors"))
            raise (DataError if lost else ConfigError)(
                f"{path.parent} is no run folder (no run.json). Give the --out of a training."
            ) from error
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise DataError(f"{path} cannot be read: {error!r}. Train the run again.") from error


def _source(values: Mapping[str, Any]) -> Source:
    spec = FeatureSpec.from_json(values["spec"])
    field = next(f for f in spec.fields if f.name == values["field"])
    return Source(values["store"], field, spec)


@dataclass(frozen=True)
class Run:
    """A trained head with its vocabulary. ``facts``: the checkpoint's step, scores and phase."""

    path: Path
    recipe: Recipe
    vocabulary: vocab.Vocabulary
    head: Any
    facts: Mapping[str, Any]
    device: torch.device

    @property
    def sources(self) -> Mapping[str, Source]:
        """Role -> which store's field it was trained on, and how that store was made."""
        return self.recipe.sources

    def batches(
        self,
        stores: Mapping[str, StoreLike],
        ids: Sequence[str],
        size: int,
        captions: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Batch]:
        """The images in order; with ``captions`` (id -> texts) as tokens."""
        words, longest = self.vocabulary.words, self.recipe.config.text.longest
        given = captions or {}
        numbered = {i: [self.vocabulary.encode(c) for c in given[i]] for i in given}
        split = Split.of(ids, numbered, words, longest)
        most = self.recipe.config.max_rows
        readers = {
            role: cache.Mapped(self.store_of(role, stores), source, ids, most)
            for role, source in self.sources.items()
        }
        many = max((len(c) for c in numbered.values()), default=0)
        return Loader(split, readers, words, size, many).inorder()

    def store_of(self, role: str, stores: Mapping[str, StoreLike]) -> StoreLike:
        """The given store that was made as the one this role was trained on."""
        source = self.sources[role]
        for store in stores.values():
            if store.spec.fingerprint == source.spec.fingerprint:
                return store
        named = stores.get(source.store)
        if named is not None and _imported(named.spec) and _imported(source.spec):
            return named  # an import's fingerprint is its files', another dataset has others
        made = f"{source.spec.extractor} version {source.spec.version}, {source.spec.weights}"
        raise ConfigError(
            f"{self.path} was trained on {role!r} features of store {source.store!r} ({made}, "
            f"fingerprint {source.spec.fingerprint[:12]}). None of the given stores "
            f"({', '.join(stores) or 'none'}) was made that way: extract it with the same options."
        )

    def generate(
        self,
        stores: Mapping[str, StoreLike],
        ids: Sequence[str],
        decode: Decode | None = None,
        on_event: Callable[[Event], None] = ignore,
    ) -> list[Prediction]:
        """The best caption of each image, in the order of ``ids``."""
        config = decode or self.recipe.config.decode
        found: list[Prediction] = []
        batches = self.batches(stores, ids, config.batch_size)
        for some in predict(self.head, self.vocabulary, batches, config, self.device):
            found += some
            on_event(Event("step", len(found), len(ids)))
        return found

    def in_memory(self, rows: Mapping[str, Mapping[str, Features]]) -> dict[str, StoreLike]:
        """Stores of features made on the fly: image id -> store name -> its Features."""
        specs = {source.store: source.spec for source in self.sources.values()}
        return {
            name: cache.Memory(spec, {image: named[name] for image, named in rows.items()})
            for name, spec in specs.items()
        }

    def caption(
        self, rows: Mapping[str, Mapping[str, Features]], decode: Decode | None = None
    ) -> list[Prediction]:
        """Captions for features made on the fly: image id -> store name -> its Features."""
        return self.generate(self.in_memory(rows), list(rows), decode)

    def attend(
        self, stores: Mapping[str, StoreLike], captions: Mapping[str, str]
    ) -> dict[str, tuple[list[str], dict[str, Tensor]]]:
        """For heat maps: id -> (its words and the end, role -> (words, N) weights on the CPU)."""
        found: dict[str, tuple[list[str], dict[str, Tensor]]] = {}
        given = {image: [text] for image, text in captions.items()}
        for batch in self.batches(stores, list(captions), 16, given):
            found |= self._attend(batch, captions)
        return found

    def _attend(
        self, batch: Batch, captions: Mapping[str, str]
    ) -> dict[str, tuple[list[str], dict[str, Tensor]]]:
        moved = batch.to(self.device)
        with evaluating(self.head):
            values = {k: v.float() for k, v in moved.features.items()}
            memory = self.head.encode(values, moved.masks)
            weights = self.head.attend(memory, moved.tokens[..., :-1])
        found = {}
        for i, image in enumerate(batch.ids):
            ids = self.vocabulary.encode(captions[image])[: self.recipe.config.text.longest]
            shown = [self.vocabulary.decode([n]) for n in ids] + ["<end>"]
            per = {role: w[i, 0, : len(shown)].cpu() for role, w in weights.items()}
            found[image] = (shown, per)
        return found


def load(path: Path, which: str = "best", device: str = "auto") -> Run:
    """The run in folder ``path``; ``which``: "best" or "last". Averaged weights if it has them."""
    path = Path(path)
    recipe = Recipe.read(path / "run.json")
    if not (path / "vocab.json").is_file():
        raise DataError(
            f"{path} has lost its vocab.json. Copy that of a run on the same captions with the "
            f"same text options, or train again."
        )
    vocabulary = vocab.read(path / "vocab.json")
    head = recipe.build(vocabulary.words)
    facts = checkpoint.take(head, path / f"{which}.safetensors")
    place = pick_device(device, Ranks())
    return Run(path, recipe, vocabulary, head.to(place).eval(), facts, place)


def _imported(spec: FeatureSpec) -> bool:
    return spec.extractor.startswith("import")
