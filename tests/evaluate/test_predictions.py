"""Captions on disk: every layout reads back, every oddity has a place and a next step."""

import json
from pathlib import Path

import pytest

from precap.errors import ConfigError, DataError
from precap.evaluate import predictions
from precap.types import Prediction


def test_predictions_read_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions-test.jsonl"
    captions = {"1": "a dog", "é/2": "two\u2028lines </script>", "3": ""}
    predictions.write(path, [Prediction(i, c, -1.5) for i, c in captions.items()])
    assert len(path.read_bytes().split(b"\n")) == 4
    assert predictions.read(path) == captions


def test_the_coco_servers_layout(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    predictions.write_coco(path, {"391895": "a man", "photo.jpg": "a dog", "007": "x"})
    assert json.loads(path.read_text("utf-8")) == [
        {"image_id": 391895, "caption": "a man"},
        {"image_id": "photo.jpg", "caption": "a dog"},
        {"image_id": "007", "caption": "x"},
    ]
    assert predictions.read(path) == {"391895": "a man", "photo.jpg": "a dog", "007": "x"}


@pytest.mark.parametrize(
    "values",
    [
        [{"image_id": 1, "captions": ["a", "b"]}, {"image_id": "2", "captions": ["c"]}],
        {
            "images": [],
            "annotations": [
                {"image_id": 1, "id": 7, "caption": "a"},
                {"image_id": 2, "id": 8, "caption": "c"},
                {"image_id": 1, "id": 9, "caption": "b"},
            ],
        },
    ],
)
def test_references_in_both_layouts(tmp_path: Path, values: object) -> None:
    path = tmp_path / "references.json"
    path.write_text("\ufeff" + json.dumps(values), "utf-8")
    assert predictions.read_references(path) == {"1": ["a", "b"], "2": ["c"]}


BAD = {
    "not JSON": ("{", "is not valid JSON"),
    "not a list": ("{}", "must hold a list"),
    "no caption": ('[{"image_id": 1}]', "entry 1: there is no 'caption'"),
    "no id": ('[{"caption": "a"}]', "entry 1: there is no 'image_id'"),
    "not a mapping": ("[3]", "entry 1: there is no 'image_id'"),
    "number": ('[{"image_id": 1, "caption": 2}]', "entry 1: the caption is not text"),
    "twice": (
        '[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]',
        "entry 2: image 1 is captioned twice",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_predictions_say_where(kind: str, tmp_path: Path) -> None:
    text, message = BAD[kind]
    path = tmp_path / "captions.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        predictions.read(path)


BAD_REFERENCES = {
    "text for a list": ('[{"image_id": 1, "captions": "abc"}]', "entry 1: .* list of texts"),
    "a number": ('[{"image_id": 1, "captions": ["a", 3]}]', "entry 1: .* list of texts"),
    "twice": (
        '[{"image_id": 1, "captions": ["a"]}, {"image_id": 1, "captions": ["b"]}]',
        "entry 2: image 1 .* twice",
    ),
    "COCO number": ('{"annotations": [{"image_id": 1, "caption": 3}]}', "annotation 0: .* text"),
}


@pytest.mark.parametrize("kind", BAD_REFERENCES)
def test_bad_references_say_where(kind: str, tmp_path: Path) -> None:
    text, message = BAD_REFERENCES[kind]
    path = tmp_path / "references.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        predictions.read_references(path)


def test_a_torn_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image_id": 1, "caption": "a"}\n{"image_', "utf-8")
    with pytest.raises(DataError, match="captions.jsonl, line 2"):
        predictions.read(path)


def test_a_missing_file_and_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        predictions.read(tmp_path / "none.json")
    path = tmp_path / "latin.json"
    path.write_bytes('[{"image_id": 1, "caption": "café"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        predictions.read(path)
