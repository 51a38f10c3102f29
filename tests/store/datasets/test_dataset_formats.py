"""Every annotation format against the contract, on small handwritten files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precap.errors import ConfigError, DataError
from precap.store.datasets.dataset import load
from precap.store.datasets.prepare import known_formats, prepare
from tests.contracts import DatasetFormatContract
from tests.store.datasets.pictures import draw, dump

TRAIN, VAL = "COCO_train2014_000000000009.jpg", "COCO_val2014_000000000042.jpg"
OUTSIDE = "../outside.jpg"


class TestList(DatasetFormatContract):
    format = "list"
    expected = {"7": ("train", ["a dog", "a brown dog"]), "cat": ("test", ["a cat"])}
    records: list[dict[str, Any]] = [
        {"file": "dog.jpg", "image_id": 7, "split": "train", "captions": ["a dog", "a brown dog"]},
        {"file": "cat.jpg", "split": "test", "captions": ["a cat"]},
    ]

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "dog.jpg", "cat.jpg")
        return dump(folder / "captions.json", self.records)

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        return dump(source, [*self.records, {"file": OUTSIDE, "captions": ["x"]}])


class TestKarpathyCoco(DatasetFormatContract):
    format = "karpathy"
    expected = {
        "9": ("train", ["A dog.", "a brown dog"]),
        "42": ("train", ["a cat"]),
        "77": ("val", ["two cats"]),
    }

    def images(self) -> list[dict[str, Any]]:
        def image(folder: str, name: str, id: int, split: str, *captions: str) -> dict[str, Any]:
            said = [
                {"raw": text, "tokens": text.split(), "imgid": id, "sentid": 10 * id + n}
                for n, text in enumerate(captions)
            ]
            return {"filepath": folder, "filename": name, "cocoid": id, "imgid": id,
                    "split": split, "sentids": [], "sentences": said}  # fmt: skip

        third = VAL.replace("42", "77")
        return [
            image("train2014", TRAIN, 9, "train", "A dog.", "a brown dog"),
            image("val2014", VAL, 42, "restval", "a cat"),
            image("val2014", third, 77, "val", "two cats"),
        ]

    def make_source(self, folder: Path) -> Path:
        images = self.images()
        draw(folder, *(f"{i['filepath']}/{i['filename']}" for i in images))
        return dump(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        evil = {**self.images()[0], "filepath": "..", "filename": "outside.jpg", "cocoid": 66}
        return dump(source, {"images": [*self.images(), evil], "dataset": "coco"})

    def test_restval_is_counted(self, source: Path, tmp_path: Path) -> None:
        assert prepare(source, tmp_path / "out").problems["restval"]["count"] == 1


class TestKarpathyFlickr(TestKarpathyCoco):
    """Flickr's files have no cocoid and no filepath: ids are the stems."""

    expected = {
        "1000268201_693b08cb0e": ("train", ["A dog.", "a brown dog"]),
        "3": ("train", ["a cat"]),
        "1001773457_577c3a7d70": ("val", ["two cats"]),
    }

    def images(self) -> list[dict[str, Any]]:
        images = super().images()
        for image, stem in zip(images, self.expected, strict=True):
            del image["cocoid"], image["filepath"]
            image["filename"] = f"{stem}.jpg"
        return images

    def make_source(self, folder: Path) -> Path:
        images = self.images()
        draw(folder / "images", *(i["filename"] for i in images))
        return dump(folder / "dataset_flickr8k.json", {"images": images, "dataset": "flickr8k"})

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        evil = {**self.images()[0], "filename": OUTSIDE}
        return dump(source, {"images": [*self.images(), evil]})


