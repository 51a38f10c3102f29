"""The text half of the CLIP model whose image half made a store: for CLIPScore."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import nn

from precap.errors import ConfigError
from precap.extract import weights
from precap.extract.contract import Setting
from precap.extract.extractors import clip
from precap.types import FeatureSpec

BATCH = 256


def embedder(
    spec: FeatureSpec, config: clip.ClipConfig, setting: Setting
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Captions -> (n, D) embeddings in the space of the store's ``pooled``, not normalised.

    Raises ConfigError when the weights here are not those of ``spec``, or hold no text model.
    """
    full = clip._resolved(config)
    found = weights.find(setting.weights, clip._source(full))
    if found.digest != spec.weights:
        raise ConfigError(
            f"The CLIP weights here ({found.digest[:12]}) are not those of the store "
            f"({spec.weights[:12]}). Give the same file, or leave clipscore out."
        )
    quick = bool(spec.config.get("quickgelu", False))
    model: nn.Module = open_clip.create_model(
        full.model, pretrained=None, pretrained_hf=False, force_quick_gelu=quick
    ).eval()
    if found.path is None:
        weights.randomise(model, found.seed or 0)
    else:
        weights.fit(model, weights.load_state(found.path), str(found.path))
    tokenizer = open_clip.get_tokenizer(full.model)
    return lambda captions: _embedded(model, tokenizer, captions)


def _embedded(model: Any, tokenizer: Any, captions: Sequence[str]) -> NDArray[np.float32]:
    rows = []
    with torch.inference_mode():
        for start in range(0, len(captions), BATCH):
            tokens = tokenizer(list(captions[start : start + BATCH]))  # (n, 77)
            rows.append(model.encode_text(tokens).float().numpy())
    return np.concatenate(rows)
