"""``precap store`` as a user meets it: what each command prints, its JSON, and its exit code."""

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from precap.store.datasets.dataset import Item, write
from precap.store.identity import load
from precap.store.plan import extend
from precap.store.reader import open_store
from tests.command import Precap
from tests.store import sabotage, toy

GOLDEN = Path(__file__).parents[1] / "golden" / "regions"
TSV = GOLDEN / "butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv"
M2 = GOLDEN / "hdf5_m2/coco_detections.hdf5"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return toy.build(tmp_path / "features" / "toy", 20, 8)


def damaged(store: Path) -> Path:
    shard = store / "shards" / "000001.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return store


def error_of(stderr: str) -> dict[str, Any]:
    """The closing JSON line."""
    found: dict[str, Any] = json.loads(stderr.strip().splitlines()[-1])
    return found


def test_ls(precap: Precap, store: Path, tmp_path: Path) -> None:
    said = precap("store", "ls", store.parent)
    assert "toy" in said
    assert "complete" in said
    (row,) = json.loads(precap("store", "ls", store.parent, "--json"))
    assert (row["name"], row["images"]) == ("toy", len(open_store(store)))
    (tmp_path / "empty").mkdir()
    assert precap("store", "ls", tmp_path / "empty").strip() == "no stores"
    assert json.loads(precap("store", "ls", tmp_path / "empty", "--json")) == []
    assert "no folder" in precap.refused("store", "ls", tmp_path / "nothere", code=2)


def test_info(precap: Precap, store: Path) -> None:
    assert "rows regions" in precap("store", "info", store)
    found = json.loads(precap("store", "info", store, "--json"))
    assert (found["shards"], found["remaining"]) == (3, 0)
    assert found["spec"]["extractor"] == "toy"


NO_STORE = [
    ["info"],
    ["verify"],
    ["repair"],
    ["export", "--format", "hdf5", "OUT"],
    ["rm", "--yes"],
]