class TestCoco(DatasetFormatContract):
    format = "coco"
    expected = {"9": ("val", ["a dog", "the dog"]), "42": ("val", ["a cat"])}

    def value(self, *more: dict[str, Any]) -> dict[str, Any]:
        return {
            "info": {},
            "images": [
                {"id": 9, "file_name": "000000000009.jpg", "height": 6, "width": 8},
                {"id": 42, "file_name": "000000000042.jpg", "height": 6, "width": 8},
                *more,
            ],
            "annotations": [
                {"id": 101, "image_id": 9, "caption": "a dog"},
                {"id": 102, "image_id": 42, "caption": "a cat"},
                {"id": 103, "image_id": 9, "caption": "the dog"},
            ],
        }

    def make_source(self, folder: Path) -> Path:
        draw(folder / "val2017", "000000000009.jpg", "000000000042.jpg")
        return dump(folder / "annotations" / "captions_val2017.json", self.value())

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        return dump(source, self.value({"id": 66, "file_name": OUTSIDE}))

    @pytest.mark.parametrize("kind", ["images", "annotations", "text", "json"])
    def test_karpathy_lists_by_either_kind_of_id(
        self, source: Path, tmp_path: Path, kind: str
    ) -> None:
        lists = tmp_path / "lists"
        lists.mkdir()
        members = {"train": [101, 103], "test": [102]} if kind == "annotations" else None
        for split, ids in (members or {"train": [9], "test": [42]}).items():
            if kind == "text":
                lines = "".join(f"val2014/COCO_val2014_{i:012d}.jpg {i}\n" for i in ids)
                (lists / f"karpathy_{split}_images.txt").write_text(lines)
            elif kind != "json":
                np.save(lists / f"coco_{split}_ids.npy", np.array(ids, np.int64))
        if kind == "json":
            lists = dump(tmp_path / "split.json", {"train": [9], "test": ["000000000042.jpg"]})
        if kind == "text":  # the id after the blank is not enough where only file names match
            lists = dump(tmp_path / "split.json", {"train": ["000000000009"], "test": [42]})
        prepare(source, tmp_path / "out", splits=lists)
        assert {i.id: i.split for i in load(tmp_path / "out").items} == {
            "9": "train",
            "42": "test",
        }

    def test_karpathys_json_serves_as_split_lists(self, source: Path, tmp_path: Path) -> None:
        images = [{"cocoid": 9, "split": "restval"}, {"cocoid": 42, "split": "test"}]
        lists = dump(tmp_path / "dataset_coco.json", {"images": images})
        prepare(source, tmp_path / "out", splits=lists)
        assert load(tmp_path / "out").ids("train") == ["9"]
        assert load(tmp_path / "out").ids("test") == ["42"]

    def test_two_files_with_lists_make_karpathys_split(self, tmp_path: Path) -> None:
        folder = tmp_path / "annotations"
        for number, (word, file) in enumerate((("train", TRAIN), ("val", VAL))):
            image = {"id": 9 + 33 * number, "file_name": file}
            said = {"id": number, "image_id": image["id"], "caption": f"a {word} picture"}
            dump(folder / f"captions_{word}2014.json", {"images": [image], "annotations": [said]})
            np.save(folder / f"coco_{'restval' if number else 'train'}_ids.npy", [number])
        draw(tmp_path, f"train2014/{TRAIN}", f"val2014/{VAL}")
        report = prepare(folder, tmp_path / "out", splits=folder)
        assert report.images == {"train": 2}
        assert load(tmp_path / "out").captions("train")["42"] == ["a val picture"]
        assert "missing_image" not in report.problems


class TestImageInfo(DatasetFormatContract):
    format = "image_info"
    expected = {"1": ("test", []), "16": ("test", [])}

    def value(self, *files: str) -> dict[str, Any]:
        images = [{"id": n, "file_name": file} for n, file in zip((1, 16, 66), files, strict=False)]
        return {"info": {}, "images": images, "categories": []}

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "COCO_test2014_1.jpg", "COCO_test2014_16.jpg")
        value = self.value("COCO_test2014_1.jpg", "COCO_test2014_16.jpg")
        return dump(folder / "image_info_test2014.json", value)

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        return dump(source, self.value("COCO_test2014_1.jpg", "COCO_test2014_16.jpg", OUTSIDE))

    def test_no_captions_is_no_remark(self, source: Path, tmp_path: Path) -> None:
        assert prepare(source, tmp_path / "out").problems == {}


