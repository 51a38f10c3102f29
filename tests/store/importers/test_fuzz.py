"""Random damage to every sample: each file is read, or refused with a reason; nothing else."""

import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from precap import plugins
from precap.errors import ImageError, PrecapError
from precap.store.exporters.run import export
from precap.store.importers import layouts
from precap.store.importers.contract import Scan
from precap.store.importers.run import find_layout, import_store

ROOT = Path(__file__).parents[2] / "golden" / "regions"
SAMPLES = [
    "butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv",
    "lxmert_tsv/tiny_d2obj36_batch.tsv",
    "vinvl_released",
    "vinvl_oscar_caption",
    "vinvl_sgb_predictions",
    "milvlg_npz",
    "milvlg_npz_d2mode",
    "hdf5_m2/coco_detections.hdf5",
    "hdf5_hin_vinvl/COCO2014_VinVL.hdf5",
    "hdf5_hin_clip/COCO2014_ViT-L-14.hdf5",
    "hdf5_selfcritical",
    "selfcritical",
    "xmodaler_npz",
]
ROUNDS = int(os.environ.get("PRECAP_FUZZ_ROUNDS", "40"))


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, a piece cut out, doubled, overwritten, or the end torn off."""
    kind = chance.randrange(5)
    at = chance.randrange(len(data))
    stop = min(len(data), at + chance.randrange(1, 64))
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[:at] + data[stop:]
    if kind == 2:
        return data[:stop] + data[at:]
    if kind == 3:
        return data[:at] + chance.randbytes(stop - at) + data[stop:]
    return data[:at]


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def write_grit(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["image_ids"] = np.array([3, 5])
        file["gri_feat"] = np.ones((2, 6, 4), "f4")
        file["gri_mask"] = np.zeros((2, 1, 1, 6), bool)


def write_pickle(path: Path) -> None:
    captions = [{"image_id": str(n), "caption": "a dog", "clip_embedding": n} for n in range(4)]
    path.write_bytes(pickle.dumps({"clip_embedding": torch.ones(4, 8), "captions": captions}))


def write_pth(path: Path) -> None:
    torch.save({"9": torch.ones(2, 4), "10": torch.ones(3, 4)}, path)


def write_export(path: Path) -> None:
    store = path.with_name("store")
    import_store(ROOT / "hdf5_m2/coco_detections.hdf5", store)
    export(store, path, format=path.suffix[1:])


MADE = {
    "grit.h5": write_grit,
    "clipcap.pkl": write_pickle,
    "cocobu_att.pth": write_pth,
    "precap.hdf5": write_export,
    "precap.zarr": write_export,
}


@pytest.mark.parametrize("sample", [*SAMPLES, *MADE])
def test_damage_is_an_error_that_precap_foresaw(tmp_path: Path, sample: str) -> None:
    source = ROOT / sample
    if sample in MADE:
        source = tmp_path / sample
        MADE[sample](source)
    layout = plugins.load(layouts, find_layout(source))
    chance = random.Random(sample)
    outcomes: Counter[str] = Counter()
    for number in range(ROUNDS):
        copy = tmp_path / str(number)  # a fresh one: HDF5 shares what it knows of an open file
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        target = chance.choice(list(files(copy)) if copy.is_dir() else [copy])
        target.write_bytes(damaged(target.read_bytes(), chance))
        outcomes += read(layout, copy)
    assert outcomes["failed"] + outcomes["refused"] > 0, "the damage was never noticed"
    assert outcomes["read"] > 0


def read(layout: Any, source: Path) -> Counter[str]:
    """How many images were read and failed, or that the source was refused; nothing else."""
    scan = Scan()
    try:
        reader = layout(source, True)
        assert reader.index(scan).fields
    except PrecapError:
        return Counter(refused=1)
    outcomes = Counter(failed=len(scan.failed))
    for at in scan.found.values():
        try:
            row = reader.read(at)
        except ImageError:
            outcomes["failed"] += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in row.values())
            outcomes["read"] += 1
    return outcomes
