"""Every sample layout imports to exactly the arrays that were written into it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from precap.store.importers.run import find_layout, import_store
from precap.store.reader import Store, open_store

ROOT = Path(__file__).parents[2] / "golden" / "regions"
EXPECTED = json.loads((ROOT / "expected.json").read_text())["files"]


def array(entry: dict[str, Any]) -> NDArray[Any]:
    return np.array(entry["data"], entry["dtype"]).reshape(entry["shape"])


def names(store: Store, table: str, numbers: NDArray[Any]) -> list[str]:
    return [store.spec.config[table][n] for n in numbers.tolist()]


def load(tmp_path: Path, source: str, **options: Any) -> Store:
    import_store(ROOT / source, tmp_path / "store", **options)
    return open_store(tmp_path / "store")


def same(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Equal shape, dtype and numbers; float64 sources are kept as float32."""
    wanted = wanted.astype(np.float32) if wanted.dtype == np.float64 else wanted
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted, strict=True)


#: source, layout, key of the id, then field -> entry of expected.json.
PLAIN = [
    (
        "butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv",
        "butd_tsv",
        "image_id",
        {"region": "features", "boxes": "boxes"},
    ),
    (
        "lxmert_tsv/tiny_d2obj36_batch.tsv",
        "lxmert_tsv",
        "img_id",
        {
            "region": "features",
            "boxes": "boxes",
            "classes": "objects_id",
            "scores": "objects_conf",
            "attributes": "attrs_id",
            "attribute_scores": "attrs_conf",
        },
    ),
    (
        "vinvl_released",
        "vinvl",
        "key",
        {"region": "features", "boxes": "boxes", "scores": "conf"},
    ),
    ("vinvl_oscar_caption", "vinvl_oscar", "key", {"region": "features"}),
    (
        "vinvl_sgb_predictions",
        "vinvl_sgb",
        "key",
        {"region": "features", "boxes": "boxes", "scores": "conf"},
    ),
    (
        "hdf5_m2/coco_detections.hdf5",
        "m2",
        "image_id",
        {"region": "features", "boxes": "boxes", "cls_prob": "cls_prob"},
    ),
    (
        "hdf5_hin_clip/COCO2014_ViT-L-14.hdf5",
        "hin_clip",
        "image_id",
        {"grid": "features", "global": "global"},
    ),
    ("hdf5_selfcritical", "selfcritical_h5", "image_id", {"region": "att", "global": "fc"}),
    (
        "selfcritical",
        "selfcritical",
        "image_id",
        {"region": "att", "global": "fc", "boxes": "box"},
    ),
    (
        "xmodaler_npz",
        "xmodaler",
        "image_id",
        {"region": "features", "boxes": "boxes", "cls_prob": "cls_prob"},
    ),
]


@pytest.mark.parametrize(("source", "layout", "key", "fields"), PLAIN, ids=lambda v: str(v)[:24])
def test_arrays_are_exactly_the_expected_ones(
    tmp_path: Path, source: str, layout: str, key: str, fields: dict[str, str]
) -> None:
    assert find_layout(ROOT / source) == layout
    store = load(tmp_path, source)
    images = EXPECTED[source]["images"]
    assert sorted(store.ids) == sorted(str(image[key]) for image in images)
    for image in images:
        row = store.read(str(image[key]))
        for field, entry in fields.items():
            same(row[field], array(image[entry]))
        height, width = (image.get(k, image.get(k.replace("image", "img")))
                         for k in ("image_h", "image_w"))  # fmt: skip
        if height is not None:
            np.testing.assert_array_equal(row["size"], [height, width])


@pytest.mark.parametrize("source", [p[0] for p in PLAIN if p[0].endswith(".tsv")])
def test_a_folder_of_parts_is_one_source(tmp_path: Path, source: str) -> None:
    lines = (ROOT / source).read_bytes().splitlines(keepends=True)
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, line in enumerate(lines):
        (parts / f"features.tsv.{number}").write_bytes(line)
    (parts / "README").write_text("not a part\n")
    import_store(parts, tmp_path / "store")
    assert len(open_store(tmp_path / "store")) == len(lines)