class TestNocaps(DatasetFormatContract):
    format = "nocaps"
    expected = {"0": ("val", ["a crab", "crab"]), "1": ("val", ["a sofa"])}

    def value(self, *more: dict[str, Any]) -> dict[str, Any]:
        return {
            "images": [
                {"id": 0, "file_name": "0013ea20.jpg", "open_images_id": "0013ea20",
                 "domain": "out-domain"},
                {"id": 1, "file_name": "00a159a6.jpg", "open_images_id": "00a159a6",
                 "domain": "in"},
                *more,
            ],
            "annotations": [
                {"id": 0, "image_id": 0, "caption": "a crab"},
                {"id": 1, "image_id": 1, "caption": "a sofa"},
                {"id": 2, "image_id": 0, "caption": "crab"},
            ],
        }  # fmt: skip

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "0013ea20.jpg", "00a159a6.jpg")
        return dump(folder / "nocaps_val_4500_captions.json", self.value())

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        return dump(source, self.value({"id": 66, "file_name": OUTSIDE, "domain": "in-domain"}))

    def test_domains_arrive(self, source: Path, tmp_path: Path) -> None:
        prepare(source, tmp_path / "out")
        found = load(tmp_path / "out").domains()
        assert found == {"out-domain": ["0"], "in-domain": ["1"]}


class TestFlickr(DatasetFormatContract):
    format = "flickr"
    expected = {
        "10_a": ("train", ["A dog .", "A brown dog ."]),
        "20_b": ("val", ["A cat ."]),
        "30_c": ("unused", ["A bird ."]),
    }
    text = (
        "10_a.jpg#0\tA dog .\n10_a.jpg#1\tA brown dog .\n20_b.jpg#0\tA cat .\n30_c.jpg#0\tA bird ."
    )

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "10_a.jpg", "20_b.jpg", "30_c.jpg")
        text = folder / "text"
        text.mkdir()
        (text / "Flickr_8k.trainImages.txt").write_text("10_a.jpg\n")
        (text / "Flickr_8k.devImages.txt").write_text("20_b.jpg\r\n")
        (text / "Flickr8k.token.txt").write_text(self.text + "\n")
        return text / "Flickr8k.token.txt"

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        source.write_text(f"{self.text}\n{OUTSIDE}#0\tx\n")
        return source

    def test_the_folder_means_the_same_without_the_lemmas(
        self, source: Path, tmp_path: Path
    ) -> None:
        source.with_name("Flickr8k.lemma.token.txt").write_text(self.text)
        source.with_name("readme.txt").write_text("please cite")
        report = prepare(source.parent, tmp_path / "out")
        assert {i.id: (i.split, i.captions) for i in load(tmp_path / "out").items} == self.expected
        assert report.problems["file_not_read"]["count"] == 2

    def test_captions_of_no_picture_are_counted(self, source: Path, tmp_path: Path) -> None:
        source.write_text(f"{self.text}\n40_d.jpg.1#0\tA subway .\n")
        report = prepare(source, tmp_path / "out")
        assert report.problems["caption_without_image"]["examples"] == ["40_d.jpg.1: A subway ."]
        assert sum(report.captions.values()) == report.read["captions"] - 1 == 4


class TestClipcap(DatasetFormatContract):
    format = "clipcap"
    expected = {"9": ("train", ["a dog", "the dog"]), "42": ("train", ["a cat"])}

    def make_source(self, folder: Path) -> Path:
        draw(folder, f"train2014/{TRAIN}", f"val2014/{VAL}")
        records = [
            {"image_id": "9", "id": 1, "caption": "a dog"},
            {"image_id": "42", "id": 2, "caption": "a cat"},
            {"image_id": "9", "id": 3, "caption": "the dog"},
        ]
        return dump(folder / "train_caption.json", records)

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        records = json.loads(source.read_text())
        return dump(source, [*records, {"image_id": "../outside", "caption": "x"}])


