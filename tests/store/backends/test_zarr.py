"""Zarr shards: the contract, and that plain zarr-python reads them without precap."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.contracts import ShardContract
from tests.store import toy


class TestZarr(ShardContract):
    backend = "zarr"


@pytest.mark.parametrize("compression", ["none", "zstd", "blosc"])
def test_plain_zarr_reads_a_store(tmp_path: Path, compression: str) -> None:
    path = toy.build(tmp_path / "s", 40, 16, format="zarr", compression=compression)
    found = 0
    for shard in sorted((path / "shards").iterdir()):
        group = zarr.open_group(shard, mode="r")
        grid, regions = group["fields/grid"][...], group["fields/regions"][...]
        offsets = group["offsets/regions"][...]
        for row, image in enumerate(group.attrs["ids"]):
            truth = toy.features(image)
            assert np.array_equal(grid[row], truth["grid"].astype(np.float16))
            assert np.array_equal(regions[offsets[row] : offsets[row + 1]], truth["regions"])
            found += 1
    assert found == sum(toy.outcome(image).status == "ok" for image in toy.ids(40))


def test_a_field_of_zeros_has_its_bytes_on_disk(tmp_path: Path) -> None:
    content = TestZarr().make_content()
    path = TestZarr().write(tmp_path, content)
    assert (path / "fields/zeros/c/0/0").stat().st_size == content.arrays["fields/zeros"].nbytes
