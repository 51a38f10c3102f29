"""HDF5 shards: the contract, and that plain h5py reads them without precap."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.contracts import ShardContract
from tests.store import toy


class TestHdf5(ShardContract):
    backend = "hdf5"


@pytest.mark.parametrize("compression", ["none", "zstd", "blosc"])
def test_plain_h5py_reads_a_store(tmp_path: Path, compression: str) -> None:
    path = toy.build(tmp_path / "s", 40, 16, compression=compression)
    found = 0
    for shard in sorted((path / "shards").iterdir()):
        if compression != "none":
            import hdf5plugin  # noqa: F401
        with h5py.File(shard) as file:
            for row, image in enumerate(file["ids"].asstr()[...]):
                truth = toy.features(image)
                a, b = file["offsets/regions"][row : row + 2]
                assert np.array_equal(file["fields/grid"][row], truth["grid"].astype(np.float16))
                assert np.array_equal(file["fields/regions"][a:b], truth["regions"])
                scaled = file["fields/pooled"][row] * file["scales/pooled"][row]
                assert np.allclose(scaled, truth["pooled"], atol=file["scales/pooled"][row])
                found += 1
    assert found == sum(toy.outcome(image).status == "ok" for image in toy.ids(40))


def test_a_reserved_dataset_costs_no_memory(tmp_path: Path) -> None:
    from precap.store.backends.contract import Content
    from precap.store.backends.hdf5 import Hdf5Shard

    large = np.broadcast_to(np.zeros(1, np.float16), (1000, 1000, 1000))
    image = Hdf5Shard().build(Content({"fields/x": large}, {}, {}), "none")
    pieces, size = image.files[""]
    assert size > large.nbytes
    assert sum(len(data) for _, data in pieces if isinstance(data, bytes)) < 20_000