class TestOpgTrain(DatasetFormatContract):
    format = "opg"
    expected = {"9": ("train", ["a dog", "the dog"]), "42": ("train", ["a cat"])}
    records: list[dict[str, Any]] = [
        {"caption": "a dog", "image": f"train2014/{TRAIN}", "image_id": "coco_9"},
        {"caption": "a cat", "image": f"val2014/{VAL}", "image_id": "coco_42"},
        {"caption": "the dog", "image": f"train2014/{TRAIN}", "image_id": "coco_9"},
    ]

    def make_source(self, folder: Path) -> Path:
        draw(folder, f"train2014/{TRAIN}", f"val2014/{VAL}")
        return dump(folder / "coco_karpathy_train.json", self.records)

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        return dump(source, [*self.records, {"image": OUTSIDE, "caption": "x"}])


class TestOpgTest(TestOpgTrain):
    expected = {"9": ("test", ["a dog", "the dog"]), "42": ("test", ["a cat"])}
    records = [
        {"image": f"train2014/{TRAIN}", "caption": ["a dog", "the dog"]},
        {"image": f"val2014/{VAL}", "caption": ["a cat"]},
    ]

    def make_source(self, folder: Path) -> Path:
        draw(folder, f"train2014/{TRAIN}", f"val2014/{VAL}")
        return dump(folder / "coco_karpathy_test.json", self.records)


class TestOpgNocaps(TestOpgTrain):
    expected = {"0": ("val", []), "1": ("val", [])}
    records = [
        {"image": f"train2014/{TRAIN}", "img_id": 0},
        {"image": f"val2014/{VAL}", "img_id": 1},
    ]

    def make_source(self, folder: Path) -> Path:
        draw(folder, f"train2014/{TRAIN}", f"val2014/{VAL}")
        return dump(folder / "nocaps_val.json", self.records)


class TestTable(DatasetFormatContract):
    format = "table"
    expected = {"a": ("train", ["A dog, brown.", "dog"]), "b": ("val", ["A cat"])}
    text = 'image,split,caption\na.jpg,train,"A dog, brown."\nb.jpg,val,A cat\na.jpg,train,dog\n'

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "a.jpg", "b.jpg")
        (folder / "captions.csv").write_text(self.text)
        return folder / "captions.csv"

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        source.write_text(f"{self.text}{OUTSIDE},train,x\n")
        return source


class TestTableOfPipes(TestTable):
    """Flickr30k's results.csv: spaces around a pipe, captions with commas, unquoted."""

    expected = {"a": ("unsplit", ["A dog , brown .", "dog"]), "b": ("unsplit", ["A cat | sits"])}
    text = (
        "image_name| comment_number| comment\n"
        "a.jpg| 0| A dog , brown .\nb.jpg| 0| A cat | sits\na.jpg| 1| dog\n"
    )

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        source.write_text(f"{self.text}{OUTSIDE}| 0| x\n")
        return source


class TestJsonLines(DatasetFormatContract):
    format = "table"
    expected = {"a": ("train", ["a dog", "dog"]), "b": ("val", ["a cat"])}
    rows: list[dict[str, Any]] = [
        {"file_name": "a.jpg", "split": "train", "captions": ["a dog", "dog"]},
        {"file_name": "b.jpg", "split": "val", "text": "a cat"},
    ]

    def make_source(self, folder: Path) -> Path:
        draw(folder / "images", "a.jpg", "b.jpg")
        (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in self.rows))
        return folder / "metadata.jsonl"

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        row = {"file_name": OUTSIDE, "text": "x"}
        source.write_text("".join(f"{json.dumps(r)}\n" for r in [*self.rows, row]))
        return source


