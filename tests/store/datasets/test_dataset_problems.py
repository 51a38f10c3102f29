"""Every kind of oddity: counted, shown with examples, and treated as docs/data.md says."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from precap.errors import ConfigError, DataError
from precap.store.datasets.dataset import Dataset, load
from precap.store.datasets.paths import refusal
from precap.store.datasets.prepare import prepare
from precap.store.datasets.problems import KINDS, Problems, Report
from tests.store.datasets.pictures import draw, dump, listed

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


def record(file: Any, *captions: Any, **more: Any) -> dict[str, Any]:
    return {"file": file, "captions": list(captions), "split": "train", **more}


def run(source: Path, **options: Any) -> tuple[Report, Dataset]:
    out = source.parent / "prepared"
    report = prepare(source, out, **options)
    found = load(out)
    header = json.loads((out / "dataset.json").read_text())
    assert header["problems"] == report.problems == report.as_json()["problems"]
    for kind, entry in report.problems.items():
        assert entry["fate"] == KINDS[kind][0]
        assert kind in str(report)
    return report, found


def counts(report: Report) -> dict[str, int]:
    return {kind: entry["count"] for kind, entry in report.problems.items()}


def test_missing_images_are_kept_with_their_captions(tmp_path: Path) -> None:
    source = listed(tmp_path, record("1.jpg", "a"), record("2.jpg", "b"), missing=("2.jpg",))
    report, found = run(source)
    assert report.problems["missing_image"] == {"count": 1, "fate": "kept", "examples": ["2.jpg"]}
    assert found.captions() == {"1": ["a"], "2": ["b"]}


def test_no_image_at_all_is_said_plainly(tmp_path: Path) -> None:
    report, _ = run(dump(tmp_path / "captions.json", [record("1.jpg", "a")]))
    assert "None of the images is on disk: --images names the folder" in str(report)


def test_unlisted_images_are_left_out_and_counted(tmp_path: Path) -> None:
    source = listed(tmp_path, record("a/1.jpg", "a"))
    draw(tmp_path / "images", "a/2.jpg", "a/3.PNG", "b/4.jpg")
    (tmp_path / "images/a/notes.txt").write_text("no picture")
    report, found = run(source)
    assert counts(report) == {"unlisted_image": 2}
    assert report.problems["unlisted_image"]["examples"] == ["a/2.jpg", "a/3.PNG"]
    assert found.ids() == ["1"]


def test_captions_without_an_image_are_counted(tmp_path: Path) -> None:
    draw(tmp_path / "images", "1.jpg")
    said = [{"id": n, "image_id": i, "caption": f"c{i}"} for n, i in enumerate([1, 5, 5])]
    value = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": said}
    report, found = run(dump(tmp_path / "captions.json", value))
    assert counts(report) == {"caption_without_image": 2}
    assert report.read == {"images": 1, "captions": 3}
    assert found.captions() == {"1": ["c1"]}


def test_empty_captions_go_and_their_image_stays(tmp_path: Path) -> None:
    report, found = run(listed(tmp_path, record("1.jpg", "", " \n", "a"), record("2.jpg", "\t")))
    assert counts(report) == {"empty_caption": 3, "image_without_caption": 1}
    assert found.captions() == {"1": ["a"], "2": []}


def test_a_second_image_with_an_id_is_left_out(tmp_path: Path) -> None:
    source = listed(
        tmp_path, record("1.jpg", "a", id=7), record("2.jpg", "b", "c", id="7"), record("3.jpg")
    )
    report, found = run(source)
    assert report.problems["duplicate_id"]["examples"] == ["7: 1.jpg, then 2.jpg"]
    assert found.captions() == {"7": ["a"], "3": []}
    assert report.read == {"images": 3, "captions": 3}


def test_a_repeated_image_is_merged(tmp_path: Path) -> None:
    source = listed(tmp_path, record("1.jpg", "a", "b"), record("./1.jpg", "b", "c", split="val"))
    report, found = run(source)
    assert counts(report) == {"repeated_image": 1, "two_splits": 1}
    assert found.captions("val") == {"1": ["a", "b", "c"]}
    assert report.read["captions"] - 1 == sum(report.captions.values())


def test_one_file_under_two_ids_keeps_both(tmp_path: Path) -> None:
    report, found = run(listed(tmp_path, record("1.jpg", "a", id=1), record("1.jpg", "b", id=2)))
    assert counts(report) == {"one_file_two_ids": 1}
    assert found.ids() == ["1", "2"]


def test_two_images_with_one_stem_get_longer_ids(tmp_path: Path) -> None:
    files = ["a/1.jpg", "b/1.jpg", "c/2.jpg", "c/2.png", "a-1.jpg", "3.x.jpg", "3.y.jpg"]
    report, found = run(listed(tmp_path, *(record(file, file) for file in files)))
    assert counts(report)["same_stem"] == 4
    ids = {item.file: item.id for item in found.items}
    assert ids["b/1.jpg"] == "b-1"
    assert ids["a/1.jpg"] == "a-1-2"  # a-1.jpg has that stem for itself
    assert (ids["c/2.jpg"], ids["c/2.png"]) == ("c-2.jpg", "c-2.png")
    assert (ids["3.x.jpg"], ids["3.y.jpg"]) == ("3.x", "3.y")
    assert len(set(ids.values())) == len(files)


def test_derived_ids_do_not_depend_on_the_order(tmp_path: Path) -> None:
    files = ["b/1.jpg", "a/1.jpg", "a-1.jpg", "2.jpg"]
    _, one = run(listed(tmp_path / "one", *map(record, files)))
    _, two = run(listed(tmp_path / "two", *map(record, reversed(files))))
    assert {i.file: i.id for i in one.items} == {i.file: i.id for i in two.items}


def test_string_ids_are_kept_and_counted(tmp_path: Path) -> None:
    given = [17, "42", "0042", "1000268201_693b08cb0e", 3.0]
    source = listed(tmp_path, *(record(f"{n}.jpg", id=id) for n, id in enumerate(given)))
    report, found = run(source)
    assert found.ids() == ["17", "42", "0042", "1000268201_693b08cb0e", "3"]
    assert report.problems["string_id"]["examples"] == ["0042", "1000268201_693b08cb0e"]


@pytest.mark.parametrize("id", ["", "  ", "a\nb", "a\0", True, ["x"], 1.5])
def test_unusable_ids_give_way_to_the_file_name(tmp_path: Path, id: Any) -> None:
    report, found = run(listed(tmp_path, record("5.jpg", "a", id=id)))
    assert counts(report)["odd_id"] == 1
    assert found.ids() == ["5"]


def test_malformed_records_are_counted(tmp_path: Path) -> None:
    source = listed(tmp_path, record("1.jpg", "a", None, 5))
    value = json.loads(source.read_text())
    dump(source, [*value, "text", {"captions": ["b"]}, {"file": 3, "captions": "c"}])
    report, found = run(source)
    assert counts(report)["malformed"] == 5
    assert found.captions() == {"1": ["a"]}
    assert report.read == {"images": 4, "captions": 4}


ESCAPES = [
    "../1.jpg",
    "a/../../1.jpg",
    "a\\..\\..\\1.jpg",
    "/etc/passwd",
    "\\\\host\\share\\1.jpg",
    "//host/share/1.jpg",
    "C:\\pictures\\1.jpg",
    "c:/pictures/1.jpg",
    "file:///etc/passwd",
    "https://example.org/1.jpg",
    "a\0.jpg",
    "",
]


def test_every_way_out_of_the_root_is_refused(tmp_path: Path) -> None:
    source = listed(tmp_path, record("1.jpg", "a"))
    value = json.loads(source.read_text())
    dump(source, [*value, *(record(file, "x") for file in ESCAPES)])
    report, found = run(source)
    assert counts(report)["path_escape"] == len(ESCAPES)
    assert found.ids() == ["1"]
    assert report.read == {"images": 1 + len(ESCAPES), "captions": 1 + len(ESCAPES)}


@pytest.mark.parametrize("file", ["a/b.jpg", "..a.jpg", "a..b/c.jpg", "a b/é.jpg", "a:b.jpg", "~a"])
def test_harmless_paths_are_not_refused(file: str) -> None:
    assert refusal(file) is None


def test_links_out_of_the_root_are_refused_and_links_inside_are_not(tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside", "secret.jpg")
    files = ["1.jpg", "out.jpg", "folder/secret.jpg", "in.jpg", "loop.jpg"]
    source = listed(tmp_path / "set", *map(record, files), missing=tuple(files[1:]))
    images = source.parent / "images"
    (images / "out.jpg").symlink_to(outside / "secret.jpg")
    (images / "folder").symlink_to(outside)
    (images / "in.jpg").symlink_to("1.jpg")
    (images / "loop.jpg").symlink_to("../../outside/secret.jpg")
    report, found = run(source)
    assert report.problems["path_escape"]["count"] == 3
    assert found.ids() == ["1", "in"]


def test_a_link_in_a_loop_or_to_nothing_and_a_pipe_are_missing_images(tmp_path: Path) -> None:
    files = ["1.jpg", "loop.jpg", "nothing.jpg", "pipe.jpg", "ring/2.jpg", f"{'x' * 300}/3.jpg"]
    source = listed(tmp_path / "set", *map(record, files), missing=tuple(files[1:]))
    images = source.parent / "images"
    (images / "loop.jpg").symlink_to("loop.jpg")
    (images / "nothing.jpg").symlink_to("gone.jpg")
    (images / "ring").symlink_to("ring")
    os.mkfifo(images / "pipe.jpg")
    report, found = run(source)
    assert report.problems["missing_image"]["count"] == 5
    assert [item.file for item in found.items] == files
    bare, _ = run(images)
    assert bare.problems["missing_image"]["examples"] == files[1:4]


def test_an_image_root_may_itself_be_a_link(tmp_path: Path) -> None:
    real = draw(tmp_path / "disk", "1.jpg")
    source = dump(tmp_path / "set" / "captions.json", [record("1.jpg", "a")])
    (source.parent / "images").symlink_to(real)
    report, found = run(source)
    assert report.problems == {}
    assert found.root == real


def test_control_characters_become_spaces(tmp_path: Path) -> None:
    odd = ["a\nb", "a\r\nb", "a\x0bb", "a\u2028b", "a\x85b", "a\0b", "plain\n"]
    report, found = run(listed(tmp_path, record("1.jpg", *odd)))
    assert found.captions()["1"] == ["a b"] * 6 + ["plain"]
    assert counts(report) == {"control_character": 6}
    assert all(len(text.splitlines()) == 1 for text in found.captions()["1"])


def test_mojibake_is_kept_and_reported(tmp_path: Path) -> None:
    good = ["a café", "naïve — “quoted”", "Ã la carte, Âge", "犬がいる"]
    bad = ["a cafÃ©", "a manâ€™s hat", "\ufffdt"]
    report, found = run(listed(tmp_path, record("1.jpg", *good, *bad)))
    assert found.captions()["1"] == [*good, *bad]
    assert counts(report) == {"mojibake": 3}


def test_half_a_pair_is_replaced(tmp_path: Path) -> None:
    report, found = run(listed(tmp_path, record("1.jpg", "a \ud83d dog")))
    assert counts(report) == {"lone_surrogate": 1}
    assert found.captions()["1"] == ["a \ufffd dog"]


def test_lines_that_are_not_utf8_are_read_as_windows_1252(tmp_path: Path) -> None:
    draw(tmp_path / "images", "1.jpg")
    data = b"1.jpg#0\ta caf\xe9\n1.jpg#1\ta caf\xc3\xa9\n1.jpg#2\t\x93x\x94\n"
    (tmp_path / "all.token").write_bytes(data)
    report, found = run(tmp_path / "all.token")
    assert found.captions()["1"] == ["a café", "a café", "“x”"]
    assert counts(report) == {"not_utf8": 2}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_removed(tmp_path: Path, encoding: str) -> None:
    draw(tmp_path / "images", "1.jpg")
    (tmp_path / "all.token").write_text("1.jpg#0\ta café\n", encoding)
    report, found = run(tmp_path / "all.token")
    assert found.captions() == {"1": ["a café"]}
    assert counts(report) == {"byte_order_mark": 1}


def test_split_lists_report_what_they_do_not_share(tmp_path: Path) -> None:
    draw(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("1.jpg\n2.jpg\n9.jpg\n")
    (lists / "test.txt").write_text("2.jpg\n")
    (tmp_path / "all.token").write_text("".join(f"{n}.jpg#0\tc{n}\n" for n in (1, 2, 3)))
    report, found = run(tmp_path / "all.token", splits=lists)
    assert report.images == {"train": 1, "test": 1, "unused": 1}
    assert counts(report) == {"unknown_split_entry": 1, "two_splits": 1, "not_in_split": 1}
    assert found.ids("test") == ["2"]


def test_captions_in_no_list_of_annotation_ids_stay(tmp_path: Path) -> None:
    draw(tmp_path / "images", "1.jpg", "2.jpg")
    said = [{"id": 100 + n, "image_id": i, "caption": f"c{n}"} for n, i in enumerate([1, 1, 2])]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2)]
    source = dump(tmp_path / "captions.json", {"images": images, "annotations": said})
    lists = dump(tmp_path / "lists.json", {"train": [100], "test": [102]})
    report, found = run(source, splits=lists)
    assert counts(report) == {"caption_not_in_split": 1}
    assert found.captions("train") == {"1": ["c0", "c1"]}


def test_file_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", "ok.jpg")
    (tmp_path / "pictures" / "ok.jpg").rename(tmp_path / "pictures" / "caf\udce9.jpg")
    report, found = run(tmp_path / "pictures")
    assert found.images()[0].path.is_file()
    assert found.ids() == ["caf_"]
    assert counts(report) == {"odd_id": 1, "string_id": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"file": "a.jpg", "captions": ["a"', "not valid JSON: .*line 1 column"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "its layout is none of"),
        ('{"images": [], "annotations": []}', "its layout is none of"),
        ('[{"file": "../a.jpg", "captions": []}]', "No image .* can be used: {'path_escape': 1}"),
    ],
)
def test_a_source_without_use_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "captions.json"
    source.write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_paths_that_are_not_there_are_named(tmp_path: Path) -> None:
    source = listed(tmp_path, record("1.jpg"))
    gone = tmp_path / "gone"
    for options in ({"images": gone}, {"splits": gone}, {"captions": gone}):
        with pytest.raises(ConfigError, match="gone"):
            prepare(source, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="Check the source"):
        prepare(gone, tmp_path / "out")


def test_pickled_id_lists_are_refused(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    source = listed(tmp_path, record("1.jpg"))
    np.save(tmp_path / "train_ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="is no array of ids"):
        prepare(source, tmp_path / "out", splits=tmp_path / "train_ids.npy")


def test_examples_are_few_and_printable() -> None:
    problems = Problems()
    for number in range(100):
        problems.add("malformed", f"{number}\n\x1b[31m\u202e" + "x" * 500)
    entry = problems.found["malformed"]
    assert entry["count"] == 100
    assert len(entry["examples"]) == 5
    assert all(text.isprintable() and len(text) <= 120 for text in entry["examples"])


def test_every_kind_is_documented_with_its_fate() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {kind: fate for kind, (fate, _) in KINDS.items()}
