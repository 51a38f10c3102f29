"""Before the first step: vocabulary, splits, readers, head, phases, from a config and stores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from precap import plugins, text
from precap.config import as_dict, build
from precap.errors import ConfigError, DataError
from precap.train import cache, checkpoint, ciderd, heads, losses, notes, published, vocab
from precap.train.cache import StoreLike
from precap.train.contract import Words
from precap.train.data import Loader, Split
from precap.train.distributed import Ranks
from precap.train.phases import Critic, Phase, Teacher
from precap.train.roles import choose_head, resolve
from precap.train.run import Recipe
from precap.train.settings import TrainConfig

#: split -> image id -> captions
Captions = Mapping[str, Mapping[str, Sequence[str]]]
Validate = Callable[[dict[str, str]], Mapping[str, float]]


@dataclass(frozen=True)
class Job:
    """All that a training works on. ``notes``: what the user should know before it starts."""

    recipe: Recipe
    vocabulary: vocab.Vocabulary
    head: Any
    phases: list[Phase]
    validation: Loader | None
    validate: Validate
    images: int
    notes: list[str]


def make_recipe(config: TrainConfig, stores: Mapping[str, StoreLike]) -> Recipe:
    """The head's config and where each of its roles comes from."""
    specs = {name: store.spec for name, store in stores.items()}
    if config.head in ("", "auto"):
        config = replace(config, head=choose_head(specs, plugins.names(heads)))
    options = config.head_config
    if config.init is not None and config.init_run is not None:
        raise ConfigError(
            f"--init {config.init} and --init-run {config.init_run} both give the first weights. "
            f"Leave one of them out."
        )
    if config.init_run is not None:
        base = Recipe.read(config.init_run / "run.json")
        settled = {name: getattr(base.config.text, name) for name in notes.SETTLED}
        files = config.init_run / "vocab.json"
        words = replace(config.text, vocabulary="json", files=files, **settled)
        config = replace(config, head=base.config.head, text=words)
        options = {**as_dict(base.head_config), **options}
    kind = plugins.load(heads, config.head)
    if config.init is not None:
        form = published.form_of(kind, config.init_format)
        options = {**published.options(kind, form, published.read(config.init)), **options}
    several = getattr(kind, "several", False)
    sources = resolve(specs, kind.needs, kind.takes, config.features, several=several)
    made = build(kind.Config, options, f"head {config.head!r}")
    check_sizes(config.head, as_dict(made))
    return Recipe(config, made, sources)


def check_sizes(head: str, options: Mapping[str, Any]) -> None:
    """ConfigError for sizes no network can have, by the names that all heads give their options."""
    dim = options.get("dim")
    for name, value in options.items():
        if name.endswith("dropout") and not 0 <= value < 1:
            raise ConfigError(f"head.{name}={value}: a {head} head needs at least 0 and below 1.")
        if name in ("dim", "hidden", "words") or name.endswith("heads"):
            if type(value) is int and value < 1:
                raise ConfigError(f"head.{name}={value}: a {head} head needs at least 1.")
            if name.endswith("heads") and type(dim) is int and dim % value:
                raise ConfigError(
                    f"head.dim={dim} cannot be shared equally by head.{name}={value}. Choose a "
                    f"multiple of it, or another number of heads."
                )


def first_weights(head: Any, config: TrainConfig) -> None:
    """The weights a training begins with, when they are not its own fresh ones."""
    if config.init is not None:
        form = published.form_of(type(head), config.init_format)
        published.load(head, form, published.read(config.init), str(config.init))
    elif config.init_run is not None:
        checkpoint.take(head, config.init_run / "best.safetensors")
    elif hasattr(head, "pretrained"):
        head.pretrained()


def compiled(head: Any, backend: str = "inductor") -> None:
    """Compile what a training step runs; decoding and the state dict stay as they are.

    Shapes are dynamic: batches differ in their number of tokens.
    """
    for name in ("encode", "hidden" if hasattr(head, "hidden") else "forward"):
        setattr(head, name, torch.compile(getattr(head, name), dynamic=True, backend=backend))


def make_job(
    recipe: Recipe,
    captions: Captions,
    stores: Mapping[str, StoreLike],
    validate: Validate | None,
    device: torch.device,
    ranks: Ranks,
) -> Job:
    """Read the captions, open the caches, build the head."""
    config = recipe.config
    flat = {s: [c for cs in images.values() for c in cs] for s, images in captions.items()}
    vocabulary = vocab.make(config.text, flat)
    used = {s.store: stores[s.store] for s in recipe.sources.values()}
    told: list[str] = []
    given = {i: c for s in config.train_splits for i, c in captions.get(s, {}).items() if len(c)}
    ids = _covered(used, list(given), "train", told)
    if not ids:
        raise DataError(
            f"There are no captioned images in splits {', '.join(config.train_splits)}. The "
            f"dataset has: {', '.join(f'{s} ({len(i)})' for s, i in captions.items())}."
        )
    if config.overfit:
        ids = ids[: config.overfit]
    torch.manual_seed(config.seed)
    head = recipe.build(vocabulary.words)
    head.to(device)
    if config.compile:
        compiled(head)
    loaders = _Loaders(recipe, stores, vocabulary, device, ranks)
    train = loaders.split(ids, given)
    if len(ids) < ranks.world:
        raise ConfigError(f"{len(ids)} images are too few for {ranks.world} processes.")
    phases = _phases(loaders, head, train, given)
    wanted = {i: given[i] for i in ids} if config.overfit else captions.get(config.val_split, {})
    seen = _covered(used, list(wanted), config.val_split, told)[: config.val_images or None]
    validation = loaders.validation(seen) if seen else None
    if validation is None:
        told.append(f"No images in split {config.val_split!r}: the last weights count as best.")
    if validate is None or config.overfit:
        if config.select != "CIDEr":
            raise ConfigError(
                f"select={config.select!r}: only CIDEr is known where precap scores by itself "
                f"(--overfit, or no scorer given). Leave select out."
            )
        validate = own_cider({i: wanted[i] for i in seen})
    return Job(recipe, vocabulary, head, phases, validation, validate, len(ids), told)