class TestFolder(DatasetFormatContract):
    format = "folder"
    expected = {"a": ("train", []), "b": ("test", []), "c": ("unsplit", [])}

    def make_source(self, folder: Path) -> Path:
        return draw(folder, "train/a.jpg", "test/deep/b.jpg", "c.jpg")

    def make_escape(self, folder: Path) -> Path:
        source = self.make_source(folder)
        draw(folder.parent, "outside.jpg")
        (source / "linked.jpg").symlink_to(folder.parent / "outside.jpg")
        return source

    def test_captions_of_a_table_inside_are_joined(self, source: Path, tmp_path: Path) -> None:
        (source / "captions.csv").write_text(
            "file,caption\ntrain/a.jpg,a dog\nz.jpg,nothing\n../out.jpg,x\n"
        )
        report = prepare(source, tmp_path / "out")
        assert load(tmp_path / "out").captions() == {"a": ["a dog"], "b": [], "c": []}
        counts = {kind: entry["count"] for kind, entry in report.problems.items()}
        assert counts == {
            "image_without_caption": 2,
            "caption_without_image": 1,
            "path_escape": 1,
            "string_id": 3,
        }

    def test_captions_may_lie_elsewhere(self, source: Path, tmp_path: Path) -> None:
        table = tmp_path / "said.jsonl"
        table.write_text('{"file": "c.jpg", "caption": "a field", "split": "val", "id": 12}\n')
        prepare(source, tmp_path / "out", captions=table)
        found = load(tmp_path / "out")
        assert (found.ids("val"), found.captions()["12"]) == (["12"], ["a field"])

    def test_hidden_files_are_counted(self, source: Path, tmp_path: Path) -> None:
        draw(source, "._c.jpg")
        report = prepare(source, tmp_path / "out")
        assert report.problems["hidden_file"]["examples"] == ["._c.jpg"]


def test_every_format_has_a_contract_test() -> None:
    tested = {kind.format for kind in _subclasses(DatasetFormatContract)}
    assert tested == set(known_formats())


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    source = dump(tmp_path / "odd.json", {"rows": []})
    with pytest.raises(DataError, match="none of clipcap, coco, flickr"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_format_name_is_answered_with_the_right_one(tmp_path: Path) -> None:
    source = TestOpgTest().make_source(tmp_path)
    with pytest.raises(DataError, match="looks like 'opg'"):
        prepare(source, tmp_path / "out", format="karpathy")
    with pytest.raises(ConfigError, match="Did you mean 'karpathy'"):
        prepare(source, tmp_path / "out", format="karpaty")


def test_a_folder_of_two_formats_asks_which(tmp_path: Path) -> None:
    TestOpgTest().make_source(tmp_path)
    TestClipcap().make_source(tmp_path)
    with pytest.raises(ConfigError, match="several formats .*opg: coco_karpathy_test.json"):
        prepare(tmp_path, tmp_path / "out")
    report = prepare(tmp_path, tmp_path / "out", format="opg")
    assert report.format == "opg"
    assert report.problems["file_not_read"]["count"] == 1


def test_a_third_partys_format_needs_no_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linewise.py").write_text(
        "from precap.store.datasets.contract import Entry\n"
        "class Lines:\n"
        "    captioned, listed = True, False\n"
        "    def matches(self, document):\n"
        "        return True\n"
        "    def read(self, document, problems):\n"
        "        for line in document.value.splitlines():\n"
        "            file, text = line.split(': ')\n"
        "            yield Entry(file, captions=[text])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    draw(tmp_path / "images", "a.jpg")
    (tmp_path / "said.txt").write_text("a.jpg: a dog\n")
    report = prepare(tmp_path / "said.txt", tmp_path / "out", format="linewise:Lines")
    assert report.format == "linewise:Lines"
    assert load(tmp_path / "out").captions() == {"a": ["a dog"]}


def _subclasses(kind: type) -> list[type[DatasetFormatContract]]:
    direct = kind.__subclasses__()
    return [*direct, *(deeper for child in direct for deeper in _subclasses(child))]
