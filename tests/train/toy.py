"""A made-up captioned data set whose captions follow from its features, as a store in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from precap.train import settings, trainer
from precap.train.cache import Memory
from precap.train.events import Event, ignore
from precap.types import Features, FeatureSpec, Field

THINGS = ("dog", "cat", "car", "tree", "ball")
COLOURS = ("red", "green", "blue", "black")
SPEC = FeatureSpec(
    "toy",
    1,
    "none",
    (Field("cells", "grid", (4, 16), "float16"), Field("rows", "region", (None, 8))),
)
SMALL = {
    "head_config": {
        "dim": 16,
        "heads": 2,
        "hidden": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "dropout": 0.1,
    },
    "batch_size": 16,
    "text": {"threshold": 1, "captions": 3},
    "xe": {"epochs": 2, "optim": {"lr": 5e-3}},
    "scst": {"epochs": 1, "samples": 3, "optim": {"lr": 1e-3}},
    "decode": {"beam": 2, "longest": 10},
    "average": 0.9,
    "log_every": 1,
    "device": "cpu",
}


def images(count: int, seed: int = 0) -> tuple[dict[str, Features], dict[str, list[str]]]:
    """Features and captions by image id."""
    rng = np.random.default_rng(seed)
    features: dict[str, Features] = {}
    captions: dict[str, list[str]] = {}
    for i in range(count):
        thing, colour = int(rng.integers(5)), int(rng.integers(4))
        cells = 0.1 * rng.standard_normal((4, 16))
        cells[rng.integers(4), thing] += 3
        cells[rng.integers(4), 8 + colour] += 3
        rows = rng.standard_normal((int(rng.integers(1, 5)), 8))
        features[f"im{i}"] = {"cells": cells.astype(np.float16), "rows": rows.astype(np.float32)}
        a, b = COLOURS[colour], THINGS[thing]
        captions[f"im{i}"] = [f"A {a} {b}.", f"There is a {a} {b} here", f"the {b} is {a}"]
    return features, captions


def data(train: int = 64, val: int = 16) -> tuple[Memory, dict[str, dict[str, list[str]]]]:
    """A store and split -> id -> captions."""
    features, captions = images(train + val)
    ids = list(captions)
    splits = {"train": ids[:train], "val": ids[train:]}
    return Memory(SPEC, features), {s: {i: captions[i] for i in v} for s, v in splits.items()}


def fit(
    out: Path, changes: Mapping[str, Any] | None = None, on_event: Any = ignore, **more: Any
) -> trainer.RunResult:
    """Train the small configuration, with flat changes, on the data set."""
    store, captions = data()
    config = settings.resolve(SMALL, changes or {})
    arguments = {"captions": captions, "stores": {"toy": store}, **more}
    return trainer.fit(config, out=out, on_event=on_event, **arguments)


class Stop:
    """A listener that interrupts the training after a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Event) -> None:
        if event.kind == "step" and event.step >= self.step:
            raise KeyboardInterrupt
