"""The real annotation files, with their exact counts; skipped where they are not at hand."""

import os
from pathlib import Path

import pytest

from precap.store.datasets.dataset import Dataset, load
from precap.store.datasets.prepare import prepare
from precap.store.datasets.problems import Report

SHARED = Path(__file__).parents[4] / "shared" / "data"
DATA = Path(os.environ.get("PRECAP_BENCH_DATA", SHARED))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA}")


def run(source: str, out: Path) -> tuple[Report, Dataset]:
    report = prepare(DATA / source, out)
    return report, load(out)


def counts(report: Report) -> dict[str, int]:
    return {kind: entry["count"] for kind, entry in report.problems.items()}


def test_flickr8k_as_a_list(tmp_path: Path) -> None:
    report, found = run("flickr8k/captions.json", tmp_path)
    assert report.images == {"train": 6000, "val": 1000, "test": 1000, "unused": 91}
    assert report.captions == {"train": 30000, "val": 5000, "test": 5000, "unused": 455}
    assert counts(report) == {"string_id": 8091}
    assert all(ref.path.is_file() for ref in found.images("test"))


def test_flickr8k_as_published(tmp_path: Path) -> None:
    report, found = run("flickr8k/text", tmp_path / "text")
    # One image of the token file was never published, and one line names a file "...jpg.1".
    assert report.images == {"train": 6000, "val": 1000, "test": 1000, "unused": 92}
    assert report.captions == {"train": 30000, "val": 5000, "test": 5000, "unused": 459}
    assert report.read == {"images": 8092, "captions": 40460}
    assert counts(report) == {
        "file_not_read": 2,
        "caption_without_image": 1,
        "missing_image": 1,
        "not_in_split": 92,
        "string_id": 8092,
    }
    _, listed = run("flickr8k/captions.json", tmp_path / "list")
    for split in ("train", "val", "test"):
        assert set(found.ids(split)) == set(listed.ids(split))
    assert found.captions("test") == {id: found.captions()[id] for id in found.ids("test")}
    ours, theirs = found.captions("val"), listed.captions("val")
    assert {id: sorted(c) for id, c in ours.items()} == {id: sorted(c) for id, c in theirs.items()}


def test_flickr8k_as_a_folder_of_pictures(tmp_path: Path) -> None:
    report, _ = run("flickr8k/images", tmp_path)
    assert report.images == {"unsplit": 8091}


def test_coco_pictures(tmp_path: Path) -> None:
    report, found = run("coco/images/captions.json", tmp_path)
    assert (report.images, report.captions) == ({"train": 80}, {"train": 400})
    assert counts(report) == {}
    assert found.images()[0].id == "790"
    assert all(ref.path.is_file() for ref in found.images())


def test_coco_captions_val2017(tmp_path: Path) -> None:
    report, found = run("coco/captions/captions_val2017.json", tmp_path)
    assert (report.images, report.captions) == ({"val": 5000}, {"val": 25014})
    assert counts(report) == {"missing_image": 5000, "control_character": 1}
    assert len(found.captions()["179765"]) == 5


def test_karpathy_test_references(tmp_path: Path) -> None:
    report, _ = run("coco/captions/karpathy_test_refs.json", tmp_path)
    assert (report.images, report.captions) == ({"test": 5000}, {"test": 25010})