def test_a_damaged_file_keeps_its_sound_rows_and_names_the_others(tmp_path: Path) -> None:
    source = "butd_tsv/damaged_dup_and_truncated.tsv"
    wanted = EXPECTED[source]
    report = import_store(ROOT / source, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert sorted(store.ids) == sorted(str(i) for i in wanted["good_ids"])
    sound = EXPECTED["butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv"]["images"]
    for image in sound[:2]:
        same(store.read(str(image["image_id"]))["region"], array(image["features"]))
    torn = store.outcome("1000268201")
    assert torn is not None
    assert (torn.status, torn.reason) == ("failed", "truncated")
    assert report.problems == {"duplicate": len(wanted["duplicate_ids"])}
    assert report.outcomes["failed"] == {"truncated": wanted["truncated_rows"]}
    noted = json.loads((tmp_path / "store" / "import.json").read_text())
    assert noted["problems"][0][:3] == ["duplicate", "damaged_dup_and_truncated.tsv:3", "9"]
    assert noted["failed"]["1000268201"][1] == "damaged_dup_and_truncated.tsv:4"


def test_a_torn_row_is_replaced_by_a_later_sound_one(tmp_path: Path) -> None:
    lines = (ROOT / PLAIN[0][0]).read_bytes().splitlines(keepends=True)
    source = tmp_path / "resumed.tsv"
    source.write_bytes(lines[0][:200] + b"\r\n" + lines[1] + lines[0])
    report = import_store(source, tmp_path / "store")
    assert report.ok == 2
    assert report.problems == {"damaged": 1}
    image = EXPECTED[PLAIN[0][0]]["images"][0]
    same(open_store(tmp_path / "store").read("9")["region"], array(image["features"]))


def test_a_header_and_quotes_of_a_rewriter_are_no_harm(tmp_path: Path) -> None:
    lines = (ROOT / PLAIN[0][0]).read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    quoted = ["\t".join([*c[:4], f"b'{c[4]}'", f"b'{c[5]}'"]) for c in cells]
    source = tmp_path / "rewritten.tsv"
    header = "\t".join(EXPECTED[PLAIN[0][0]]["columns"])
    source.write_text("\n".join([header, *quoted]) + "\n")
    report = import_store(source, tmp_path / "store")
    assert (report.layout, report.ok, report.problems) == ("butd_tsv", 3, {})


def test_class_names_become_numbers_with_a_table(tmp_path: Path) -> None:
    store = load(tmp_path, "vinvl_released")
    for image in EXPECTED["vinvl_released"]["images"]:
        found = store.read(image["key"])["classes"]
        assert names(store, "classes", found) == image["classes"]


def test_attributes_of_objects_become_numbers_with_a_table(tmp_path: Path) -> None:
    store = load(tmp_path, "vinvl_sgb_predictions")
    for image in EXPECTED["vinvl_sgb_predictions"]["images"]:
        row = store.read(image["key"])
        assert names(store, "classes", row["classes"]) == image["classes"]
        found = [names(store, "attributes", per_box) for per_box in row["attributes"]]
        assert found == image["attributes"]
        np.testing.assert_array_equal(row["attribute_scores"], [[0.5, 0.25]] * len(found))


def test_the_geometric_tail_gives_boxes_where_nothing_else_does(tmp_path: Path) -> None:
    store = load(tmp_path, "vinvl_oscar_caption")
    truth = EXPECTED["vinvl_released"]["images"]
    for image, true in zip(EXPECTED["vinvl_oscar_caption"]["images"], truth, strict=True):
        row = store.read(image["key"])
        np.testing.assert_allclose(row["boxes"], array(true["boxes"]), atol=1e-4)
        assert names(store, "labels", row["labels"]) == image["label_classes"]
        assert len(row["labels"]) == image["num_labels"]


def test_float16_is_recognised_by_its_geometry(tmp_path: Path) -> None:
    source = "vinvl_oscar_caption/test_f16.feature.tsv"
    store = load(tmp_path, source)
    assert store.spec.config["boxes"] == "relative"
    for image in EXPECTED[source]["images"]:
        raw = array(image["raw"])
        row = store.read(image["key"])
        same(row["region"], raw[:, :-6])
        same(row["boxes"], raw[:, -6:-2])


def test_vinvl_without_predictions_has_relative_boxes(tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "features.tsv").write_bytes((ROOT / "vinvl_released/features.tsv").read_bytes())
    import_store(folder, tmp_path / "store")
    store = open_store(tmp_path / "store")
    for image in EXPECTED["vinvl_released"]["images"]:
        same(store.read(image["key"])["boxes"], array(image["spatial"])[:, :4])


def test_hin_keeps_an_image_whose_boxes_are_empty(tmp_path: Path) -> None:
    source = "hdf5_hin_vinvl/COCO2014_VinVL.hdf5"
    assert find_layout(ROOT / source) == "hin"
    store = load(tmp_path, source)
    for image in EXPECTED[source]["images"]:
        row = store.read(str(image["image_id"]))
        same(row["region"], array(image["features"]))
        same(row["size"], array(image["size"]))
        same(row["scores"], array(image["cls_prob"]))
        boxes = array(image["boxes"])
        same(row["boxes"], boxes if boxes.size else np.empty((0, 4)))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_milvlg_info_is_read_on_request_only(tmp_path: Path, allow_pickle: bool) -> None:
    store = load(tmp_path, "milvlg_npz", allow_pickle=allow_pickle)
    for image in EXPECTED["milvlg_npz"]["images"]:
        row = store.read(image["file"].removesuffix(".npz"))
        same(row["region"], array(image["x"]))
        same(row["boxes"], array(image["bbox"]))
        np.testing.assert_array_equal(row["size"], [image["image_h"], image["image_w"]])
        info = {
            "classes": "objects_id",
            "scores": "objects_conf",
            "attributes": "attrs_id",
            "attribute_scores": "attrs_conf",
        }
        assert (info.keys() <= row.keys()) == allow_pickle
        for field, entry in info.items() if allow_pickle else ():
            same(row[field], array(image["info"][entry]))


def test_milvlg_boxes_alone_are_no_region_features(tmp_path: Path) -> None:
    store = load(tmp_path, "milvlg_npz_bbox_only")
    assert store.spec.field_of("region") is None
    found = store.read("COCO_train2014_000000000009")["boxes"]
    same(found, array(EXPECTED["milvlg_npz_bbox_only"]["bbox"]))


def test_milvlg_of_detectron_mode(tmp_path: Path) -> None:
    store = load(tmp_path, "milvlg_npz_d2mode", allow_pickle=True)
    row = store.read("COCO_train2014_000000000009")
    same(row["region"], array(EXPECTED["milvlg_npz_d2mode"]["x"]))
    same(row["boxes"], array(EXPECTED["milvlg_npz_d2mode"]["bbox"]))
    assert row["cls_prob"].shape == (4, 7)


def test_a_grid_keeps_its_two_axes_in_the_spec(tmp_path: Path) -> None:
    store = load(tmp_path, "selfcritical_grid")
    wanted = EXPECTED["selfcritical_grid"]["images"][0]
    row = store.read("9")
    grid = array(wanted["att"])
    same(row["grid"], grid.reshape(-1, grid.shape[-1]))
    same(row["global"], array(wanted["fc"]))
    assert store.spec.config["grid"] == [2, 3]


def test_relative_boxes_are_kept_beside_pixel_boxes(tmp_path: Path) -> None:
    store = load(tmp_path, "selfcritical")
    for image in EXPECTED["selfcritical/cocobu_box_relative"]["images"]:
        same(store.read(str(image["image_id"]))["boxes_relative"], array(image["box"]))


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_storage_can_be_narrowed(tmp_path: Path, format: str) -> None:
    store = load(tmp_path, PLAIN[0][0], dtype="float16", container=format)
    image = EXPECTED[PLAIN[0][0]]["images"][0]
    row = store.read("9")
    same(row["region"], array(image["features"]).astype(np.float16))
    same(row["boxes"], array(image["boxes"]))


def test_the_digest_is_the_identity_and_the_place_is_not(tmp_path: Path) -> None:
    first = load(tmp_path, PLAIN[0][0]).spec
    other = tmp_path / "elsewhere"
    other.mkdir()
    copy = other / Path(PLAIN[0][0]).name
    copy.write_bytes((ROOT / PLAIN[0][0]).read_bytes())
    import_store(copy, other / "store")
    assert open_store(other / "store").spec.fingerprint == first.fingerprint
    copy.write_bytes(copy.read_bytes() + copy.read_bytes())
    import_store(copy, other / "changed")
    assert open_store(other / "changed").spec.fingerprint != first.fingerprint
