"""self-critical's other containers hold the same arrays: LMDB and .pth."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from precap.errors import DataError
from precap.store.importers.run import find_layout, import_store
from precap.store.reader import open_store

IDS = ("9", "391895", "1000268201")


def arrays(image: str) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(int(image))
    rows = int(rng.integers(1, 6))
    return {
        "att": rng.random((rows, 8), np.float32),
        "fc": rng.random(8, np.float32),
        "box": rng.random((rows, 4), np.float32),
    }


def write_pth(folder: Path, kinds: tuple[str, ...] = ("att", "fc", "box")) -> None:
    folder.mkdir()
    for kind in kinds:
        torch.save(
            {i: torch.from_numpy(arrays(i)[kind]) for i in IDS}, folder / f"cocobu_{kind}.pth"
        )


def write_lmdb(folder: Path, kinds: tuple[str, ...] = ("att", "fc", "box")) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the package lmdb is not installed")
    folder.mkdir()
    for kind in kinds:
        with lmdb.open(str(folder / f"cocobu_{kind}.lmdb"), map_size=1 << 20) as data:
            for image in IDS:
                out = io.BytesIO()
                if kind == "att":
                    np.savez_compressed(out, feat=arrays(image)[kind])
                else:
                    np.save(out, arrays(image)[kind])
                with data.begin(write=True) as view:
                    view.put(image.encode(), out.getvalue())


CONTAINERS = {"selfcritical_pth": write_pth, "selfcritical_lmdb": write_lmdb}


@pytest.mark.parametrize("layout", CONTAINERS)
@pytest.mark.parametrize("kinds", [("att",), ("att", "fc"), ("att", "fc", "box")], ids=len)
def test_the_same_arrays_come_out(tmp_path: Path, layout: str, kinds: tuple[str, ...]) -> None:
    CONTAINERS[layout](tmp_path / "source", kinds)
    assert find_layout(tmp_path / "source") == layout
    import_store(tmp_path / "source", tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert sorted(store.ids) == sorted(IDS)
    fields = {"att": "region", "fc": "global", "box": "boxes"}
    for image in IDS:
        row = store.read(image)
        assert row.keys() == {fields[kind] for kind in kinds}
        for kind in kinds:
            np.testing.assert_array_equal(row[fields[kind]], arrays(image)[kind], strict=True)


def test_an_image_without_its_companion_fails_alone(tmp_path: Path) -> None:
    write_pth(tmp_path / "source", ("att",))
    torch.save({"9": torch.ones(8)}, tmp_path / "source" / "cocobu_fc.pth")
    report = import_store(tmp_path / "source", tmp_path / "store")
    assert report.ok == 1
    assert report.outcomes["failed"] == {"missing-array": 2}


def test_a_stretched_tensor_is_measured_first(tmp_path: Path) -> None:
    table = {"9": torch.ones(2, 8), "10": torch.ones(1, 8).expand(10**12, 8), "11": "text"}
    torch.save(table, tmp_path / "cocobu_att.pth")
    report = import_store(tmp_path / "cocobu_att.pth", tmp_path / "store")
    assert report.outcomes["failed"] == {"too-large": 1, "not-an-array": 1}


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_a_bomb_in_a_pth_is_refused(tmp_path: Path) -> None:
    torch.save({"9": Bomb()}, tmp_path / "cocobu_att.pth", pickle_module=pickle)
    with pytest.raises(DataError, match="refused"):
        import_store(tmp_path / "cocobu_att.pth", tmp_path / "store")


def test_a_torn_database_is_refused(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "source", ("att",))
    data = tmp_path / "source" / "cocobu_att.lmdb" / "data.mdb"
    data.write_bytes(bytes(8192))
    with pytest.raises(DataError):
        import_store(tmp_path / "source", tmp_path / "store", format="selfcritical_lmdb")


def test_two_attention_folders_are_ambiguous(tmp_path: Path) -> None:
    for name in ("cocobu_att", "cocotalk_att"):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        np.savez(folder / "9.npz", feat=np.ones((2, 4), np.float32))
    with pytest.raises(DataError, match="cocobu_att, cocotalk_att"):
        import_store(tmp_path / "source", tmp_path / "store", format="selfcritical")