@pytest.mark.parametrize("command", NO_STORE, ids=lambda command: command[0])
def test_what_is_no_store_is_a_mistake_of_use(
    precap: Precap, store: Path, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    named = {
        tmp_path / "nothere": "no ",
        tmp_path / "data": "is no feature store",
        store / "shards" / "000000.h5": "is a file",
    }
    for path, said in named.items():
        options = [str(tmp_path / "out") if word == "OUT" else word for word in command[1:]]
        refusal = precap.refused("store", command[0], path, *options, code=2)
        assert said in refusal
        assert "repair" not in refusal
    assert error_of(precap.refused("store", "info", tmp_path, "--json", code=2))["exit_code"] == 2


@pytest.mark.parametrize("how", ["--quick", "--full"])
def test_verify(precap: Precap, store: Path, how: str) -> None:
    assert "sound" in precap("store", "verify", store, how)
    found = json.loads(precap("store", "verify", store, how, "--json"))
    assert (found["sound"], found["shards"], found["full"]) == (True, 3, how == "--full")
    os.truncate(store / "shards" / "000001.h5", 9)
    assert "repair" in precap.refused("store", "verify", store, how, code=4)
    code, out, err = precap.result("store", "verify", store, how, "--json")
    assert code == 4
    assert json.loads(out)["findings"][0]["shard"] == 1
    assert error_of(err)["exit_code"] == 4
    assert "repair" in error_of(err)["error"]


def test_repair(precap: Precap, store: Path) -> None:
    damaged(store)
    found = json.loads(precap("store", "repair", store, "--json"))
    assert found["requeued"] == [1]
    assert "0 shards" in precap("store", "repair", store)
    assert toy.fill(store) == [1]
    precap("store", "verify", store)


def test_what_cannot_be_repaired_is_an_error(precap: Precap, store: Path) -> None:
    (store / "store.json").write_text("{}")
    code, out, err = precap.result("store", "repair", store)
    assert code == 4
    assert "cannot be repaired: store.json" in out
    assert "Restore" in err
    code, out, err = precap.result("store", "repair", store, "--json")
    assert code == error_of(err)["exit_code"] == 4
    assert json.loads(out)["beyond"]
    (store / "store.json").unlink()
    assert "damaged" in precap.refused("store", "verify", store, code=4)  # it was a store


def test_import(precap: Precap, tmp_path: Path) -> None:
    said = precap("store", "import", TSV, "--out", tmp_path / "a")
    assert "butd_tsv" in said
    found = json.loads(precap("store", "import", TSV, "--out", tmp_path / "a", "--json"))
    assert found["ok"] == found["images"] == 3
    lines = precap("store", "info", tmp_path / "a").splitlines()
    assert not [line for line in lines if line.split()[0] in ("found", "failed", "problems")]


def test_import_says_when_images_have_no_features(precap: Precap, tmp_path: Path) -> None:
    good, *rest = TSV.read_text().splitlines()
    torn = [line[:-8] for line in rest]
    (tmp_path / "h.tsv").write_text("\n".join([good, *torn]) + "\n")
    said = precap("store", "import", tmp_path / "h.tsv", "--out", tmp_path / "a", code=3)
    assert "failed" in said
    found = precap("store", "import", tmp_path / "h.tsv", "--out", tmp_path / "a", "--json", code=3)
    assert (json.loads(found)["ok"], json.loads(found)["images"]) == (1, 3)


def test_import_chooses_how_and_under_which_ids_to_store(precap: Precap, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    precap("store", "import", M2, "--out", plain)
    ids = sorted(open_store(plain).ids)
    items = [Item(f"picture {i}", f"COCO_val2014_{int(i):012}.jpg", "val", []) for i in ids]
    write(tmp_path / "data", items, {"name": "tiny", "format": "list", "image_root": "."})
    out = tmp_path / "chosen"
    precap(
        "store", "import", M2, "--out", out, "--container", "zarr", "--compression", "zstd",
        "--dtype", "float16", "--ids", tmp_path / "data", "--format", "m2",
    )  # fmt: skip
    mine = load(out)
    assert (mine.format, mine.compression) == ("zarr", "zstd")
    assert sorted(open_store(out).ids) == [f"picture {i}" for i in ids]
    wanted = open_store(plain).read(ids[0])["region"].astype(np.float16)
    np.testing.assert_array_equal(open_store(out).read(f"picture {ids[0]}")["region"], wanted)
    for option, value, said in (
        ("--container", "tar", "tar"),
        ("--compression", "rar", "zstd"),
        ("--dtype", "int3", "float16"),
        ("--format", "hni", "hin"),
    ):
        refusal = precap.refused(
            "store", "import", M2, "--out", tmp_path / "no", option, value, code=2
        )
        assert said in refusal
    assert "--out" in precap.refused("store", "import", M2, code=2)
    assert "no " in precap.refused("store", "import", tmp_path / "x", "--out", out, code=2)


def test_a_folder_of_no_layout_says_what_in_it_has_one(precap: Precap, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    for name in ("one.h5", "two.h5"):
        shutil.copy(M2, tmp_path / "found" / name)
    said = precap.refused("store", "import", tmp_path / "found", "--out", tmp_path / "s", code=4)
    assert "one.h5 (m2)" in said
    precap("store", "import", M2, "--out", tmp_path / "s")
    said = precap.refused("store", "import", tmp_path / "s", "--out", tmp_path / "t", code=4)
    assert "It is a feature store already" in said


def test_export(precap: Precap, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    assert "images" in precap("store", "export", store, out, "--format", "hdf5")
    assert "exists already" in precap.refused(
        "store", "export", store, out, "--format", "hdf5", code=2
    )
    found = json.loads(
        precap("store", "export", store, tmp_path / "z", "--format", "zarr", "--json")
    )
    assert (found["images"], found["format"]) == (len(open_store(store)), "zarr")
    assert "grit" in precap.refused(
        "store", "export", store, tmp_path / "x", "--format", "tirg", code=2
    )
    precap("store", "import", out, "--out", tmp_path / "back")
    assert list(open_store(tmp_path / "back").ids) == list(open_store(store).ids)


def test_merge(precap: Precap, store: Path, tmp_path: Path) -> None:
    other = toy.build(tmp_path / "other", 9, 8)
    assert not open_store(other).absent
    out = tmp_path / "out"
    found = json.loads(precap("store", "merge", other, "--out", out, "--json"))
    assert (found["ok"], found["pending"]) == (9, {})
    extend(other, toy.ids(5, 100))
    said = precap("store", "merge", store, other, "--out", out, code=3)
    assert "5 images are not processed yet" in said
    assert len(open_store(out)) == len(open_store(store))
    third = toy.build(tmp_path / "third", 5, 8, toy.spec(views=2))
    said = precap.refused("store", "merge", store, third, "--out", tmp_path / "x", code=4)
    assert "views" in said
    assert "rm" not in said.split()
    assert "no " in precap.refused("store", "merge", store, tmp_path / "x", "--out", out, code=2)


def test_merge_joins_the_imports_of_two_files(precap: Precap, tmp_path: Path) -> None:
    lines = TSV.read_text().splitlines(keepends=True)
    for name, part in {"train": lines[:2], "val": lines[2:]}.items():
        (tmp_path / f"{name}.tsv").write_text("".join(part))
        precap("store", "import", tmp_path / f"{name}.tsv", "--out", tmp_path / name)
    both = [tmp_path / "train", tmp_path / "val"]
    said = precap.refused("store", "merge", *both, "--out", tmp_path / "all", code=4)
    assert "--join-sources" in said
    precap("store", "merge", *both, "--out", tmp_path / "all", "--join-sources")
    assert len(open_store(tmp_path / "all")) == 3
    assert "val.tsv" in precap("store", "info", tmp_path / "all")


def test_rm(precap: Precap, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "--yes" in precap.refused("store", "rm", store, code=2)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert precap("store", "rm", store, code=2).strip() == ""
    (store / "thesis.tex").write_text("precious")
    assert "thesis.tex" in precap.refused("store", "rm", store, "--yes", code=2)
    with monkeypatch.context() as there:
        there.chdir(store)
        assert "You are in" in precap.refused("store", "rm", ".", "--yes", "--force", code=2)
    toy.check_all(store, 20)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert f"removed {store}" in precap("store", "rm", store, "--force")
    assert not list(store.parent.iterdir())


def test_what_is_left_of_a_store_is_an_error(precap: Precap, store: Path) -> None:
    with sabotage.failing("remove", 2, errno.EACCES):
        said = precap.refused("store", "rm", store, "--yes", code=6)
    assert "Could not remove all" in said
    assert precap("store", "ls", store.parent).strip() == "no stores"


def test_a_file_in_the_place_of_a_store_is_a_mistake_of_use(
    precap: Precap, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for command in (["import", TSV], ["merge", store]):
            assert "is a file" in precap.refused("store", *command, "--out", out, code=2)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("kind", ["import", "merge", "export"])
def test_a_place_that_may_not_be_written_is_one_message(
    precap: Precap,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    error: int,
) -> None:
    def refuse(real: Any) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if Path(path).name.startswith(("closed", ".closed")):
                raise OSError(error, os.strerror(error), str(path))
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "mkdir", refuse(os.mkdir))
    monkeypatch.setattr(h5py, "File", refuse(h5py.File))
    out = tmp_path / "closed"
    words = {
        "import": [TSV, "--out", out],
        "merge": [store, "--out", out],
        "export": [store, out, "--format", "hdf5"],
    }
    said = precap.refused("store", kind, *words[kind], code=6)
    assert "Could not" in said
    assert "repeat the command" in said
    assert not out.exists()


@pytest.mark.parametrize("closed", ["shards/000001.h5", "store.json"])
def test_a_store_that_may_not_be_read_is_not_called_damaged(
    precap: Precap, store: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    real = io.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)
    said = precap.refused("store", "verify", store, code=6)
    assert f"{store / closed}: permission is denied" in said
    listed = precap("store", "ls", store.parent)
    assert ("unreadable" in listed) == (closed == "store.json")


def test_a_source_that_may_not_be_read_is_one_message(
    precap: Precap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    said = precap.refused("store", "import", TSV, "--out", tmp_path / "s", code=6)
    assert f"Could not read {TSV}: permission is denied." in said
