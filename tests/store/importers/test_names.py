"""Keys of a source find their images through a dataset; what finds none is told."""

from pathlib import Path

import pytest

from precap.store.datasets.dataset import Dataset, Item, write
from precap.store.importers.contract import Scan
from precap.store.importers.names import Names, names_of, safe_id
from precap.store.importers.run import import_store
from precap.store.reader import open_store

ROOT = Path(__file__).parents[2] / "golden" / "regions"
ITEMS = [
    Item("9", "train2014/COCO_train2014_000000000009.jpg", "train", ["a"]),
    Item("391895", "val2014/COCO_val2014_000000391895.jpg", "val", ["b"]),
    Item("flickr/1000268201", "1000268201_693b08cb0e.jpg", "train", ["c"]),
    Item("77", "train2017/000000000077.jpg", "test", ["d"]),
]
DATASET = Dataset("tiny", Path("/images"), ITEMS)


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("9", "9"),
        ("000000000009", "9"),
        ("COCO_train2014_000000000009", "9"),
        ("COCO_train2014_000000000009.jpg", "9"),
        ("train2014/COCO_train2014_000000000009.jpg", "9"),
        ("1000268201_693b08cb0e", "flickr/1000268201"),
        ("77", "77"),
        ("78", None),
        ("693b08cb0e", None),
        ("../9", None),
    ],
)
def test_a_key_finds_its_image_by_any_of_its_names(key: str, image: str | None) -> None:
    assert names_of(DATASET).find(key) == image


def test_a_name_of_two_images_belongs_to_neither() -> None:
    items = [Item("a", "x/1.jpg", "train", []), Item("b", "y/1.jpg", "train", [])]
    names = names_of(Dataset("tiny", Path("/images"), items))
    assert (names.find("1"), names.find("x/1.jpg"), names.find("b")) == (None, "a", "b")


def test_an_id_beats_the_file_name_of_another_image() -> None:
    items = [Item("1", "2.jpg", "train", []), Item("2", "1.jpg", "train", [])]
    assert names_of(Dataset("tiny", Path("/images"), items)).find("1") == "1"


def test_without_a_dataset_keys_are_ids() -> None:
    assert names_of(None).find("1000268201_693b08cb0e") == "1000268201_693b08cb0e"


@pytest.mark.parametrize("kind", ["dataset", "folder", "mapping"])
def test_every_image_of_the_dataset_is_accounted_for(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    header = {"name": "tiny", "format": "list", "image_root": "/images"}
    write(folder, [item for item in ITEMS if item.id != "391895"], header)
    mapping = {"COCO_train2014_000000000009": "9", "1000268201_693b08cb0e": "f", "x": "77"}
    without = Dataset("tiny", Path("/images"), [i for i in ITEMS if i.id != "391895"])
    ids = {"dataset": without, "folder": folder, "mapping": mapping}[kind]
    report = import_store(ROOT / "lxmert_tsv", tmp_path / "store", ids=ids)  # type: ignore[arg-type]
    store = open_store(tmp_path / "store")
    assert list(store.ids) == ["9", "f" if kind == "mapping" else "flickr/1000268201"]
    missing = store.outcome("77")
    assert missing is not None
    assert (missing.status, missing.reason) == ("skipped", "missing")
    assert report.problems == {"not-in-dataset": 1}
    assert report.images == 3


def test_safe_ids() -> None:
    assert all(
        map(safe_id, ["9", "COCO_val2014_000000391895", "a b", "é", "1000268201_693b08cb0e"])
    )
    assert not any(
        map(safe_id, ["", ".", "..", "a/b", "/a", "a\\b", "a:b", " a", "a\n", "x" * 201])
    )


def test_problems_are_all_counted_but_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precap.store.importers.contract.MAX_KEPT", 3)
    scan = Scan(Names())
    for row in range(10):
        scan.add("9", row, f"line {row}")
    assert scan.found == {"9": 0}
    assert scan.counts == {"duplicate": 9}
    assert len(scan.problems) == 3
