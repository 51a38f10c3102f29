"""CLIPScore of captions from a cached CLIP store: the store's pictures, the same model's texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from precap.errors import ConfigError

if TYPE_CHECKING:
    from precap.evaluate.metrics import Scores
    from precap.store.reader import Store

NAME = "clipscore"
#: Text embeddings, kept beside the store's shards; part of no digest.
CACHE = "captions.npz"


def without(metrics: Sequence[str] | None) -> tuple[list[str] | None, bool]:
    """The metrics that need no CLIP store, and whether CLIPScore was asked for beside them."""
    if metrics is None:
        return None, False
    return [name for name in metrics if name != NAME], NAME in metrics


def add(
    scores: "Scores",
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    store: Path,
) -> "Scores":
    """``scores`` with CLIPScore and RefCLIPScore of the CLIP store at ``store``.

    Raises ConfigError when it is no CLIP store, or its weights are not to be had here.
    """
    from precap.evaluate import clipscore
    from precap.extract.extractors import _clip_text
    from precap.extract.extractors.clip import Clip
    from precap.extract.recipe import Recipe, configured
    from precap.pipeline import open_store
    from precap.store import identity

    opened = open_store(store)
    made = (identity.load(store).provenance or {}).get("recipe")
    field = opened.spec.field_of("global")
    if opened.spec.extractor != "clip" or field is None or made is None:
        raise ConfigError(f"{store} is not a CLIP store with pooled features. Give --clip STORE.")
    recipe = Recipe.from_json(made)
    config = configured(Clip, recipe.extractor, recipe.settings)
    texts = clipscore.Texts(
        _clip_text.embedder(opened.spec, config, recipe.setting),
        opened.spec.weights,
        store / CACHE,
    )
    images = {image: opened.read(image)[field.name] for image in scores.ids if image in opened}
    return clipscore.add(scores, predictions, references, images, texts)


def find(stores: "Mapping[str, Store]", said: Path | None) -> Path:
    """The CLIP store to use: the one said, else the one among a run's stores."""
    if said is not None:
        return said
    for store in stores.values():
        if store.spec.extractor == "clip" and store.spec.field_of("global"):
            return Path(store.path)
    raise ConfigError(
        "clipscore needs a CLIP store: precap extract clip, then --clip features/clip"
    )