class _Loaders:
    """Makes loaders; readers of a split are opened once and shared by its phases."""

    def __init__(
        self,
        recipe: Recipe,
        stores: Mapping[str, StoreLike],
        vocabulary: vocab.Vocabulary,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.recipe, self.config, self.stores = recipe, recipe.config, stores
        self.vocabulary, self.words = vocabulary, vocabulary.words
        self.device, self.ranks = device, ranks

    def split(self, ids: Sequence[str], given: Mapping[str, Sequence[str]]) -> Split:
        numbered = {i: [self.vocabulary.encode(c) for c in given[i]] for i in ids}
        return Split.of(ids, numbered, self.words, self.config.text.longest)

    def readers(self, ids: Sequence[str]) -> dict[str, cache.Reader]:
        c, device = self.config, self.device
        return {
            role: cache.reader(self.stores[s.store], s, ids, c.cache, device, c.max_rows)
            for role, s in self.recipe.sources.items()
        }

    def training(self, split: Split, readers: Any, size: int, captions: int, seed: int) -> Loader:
        views = max(s.spec.views for s in self.recipe.sources.values())
        return Loader(
            split,
            readers,
            self.words,
            size,
            captions,
            seed,
            self.ranks.rank,
            self.ranks.world,
            self.config.shuffle_features,
            views,
        )

    def validation(self, ids: Sequence[str]) -> Loader:
        """This rank's share of the validation images."""
        mine = ids[self.ranks.rank :: self.ranks.world]
        split = Split.of(mine, {}, self.words, 1)
        size = self.config.decode.batch_size
        shuffle = self.config.shuffle_features and len(mine) > 1
        return Loader(
            split, self.readers(mine), self.words, size, 0, shuffle_features=shuffle, seed=1
        )


def _phases(
    loaders: _Loaders, head: Any, split: Split, given: Mapping[str, Sequence[str]]
) -> list[Phase]:
    config, words = loaders.config, loaders.words
    found: list[Phase] = []
    readers = loaders.readers(split.ids) if config.xe.epochs or config.scst.epochs else {}
    if config.xe.epochs:
        size, many = config.batch_size, config.text.captions
        loader = loaders.training(split, readers, size, many, config.seed)
        found.append(Teacher(head, words, loader, config.xe))
    if config.scst.epochs:
        size = config.scst.batch_size or config.batch_size
        loader = loaders.training(split, readers, size, 0, config.seed + 1)
        reward = make_reward(loaders.vocabulary, split.ids, given, config)
        longest = config.decode.longest
        found.append(Critic(head, words, loader, config.scst, longest, reward))
    return found


def make_reward(
    vocabulary: vocab.Vocabulary,
    ids: Sequence[str],
    given: Mapping[str, Sequence[str]],
    config: TrainConfig,
) -> losses.Reward:
    """The reward over word numbers; pieces are put together to words first."""
    words: Words = vocabulary.words
    if isinstance(vocabulary, vocab.WordVocabulary):
        numbered = {i: [vocabulary.encode(c) for c in given[i]] for i in ids}
        unknown = None if words.unk < 0 else words.unk
        special = {"UNK": unknown, "<unk>": unknown}
        return losses.Reward(
            numbered, words, config.scst, number=lambda w: special.get(w, vocabulary.number(w))
        )
    number = _Numbers()
    numbered = {i: [number(text.tokenize(c)) for c in given[i]] for i in ids}

    def renumber(rows: np.ndarray[Any, Any]) -> list[list[int]]:
        return [number(text.tokenize(vocabulary.decode(row))) for row in rows.tolist()]

    return losses.Reward(
        numbered, replace(words, eos=0), config.scst, renumber, lambda w: number([w])[0]
    )


class _Numbers:
    """Words to numbers from 1 on (0 is left for the end token); grows as words come."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, words: Sequence[str]) -> list[int]:
        return [self.known.setdefault(word, len(self.known) + 1) for word in words]


def own_cider(references: Mapping[str, Sequence[str]]) -> Validate:
    """CIDEr of captions against ``references`` (their own document frequencies), without Java."""
    number, ids = _Numbers(), [i for i, c in references.items() if len(c)]
    scorer = ciderd.CiderD([[number(text.tokenize(c)) for c in references[i]] for i in ids])

    def validate(captions: dict[str, str]) -> Mapping[str, float]:
        rows = [number(text.tokenize(captions.get(i, ""))) for i in ids]
        scores = scorer(np.arange(len(ids)), ciderd.as_table(rows))
        return {"CIDEr": float(scores.mean()) if len(ids) else 0.0}

    return validate


def _covered(
    stores: Mapping[str, StoreLike], ids: list[str], split: str, told: list[str]
) -> list[str]:
    kept, reasons = cache.covered(stores, ids, split)
    if reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        told.append(f"{len(ids) - len(kept)} images of {split} have no features: {counts}.")
    return kept
