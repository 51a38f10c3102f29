"""Two reference stores, made by the local executor, that every other way must reproduce."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from precap import pipeline
from tests.cluster import numbers, running

SIZE = 6  # images per shard
BOTH = f"{numbers.NAME},grid:resnet18"
STORES = ("tests.cluster.numbers-Numbers", "grid-resnet18")
OPTIONS = ("--shard-size", str(SIZE), "--batch-size", "3", "--set", "size=64", "--device", "cpu",
           "--weights", "random:0", "--json")  # fmt: skip

Extract = Callable[..., Any]


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """The pinned compute-thread count, for extraction in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def extract(scenes: Path, one_thread: None) -> Extract:
    """Extraction in this process, with the options of OPTIONS."""

    def run(out: Path, names: str = BOTH, **more: Any) -> Any:
        fixed = {"shard_size": SIZE, "batch_size": 3, "device": "cpu", "weights": "random:0"}
        return pipeline.extract_features(
            names, data=scenes, out=out, settings=["size=64"], **fixed, **more
        )

    return run


@pytest.fixture(scope="session")
def reference(extract: Extract, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Store name -> contents, by the local executor."""
    out = tmp_path_factory.mktemp("reference")
    extract(out)
    return {name: running.contents(out / name) for name in STORES}
