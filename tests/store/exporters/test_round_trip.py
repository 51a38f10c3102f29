"""Stores leave in other projects' formats and come back with the same arrays."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from precap.errors import ConfigError, DataError
from precap.store import plan, writer
from precap.store.exporters.run import export
from precap.store.importers.run import find_layout, import_store
from precap.store.reader import Store, open_store
from precap.types import Features, FeatureSpec, Field, Outcome

ROOT = Path(__file__).parents[2] / "golden" / "regions"


def make(path: Path, fields: tuple[Field, ...], rows: dict[str, Features], **spec: Any) -> Store:
    identity = FeatureSpec("test", 1, "none", fields, **spec)
    writer.create(path, identity)
    plan.extend(path, [*rows, "gone"], shard_size=2)
    with writer.Writer(path) as store:
        for shard in store.remaining():
            ids = store.ids(shard)
            outcomes = [
                Outcome(i, "ok") if i in rows else Outcome(i, "failed", "torn") for i in ids
            ]
            store.commit(shard, outcomes, {i: rows[i] for i in ids if i in rows})
    return open_store(path)


def grit(path: Path, count: int = 5, **options: Any) -> Store:
    rng = np.random.default_rng(1)
    fields = (
        Field("grid", "grid", (6, 4)),
        Field("mask", "mask", (6,), "bool"),
        Field("region", "region", (3, 5)),
    )
    rows = {
        str(image): {
            "grid": rng.random((6, 4), np.float32),
            "mask": rng.random(6) > 0.3,
            "region": rng.random((3, 5), np.float32),
        }
        for image in rng.permutation(10**6)[:count].tolist()
    }
    return make(path, fields, rows, **options)


def ragged(path: Path, images: int = 7, dtype: str = "float32", **options: Any) -> Store:
    rng = np.random.default_rng(2)
    fields = (
        Field("region", "region", (None, 5), dtype),
        Field("boxes", "boxes", (None, 4)),
        Field("pooled", "global", (5,)),
    )
    rows = {}
    for image in range(images):
        count = image % 4
        rows[f"image {image}"] = {
            "region": rng.random((count, 5), np.float32),
            "boxes": rng.random((count, 4), np.float32) * 100,
            "pooled": rng.random(5, np.float32),
        }
    return make(path, fields, rows, **options)


def same(a: Store, b: Store, fields: dict[str, str] | None = None) -> None:
    assert sorted(a.ids) == sorted(b.ids)
    for image in a.ids:
        have, want = b.read(image), a.read(image)
        for name in fields or want:
            found = have[(fields or {}).get(name, name)]
            np.testing.assert_array_equal(found, want[name], strict=True)


BACK = [
    ("hdf5_m2/coco_detections.hdf5", "m2", "m2"),
    ("hdf5_hin_vinvl/COCO2014_VinVL.hdf5", "hin", "hin"),
    ("hdf5_hin_clip/COCO2014_ViT-L-14.hdf5", "hin_clip", "hin_clip"),
    ("vinvl_released", "hin", "hin"),
    ("butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv", "hin", "hin"),
    ("xmodaler_npz", "m2", "m2"),
    ("selfcritical", "selfcritical", "selfcritical"),
    ("selfcritical_grid", "selfcritical", "selfcritical"),
]


@pytest.mark.parametrize(("source", "format", "layout"), BACK)
def test_what_is_exported_imports_again(
    tmp_path: Path, source: str, format: str, layout: str
) -> None:
    import_store(ROOT / source, tmp_path / "store")
    store = open_store(tmp_path / "store")
    report = export(tmp_path / "store", tmp_path / "out", format=format)
    assert report.images == len(store)
    assert find_layout(tmp_path / "out") == layout
    import_store(tmp_path / "out", tmp_path / "again")
    again = open_store(tmp_path / "again")
    lost = {"classes", "size"} if format == "m2" else {"classes"}
    same(store, again, {f.name: f.name for f in store.spec.fields if f.name not in lost})


@pytest.mark.parametrize(
    "source", ["hdf5_m2/coco_detections.hdf5", "hdf5_hin_vinvl/COCO2014_VinVL.hdf5"]
)
def test_the_exported_file_is_the_imported_one(tmp_path: Path, source: str) -> None:
    format = "m2" if "m2" in source else "hin"
    import_store(ROOT / source, tmp_path / "store")
    export(tmp_path / "store", tmp_path / "out.hdf5", format=format)
    with h5py.File(ROOT / source) as a, h5py.File(tmp_path / "out.hdf5") as b:
        assert sorted(a) == sorted(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name][...].reshape(b[name].shape), b[name][...])


@pytest.mark.parametrize("store_format", ["hdf5", "zarr"])
def test_grit_goes_out_and_comes_back(tmp_path: Path, store_format: str) -> None:
    store = grit(tmp_path / "store")
    export(tmp_path / "store", tmp_path / "all_splits.h5", format="grit")
    with h5py.File(tmp_path / "all_splits.h5") as file:
        numbers = file["image_ids"][...]
        assert numbers.tolist() == sorted(int(image) for image in store.ids)
        assert {n: (d.shape[1:], d.dtype.name) for n, d in file.items() if n != "image_ids"} == {
            "gri_feat": ((6, 4), "float32"),
            "gri_mask": ((1, 1, 6), "bool"),
            "reg_feat": ((3, 5), "float32"),
            "reg_mask": ((1, 1, 3), "bool"),
        }
        for row, number in enumerate(numbers.tolist()):
            wanted = store.read(str(number))
            np.testing.assert_array_equal(file["gri_mask"][row, 0, 0], ~wanted["mask"])
        assert not file["reg_mask"][...].any()
    assert find_layout(tmp_path / "all_splits.h5") == "grit"
    import_store(tmp_path / "all_splits.h5", tmp_path / "again", container=store_format)
    same(store, open_store(tmp_path / "again"))


def test_grit_rows_beyond_the_ids_are_padding_and_missing_rows_are_told(tmp_path: Path) -> None:
    for name, ids in {"padded": [3, 5], "short": [3, 5, 8, 9, 11]}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image_ids"] = np.array(ids)
            file["gri_feat"] = np.arange(4 * 6 * 2, dtype="f4").reshape(4, 6, 2)
            file["gri_mask"] = np.zeros((4, 1, 1, 6), bool)
    padded = import_store(tmp_path / "padded.h5", tmp_path / "a")
    assert (padded.ok, padded.problems) == (2, {"padding-rows": 1})
    short = import_store(tmp_path / "short.h5", tmp_path / "b")
    assert (short.ok, short.outcomes["failed"]) == (4, {"truncated": 1})
    row = open_store(tmp_path / "a").read("5")
    np.testing.assert_array_equal(row["grid"], np.arange(12, 24).reshape(6, 2))
    assert row["mask"].all()


def check_columns(store: Store, ids: list[str], arrays: Any) -> None:
    assert ids == list(store.ids)
    for number, image in enumerate(ids):
        for field in store.spec.fields:
            wanted = store.read(image)[field.name]
            start, stop = number, number + 1
            if field.ragged:
                start, stop = arrays[f"{field.name}_offsets"][number : number + 2]
            found: NDArray[Any] = np.asarray(arrays[field.name][start:stop])
            np.testing.assert_array_equal(found if field.ragged else found[0], wanted, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_one_file_holds_every_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, tiny: bool, dtype: str
) -> None:
    if tiny:  # several chunks, and several flushes that do not end on one
        monkeypatch.setattr("precap.store.exporters.columns.CHUNK_BYTES", 64)
        monkeypatch.setattr("precap.store.exporters.columns.BUFFER_BYTES", 100)
    store = ragged(tmp_path / "store", dtype=dtype)
    report = export(tmp_path / "store", tmp_path / "out", format=format)
    assert (report.images, report.left_out) == (7, {"failed torn": 1})
    if format == "hdf5":
        with h5py.File(tmp_path / "out") as file:
            check_columns(store, [i.decode() for i in file["ids"][...].tolist()], file)
            assert json.loads(file.attrs["spec"]) == store.spec.as_json()
    else:
        group = zarr.open_group(str(tmp_path / "out"), mode="r")
        check_columns(store, group.attrs["ids"], group)  # type: ignore[arg-type]


LAYOUTS = {"hdf5": "precap_h5", "zarr": "precap_zarr"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_our_own_exports_come_back_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, tiny: bool, dtype: str
) -> None:
    if tiny:
        monkeypatch.setattr("precap.store.exporters.columns.CHUNK_BYTES", 64)
        monkeypatch.setattr("precap.store.exporters.columns.BUFFER_BYTES", 100)
    store = ragged(tmp_path / "store", dtype=dtype, config={"boxes": "pixels"})
    export(tmp_path / "store", tmp_path / "out", format=format)
    assert find_layout(tmp_path / "out") == LAYOUTS[format]
    report = import_store(tmp_path / "out", tmp_path / "again")
    again = open_store(tmp_path / "again")
    assert (report.ok, report.images, report.problems) == (7, 7, {})
    assert list(again.ids) == list(store.ids)
    same(store, again)
    kept = again.spec.config
    assert kept["boxes"] == "pixels"
    assert kept["exported"]["fingerprint"] == store.spec.fingerprint


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_ids_that_are_paths_and_names_of_other_layouts_come_back(
    tmp_path: Path, format: str
) -> None:
    fields = (Field("all_features", "grid", (2, 3)), Field("all_global", "global", (3,)))
    row = {"all_features": np.ones((2, 3), np.float32), "all_global": np.ones(3, np.float32)}
    store = make(tmp_path / "store", fields, {"val/1.jpg": row, "../x": row})
    export(tmp_path / "store", tmp_path / "out", format=format)
    assert find_layout(tmp_path / "out") == LAYOUTS[format]
    import_store(tmp_path / "out", tmp_path / "again")
    same(store, open_store(tmp_path / "again"))


def test_damage_in_our_own_exports_is_recorded_and_never_read_as_zeros(tmp_path: Path) -> None:
    ragged(tmp_path / "store")
    export(tmp_path / "store", tmp_path / "zarr", format="zarr")
    export(tmp_path / "store", tmp_path / "cut", format="hdf5")
    (tmp_path / "zarr/pooled/c/0/0").unlink()
    lost = import_store(tmp_path / "zarr", tmp_path / "a")
    assert (lost.ok, lost.outcomes["failed"]) == (0, {"damaged": 7})
    with h5py.File(tmp_path / "cut", "a") as file:
        file["pooled"].resize((5, 5))
        file["region_offsets"][1] = 99
    cut = import_store(tmp_path / "cut", tmp_path / "b")
    assert (cut.ok, cut.outcomes["failed"]) == (3, {"truncated": 3, "wrong-size": 1})
    with h5py.File(tmp_path / "cut", "a") as file:
        file.attrs["spec"] = "{}"
    with pytest.raises(DataError, match="no layout"):
        find_layout(tmp_path / "cut")
    with pytest.raises(DataError, match="spec cannot be read"):
        import_store(tmp_path / "cut", tmp_path / "c", format="precap_h5")


def test_fc_is_the_mean_where_there_is_no_global_feature(tmp_path: Path) -> None:
    import_store(ROOT / "hdf5_m2/coco_detections.hdf5", tmp_path / "store")
    export(tmp_path / "store", tmp_path / "out", format="selfcritical")
    rows = open_store(tmp_path / "store").read("9")["region"]
    found = np.load(tmp_path / "out" / "features_fc" / "9.npy")
    np.testing.assert_allclose(found, rows.mean(0), rtol=1e-6)
    with np.load(tmp_path / "out" / "features_att" / "9.npz") as archive:
        np.testing.assert_array_equal(archive["feat"], rows)


def test_one_view_is_exported(tmp_path: Path) -> None:
    fields = (Field("grid", "grid", (2, 3)),)
    views = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    make(tmp_path / "store", fields, {"9": {"grid": views}}, views=2)
    export(tmp_path / "store", tmp_path / "out.h5", format="m2", view=1)
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["9_features"][...], views[1])


def test_chosen_ids_in_the_chosen_order(tmp_path: Path) -> None:
    store = ragged(tmp_path / "store")
    export(tmp_path / "store", tmp_path / "out", format="hdf5", ids=["image 3", "image 1"])
    with h5py.File(tmp_path / "out") as file:
        assert [i.decode() for i in file["ids"][...].tolist()] == ["image 3", "image 1"]
        assert file["region_offsets"][...].tolist() == [0, 3, 4]
        np.testing.assert_array_equal(file["pooled"][1], store.read("image 1")["pooled"])


REFUSED = [
    (ragged, "grit", "needs grid"),
    (ragged, "hin_clip", "needs grid"),
    (grit, "nosuch", "no format 'nosuch'"),
]


@pytest.mark.parametrize(("store", "format", "message"), REFUSED)
def test_a_format_that_cannot_hold_the_store_is_refused(
    tmp_path: Path, store: Any, format: str, message: str
) -> None:
    store(tmp_path / "store")
    with pytest.raises(ConfigError, match=message):
        export(tmp_path / "store", tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["m2", "hin", "selfcritical"])
@pytest.mark.parametrize("image", ["../../escaped", "a/b", "..", "/etc/x"])
def test_no_id_becomes_a_path(tmp_path: Path, format: str, image: str) -> None:
    fields = (Field("region", "region", (None, 2)),)
    make(tmp_path / "store", fields, {image: {"region": np.ones((1, 2), np.float32)}})
    with pytest.raises(DataError, match="cannot be one"):
        export(tmp_path / "store", tmp_path / "out", format=format)
    assert not list(tmp_path.rglob("*escaped*"))


def test_grit_refuses_regions_that_differ_in_number(tmp_path: Path) -> None:
    fields = (Field("grid", "grid", (1, 2)), Field("region", "region", (None, 2)))
    one = np.ones((1, 2), np.float32)
    make(tmp_path / "store", fields, {"9": {"grid": one, "region": one}})
    with pytest.raises(ConfigError, match="differs per image"):
        export(tmp_path / "store", tmp_path / "out", format="grit")


def test_grit_wants_whole_numbers(tmp_path: Path) -> None:
    fields = (Field("grid", "grid", (1, 2)), Field("region", "region", (1, 2)))
    one = np.ones((1, 2), np.float32)
    for name, ids in {"words": ["dog"], "twice": ["9", "09"], "huge": ["9" * 40]}.items():
        make(tmp_path / name, fields, {i: {"grid": one, "region": one} for i in ids})
        with pytest.raises(DataError, match="number"):
            export(tmp_path / name, tmp_path / "out", format="grit")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    fields = (Field("region", "region", (None, 2)),)
    rows = {"1": np.ones((1, 2), np.float32), "2": np.empty((0, 2), np.float32)}
    make(tmp_path / "store", fields, {image: {"region": row} for image, row in rows.items()})
    with pytest.raises(DataError, match="has no rows"):
        export(tmp_path / "store", tmp_path / "out", format="selfcritical")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    ragged(tmp_path / "store")
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        export(tmp_path / "store", tmp_path / "out", format="hdf5")
    assert (tmp_path / "out").read_text() == "precious"


def test_m2_is_told_about_ids_that_are_no_numbers(tmp_path: Path) -> None:
    ragged(tmp_path / "store")
    report = export(tmp_path / "store", tmp_path / "out", format="m2")
    assert report.notes
    assert report.notes[0] in str(report)
