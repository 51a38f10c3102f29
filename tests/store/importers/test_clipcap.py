"""ClipCap's pickles: only on request, only plain data, one row per image, position decides."""

import collections
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from precap.errors import ConfigError, DataError
from precap.store.importers import pickles
from precap.store.importers.run import find_layout, import_store
from precap.store.reader import open_store


def rows(count: int, dim: int = 512, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(3)).to(dtype)


def write(path: Path, value: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def caption(image: str, row: int) -> dict[str, Any]:
    return {"image_id": image, "id": 7, "caption": "a dog", "clip_embedding": row}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_row_per_image_in_the_source_dtype(
    tmp_path: Path, dtype: torch.dtype, protocol: int
) -> None:
    table = rows(6, dtype=dtype)
    table[1], table[4] = table[0], table[0]
    captions = [caption(i, n) for n, i in enumerate(["9", "9", "25", "30", "9", "31"])]
    source = write(tmp_path / "any.name", {"clip_embedding": table, "captions": captions}, protocol)
    assert find_layout(source) == "clipcap"
    report = import_store(source, tmp_path / "store", allow_pickle=True)
    store = open_store(tmp_path / "store")
    assert list(store.ids) == ["9", "25", "30", "31"]
    for image, row in {"9": 0, "25": 2, "30": 3, "31": 5}.items():
        np.testing.assert_array_equal(store.read(image)["global"], table[row].numpy(), strict=True)
    assert report.problems == {"repeated-rows": 1}
    assert store.spec.config["encoder"] == "CLIP ViT-B/32 or RN101"
    assert store.spec.fields[0].role == "global"


def test_it_is_refused_without_the_flag(tmp_path: Path) -> None:
    source = write(tmp_path / "f.pkl", {"clip_embedding": rows(1), "captions": [caption("9", 0)]})
    with pytest.raises(ConfigError, match="--allow-pickle"):
        import_store(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_shifted_rows_of_conceptual_captions_are_put_right_and_told(tmp_path: Path) -> None:
    table = rows(5)
    stated = [0, 1, 0, 1, 2]  # two validation rows first, then the counter starts again
    captions = [caption(f"{n:08d}", row) for n, row in enumerate(stated)]
    source = write(tmp_path / "f.pkl", {"clip_embedding": table, "captions": captions})
    report = import_store(source, tmp_path / "store", allow_pickle=True)
    assert report.problems == {"shifted-rows": 1}
    store = open_store(tmp_path / "store")
    found = [store.read(f"{n:08d}")["global"] for n in range(5)]
    np.testing.assert_array_equal(np.stack(found), table.numpy())


@pytest.mark.parametrize("first", ["clip_embedding", "captions"])
def test_a_large_one_is_recognised_whatever_comes_first(tmp_path: Path, first: str) -> None:
    parts = {
        "clip_embedding": rows(2000),
        "captions": [caption(str(n), n) for n in range(2000)],
    }
    value = {first: parts.pop(first), **parts}
    assert find_layout(write(tmp_path / "f", value)) == "clipcap"


def test_a_view_of_a_larger_storage_is_read_at_its_offset(tmp_path: Path) -> None:
    table = rows(9)[4:6]
    captions = [caption("1", 0), caption("2", 1)]
    source = write(tmp_path / "f.pkl", {"clip_embedding": table, "captions": captions})
    import_store(source, tmp_path / "store", allow_pickle=True)
    found = open_store(tmp_path / "store").read("2")["global"]
    np.testing.assert_array_equal(found, table[1].numpy())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[torch.tensor([1, 2])], [0], 20], "token cache"),
        ({"parsed": {"http://a"}, "info": {}}, "download state"),
        ({"clip_embedding": rows(2), "captions": [caption("9", 0)]}, "not as many captions"),
        ({"clip_embedding": rows(1), "captions": [{"caption": "a"}]}, "image_id"),
        ({"clip_embedding": [1, 2], "captions": []}, "no table of floats"),
        ({"clip_embedding": rows(1)[0], "captions": []}, "no table of floats"),
        (17, "no table of floats"),
    ],
    ids=["tokens", "state", "counts", "ids", "list", "vector", "number"],
)
def test_other_pickles_are_refused_with_the_reason(
    tmp_path: Path, value: Any, message: str
) -> None:
    source = write(tmp_path / "f.pkl", value)
    with pytest.raises(DataError, match=message):
        import_store(source, tmp_path / "store", format="clipcap", allow_pickle=True)
    assert not (tmp_path / "store").exists()


class Command:
    """A pickle that runs a shell command when a plain unpickler reads it."""

    def __init__(self, target: Path) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Call:
    """Any callable with any arguments, as a pickle can ask for."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def test_a_bomb_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    value = {"clip_embedding": Command(target), "captions": []}
    source = write(tmp_path / "f.pkl", value)
    assert pickle.loads(source.read_bytes())  # it is a real bomb: a plain unpickler runs it
    assert target.exists()
    target.unlink()
    with pytest.raises(DataError, match=r"system, which no feature file needs"):
        import_store(source, tmp_path / "store", allow_pickle=True)
    assert not target.exists()


@pytest.mark.parametrize(
    "function",
    [eval, exec, getattr, __import__, open, os.remove, io.open_code, torch.load, np.load],
)
def test_no_other_callable_is_reachable(function: Any) -> None:
    data = pickle.dumps(Call(function, "1"))
    with pytest.raises(DataError, match="refused"):
        pickles.load(io.BytesIO(data), "f.pkl")


@pytest.mark.parametrize(
    "name", ["os\nsystem", "builtins\neval", "torch\nnn.Module", "numpy\nndarray.tofile", "x\ny"]
)
def test_no_other_name_is_reachable(name: str) -> None:
    with pytest.raises(DataError, match="refused"):
        pickles.load(io.BytesIO(f"c{name}\n.".encode()), "f.pkl")


def huge_bytes(size: int) -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", size) + b"abc."


def huge_tensor() -> Any:
    """A tensor that claims 10^12 rows over a storage of one: strides 0 make torch accept it."""
    return rows(1).expand(10**12, 512)


@pytest.mark.parametrize(
    "data",
    [
        huge_bytes(10**15),
        pickle.dumps(Call(np.frombuffer, b"")),
        pickle.dumps(huge_tensor()),
        pickle.dumps(np.zeros((3, 4)))[:-20],
        pickle.dumps(np.zeros((3, 4))).replace(b"K\x03K\x04", b"K\x03K\x7f"),
        pickle.dumps(np.array([{}, {}], dtype=object)),
        pickle.dumps(collections.OrderedDict({"a": Call(len, "abc")})),
        b"\x80\x04" + b"(" * 10**6,
        b"\x80\x04Pnowhere\n.",
        b"",
        b"not a pickle at all",
    ],
    ids=["bytes", "call", "strides", "cut", "shape", "objects", "nested", "marks", "persistent",
         "empty", "text"],
)  # fmt: skip
def test_hostile_pickles_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(DataError, match=r"f\.pkl"):
        pickles.load(io.BytesIO(data), "f.pkl")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_values_and_arrays_are_read(protocol: int) -> None:
    arrays = [
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["dog", "cat"]),
        np.zeros((0, 4), np.float32),
    ]
    value = {"a": arrays, "n": np.float32(1.5), "s": {1, 2}, "t": (None, True, "é", b"\x00\xff")}
    data = pickle.dumps(value, protocol=protocol)
    found = pickles.load(io.BytesIO(data), "f.pkl")
    for array, wanted in zip(found.pop("a"), value.pop("a"), strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(pickles.plain(array), wanted)
    assert found == value
