"""The normal form: what goes in comes out, and what is not the normal form is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precap.errors import ConfigError, DataError
from precap.store.datasets.dataset import Item, load, write
from precap.store.datasets.prepare import prepare
from tests.store.datasets.pictures import dump, listed

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.from_regex(r"[a-z0-9é_]{1,8}", fullmatch=True)
ITEMS = st.lists(
    st.builds(
        Item,
        id=TEXT.filter(bool),
        file=st.builds(lambda folder, name: f"{folder}/{name}.jpg", NAMES, NAMES),
        split=st.sampled_from(["train", "val", "test", "unused"]),
        captions=st.lists(TEXT, max_size=3),
        domain=st.none() | st.sampled_from(["in-domain", "out-domain"]),
    ),
    max_size=8,
    unique_by=lambda item: item.id,
)
QUIET = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@QUIET
@given(items=ITEMS)
def test_items_survive_the_disk(tmp_path: Path, items: list[Item]) -> None:
    write(tmp_path / "set", items, {"name": "set", "format": "list", "image_root": "images"})
    found = load(tmp_path / "set")
    assert list(found.items) == items
    assert found.root == tmp_path / "set" / "images"
    assert found.ids() == [item.id for item in items]
    assert [ref.path for ref in found.images()] == [found.root / item.file for item in items]
    split: dict[str, list[str]] = {}
    for name in found.splits:
        split |= found.captions(name)
    assert split == found.captions()
    assert sum(found.splits.values()) == len(items)


ODD = (
    st.none() | st.integers() | st.booleans() | st.text(max_size=6) | st.lists(st.text(max_size=3))
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"file": st.sampled_from(["a.jpg", "b/a.jpg", "../c.jpg", "d.jpg", "./d.jpg"]) | ODD,
         "captions": st.lists(st.text(max_size=6) | ODD, max_size=4) | ODD},
        optional={"id": ODD, "split": ODD, "domain": st.none() | st.text(max_size=3)},
    ),
    max_size=8,
)  # fmt: skip


@QUIET
@given(records=RECORDS)
def test_whatever_is_listed_is_kept_or_counted(tmp_path: Path, records: list[Any]) -> None:
    good = {"file": "good.jpg", "captions": ["a dog"], "split": "train"}
    source = dump(tmp_path / "captions.json", [good, *records])
    report = prepare(source, tmp_path / "out")
    found = load(tmp_path / "out")
    assert report.read["images"] == 1 + len(records)
    lists = [r["captions"] for r in records if isinstance(r["captions"], list)]
    assert report.read["captions"] == 1 + sum(map(len, lists))
    assert len(set(found.ids())) == len(found.items)
    assert all(ref.path.is_relative_to(found.root) for ref in found.images())
    lost = report.read["images"] - len(found.items)
    reasons = ("malformed", "path_escape", "duplicate_id", "repeated_image")
    assert lost <= sum(report.problems.get(kind, {"count": 0})["count"] for kind in reasons)
    for text in (text for texts in found.captions().values() for text in texts):
        assert len(text.splitlines()) == 1
        assert text == text.strip() != ""


def test_the_files_are_as_documented(tmp_path: Path) -> None:
    record = {"file": "1.jpg", "captions": ["a café"], "split": "val", "domain": "in-domain"}
    prepare(listed(tmp_path, record), tmp_path, name="small")
    line = (tmp_path / "images.jsonl").read_text("utf-8")
    assert line == (
        '{"id": "1", "file": "1.jpg", "split": "val", "captions": ["a café"], '
        '"domain": "in-domain"}\n'
    )
    header = json.loads((tmp_path / "dataset.json").read_text("utf-8"))
    assert {"name": "small", "format": "list", "image_root": "images"}.items() <= header.items()
    assert (header["images"], header["splits"], header["problems"]) == (1, {"val": 1}, {})


def test_a_set_with_its_pictures_can_be_moved(tmp_path: Path) -> None:
    source = listed(tmp_path / "here", {"file": "1.jpg", "captions": ["a"]})
    prepare(source, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(tmp_path / "there").images()[0].path.is_file()


def test_splits_and_domains_are_asked_for_by_name(tmp_path: Path) -> None:
    items = [Item("1", "1.jpg", "train", []), Item("2", "2.jpg", "val", ["b"], "near-domain")]
    write(tmp_path, items, {"name": "two", "format": "list", "image_root": "/pictures"})
    found = load(tmp_path)
    assert found.images("val")[0].path == Path("/pictures/2.jpg")
    assert found.domains() == {"near-domain": ["2"]}
    assert found.splits == {"train": 1, "val": 1}
    with pytest.raises(
        ConfigError, match=r"no split 'vall'. Did you mean 'val'\? Available: train"
    ):
        found.ids("vall")


GOOD = '{"id": "1", "file": "1.jpg", "split": "train", "captions": []}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has 0 images, dataset.json says 1"),
        ([GOOD, GOOD], "has 2 images"),
        ([GOOD[:-5]], "not JSON"),
        (["[]"], "image 1: lacks"),
        ([GOOD.replace('"split": "train", ', "")], "image 1: lacks 'split'"),
        ([GOOD.replace('"1"', "1")], "must be strings"),
        ([GOOD.replace("[]", '"a"')], "must be strings"),
        ([GOOD.replace("[]", "[1]")], "must be strings"),
        ([GOOD.replace("1.jpg", "../1.jpg")], r"'../1.jpg' is a way out"),
        ([GOOD.replace("1.jpg", "/1.jpg")], "is absolute"),
        (["1, 2"], "not JSON"),
    ],
)
def test_a_damaged_set_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    header = {"name": "x", "format": "list", "image_root": "images", "images": 1}
    dump(tmp_path / "dataset.json", header)
    (tmp_path / "images.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_an_id_may_stand_only_once(tmp_path: Path) -> None:
    dump(tmp_path / "dataset.json", {"name": "x", "image_root": "i", "images": 2})
    (tmp_path / "images.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    with pytest.raises(DataError, match="'1' is there twice"):
        load(tmp_path)


@pytest.mark.parametrize("header", ["", "[]", "{}", '{"name": "x", "image_root": 3, "images": 1}'])
def test_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "dataset.json").write_text(header)
    with pytest.raises(DataError, match="Prepare the dataset again"):
        load(tmp_path)


def test_what_is_no_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ConfigError, match="precap data prepare SOURCE --out"):
            load(path)
    dump(tmp_path / "dataset.json", {"name": "x", "image_root": "i", "images": 2})
    with pytest.raises(DataError, match="images.jsonl is missing"):
        load(tmp_path)


def test_a_failed_rewrite_leaves_no_false_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = listed(tmp_path, {"file": "1.jpg", "captions": ["a"]})
    prepare(source, tmp_path / "out")
    (tmp_path / "out" / "images.jsonl").unlink()
    (tmp_path / "out" / "images.jsonl").mkdir()  # so that the rename onto it fails
    with pytest.raises(OSError, match="images.jsonl"):
        prepare(source, tmp_path / "out")
    with pytest.raises(DataError, match="is not a prepared dataset"):
        load(tmp_path / "out")
