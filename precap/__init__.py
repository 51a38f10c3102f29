"""precap: precompute visual features once, then train captioning heads on the cached tensors.

The names below are the whole public surface, loaded when first used: ``import precap`` is instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "caption_images", "evaluate_runs", "extract_features", "open_store", "prepare_data",
    "score_captions", "train_head",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("precap.pipeline"), name)
    raise AttributeError(f"module 'precap' has no attribute {name!r}")
