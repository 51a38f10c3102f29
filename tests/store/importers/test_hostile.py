"""Hostile and damaged sources: refused or recorded with a reason, never a crash."""

import base64
import errno
import io
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from precap import plugins
from precap.errors import ConfigError, DataError, PrecapError, ResourceError
from precap.store.importers import layouts
from precap.store.importers.run import Report, find_layout, import_store
from precap.store.reader import open_store

#: No hostile file here is larger than a few MB, so nothing may allocate more than this.
ALLOWED = 192 << 20


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ALLOWED


def b64(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def butd(image: str = "9", n: Any = 2, features: Any = None, boxes: Any = None, **size: Any) -> str:
    features = b64(np.ones((2, 4), "f4")) if features is None else features
    boxes = b64(np.ones((2, 4), "f4")) if boxes is None else boxes
    cells = [image, size.get("w", 640), size.get("h", 480), n, boxes, features]
    return "\t".join(map(str, cells))


GOOD = butd("1")


def load(tmp_path: Path, text: str | bytes, **options: Any) -> Report:
    source = tmp_path / "source.tsv"
    source.write_bytes(text.encode() if isinstance(text, str) else text)
    return import_store(source, tmp_path / "store", **options)


ROWS = {
    "a-million-million-boxes": (butd(n=10**12), "wrong-size"),
    "twenty-digits-of-boxes": (butd(n=10**20), "not-a-number"),
    "minus-one-box": (butd(n=-1), "not-a-number"),
    "boxes-in-words": (butd(n="two"), "not-a-number"),
    "arabic-digits": (butd(n="٢"), "not-a-number"),
    "a-float": (butd(n="2.0"), "not-a-number"),
    "three-boxes-said": (butd(n=3), "wrong-size"),
    "no-boxes-said": (butd(n=0), "wrong-size"),
    "torn-base64": (butd(features=b64(np.ones((2, 4), "f4"))[:-5]), "damaged"),
    "half-the-features": (butd(features=b64(np.ones((1, 4), "f4"))), "wrong-size"),
    "other-width": (butd(features=b64(np.ones((2, 6), "f4"))), "wrong-size"),
    "not-base64": (butd(features="<html>!" + b64(np.ones((2, 4), "f4"))[7:]), "damaged"),
    "nul-bytes": (butd(features="\0" * 43 + "="), "damaged"),
    "nan": (butd(features=b64(np.full((2, 4), np.nan, "f4"))), "non-finite"),
    "infinity": (butd(features=b64(np.full((2, 4), np.inf, "f4"))), "non-finite"),
    "nan-box": (butd(boxes=b64(np.full((2, 4), np.nan, "f4"))), "non-finite"),
    "no-width": (butd(w=0), "bad-size"),
    "a-width-of-light-years": (butd(w=10**11), "bad-size"),
    "seven-columns": (butd() + "\tmore", "wrong-columns"),
    "five-columns": (butd().rsplit("\t", 1)[0], "wrong-columns"),
    "one-column": ("9", "wrong-columns"),
}


@pytest.mark.parametrize(("row", "reason"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_fails_alone_and_says_why(tmp_path: Path, row: str, reason: str) -> None:
    report = load(tmp_path, f"{GOOD}\n{row}\n{butd('2')}\n")
    store = open_store(tmp_path / "store")
    assert list(store.ids) == ["1", "2"]
    outcome = store.outcome("9")
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("failed", reason)
    assert report.outcomes["failed"] == {reason: 1}


@pytest.mark.parametrize(
    "image",
    ["../../etc/passwd", "..", "/etc/passwd", "a/b", "a\\b", "C:x", ".hidden", "", "x" * 201,
     "a\x00b", "a\x1bb", "a\u202eb", "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_an_id_that_is_a_path_or_unprintable_is_no_id(tmp_path: Path, image: str) -> None:
    text = f"{GOOD}\n".encode() + butd(image).encode("utf-8", "surrogatepass") + b"\n"
    report = load(tmp_path, text)
    assert list(open_store(tmp_path / "store").ids) == ["1"]
    assert report.images == 1
    assert report.problems == {"bad-id": 1}
    json.loads((tmp_path / "store" / "import.json").read_text())


def test_a_line_longer_than_any_row_is_skipped_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precap.store.importers.tsv.MAX_LINE", 4096)
    report = load(tmp_path, f"{GOOD}\n{butd(features='A' * 100_000)}\n{butd('2')}\n")
    assert list(open_store(tmp_path / "store").ids) == ["1", "2"]
    assert report.problems == {"bad-id": 1}  # not even its id is read


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n\n", b"<html><body>404 Not Found</body></html>\n", b"\x00" * 4096,
     bytes(range(256)) * 64, b"\x89HDF\r\n\x1a\n" + b"\0" * 100, b"PK\x03\x04" + b"\0" * 100,
     b"\x80\x04K\x01."],
    ids=["empty", "blank", "html", "zeros", "noise", "hdf5-cut", "zip-cut", "pickle"],
)  # fmt: skip
def test_what_is_no_feature_file_is_refused(tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "features.hdf5"
    source.write_bytes(data)
    with pytest.raises(PrecapError) as caught:
        import_store(source, tmp_path / "store", allow_pickle=True)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_missing_source_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no"):
        find_layout(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", plugins.names(layouts))
@pytest.mark.parametrize("kind", ["text", "folder"])
def test_a_layout_named_wrongly_is_refused(tmp_path: Path, layout: str, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "folder":
        source.mkdir()
    else:
        source.write_text("nothing\tof\tthe kind\n")
    with pytest.raises((DataError, ConfigError)):
        import_store(source, tmp_path / "store", format=layout, allow_pickle=True)
    assert not (tmp_path / "store").exists()


def packed(n: int = 2, **changes: Any) -> dict[str, Any]:
    rows = np.ones((n, 10), "f4")
    rows[:, 4:] = [0.1, 0.2, 0.4, 0.6, 0.3, 0.4]
    return {"num_boxes": n, "features": b64(rows), **changes}


OSCAR = {
    "absurd": (packed(num_boxes=10**12), "wrong-size"),
    "negative": (packed(num_boxes=-2), "wrong-size"),
    "text": (packed(num_boxes="2"), "wrong-size"),
    "true": (packed(num_boxes=True), "wrong-size"),
    "not-ascii": (packed(features="é" * 40), "damaged"),
    "list": ([1, 2], "wrong-size"),
    "no-geometry": (packed(features=b64(np.full((2, 10), 7, "f4"))), "bad-geometry"),
    "nan": (packed(features=b64(np.full((2, 10), np.nan, "f4"))), "bad-geometry"),
}


@pytest.mark.parametrize(("cell", "reason"), OSCAR.values(), ids=OSCAR.keys())
def test_a_bad_json_cell_fails_alone(tmp_path: Path, cell: Any, reason: str) -> None:
    lines = [f"{key}\t{json.dumps(value)}" for key, value in [("1", packed()), ("9", cell)]]
    report = load(tmp_path, "\n".join([*lines, ""]), format="vinvl_oscar")
    assert report.outcomes["failed"] == {reason: 1}
    assert list(open_store(tmp_path / "store").ids) == ["1"]


@pytest.mark.parametrize("cell", ["[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "{", "nan"])
def test_json_bombs_are_recorded(tmp_path: Path, cell: str) -> None:
    text = f"1\t{json.dumps(packed())}\n9\t{cell}\n"
    report = load(tmp_path, text, format="vinvl_oscar")
    assert sum(report.outcomes["failed"].values()) == 1


def sgb(**changes: Any) -> dict[str, Any]:
    item = {
        "rect": [1, 2, 3, 4], "class": "dog", "conf": 0.5, "feature": b64(np.ones(8, "f4")),
        "attributes": ["red"], "attr_scores": [0.5],
    }  # fmt: skip
    return {"objects": [{**item, **changes}]}


OBJECTS = {
    "rect-of-three": sgb(rect=[1, 2, 3]),
    "rect-of-words": sgb(rect=["a", "b", "c", "d"]),
    "rect-missing": {"objects": [{"feature": b64(np.ones(8, "f4")), "class": "dog"}]},
    "class-is-a-list": sgb(**{"class": ["dog"]}),
    "class-is-a-novel": sgb(**{"class": "dog" * 1000}),
    "conf-is-null": sgb(conf=None),
    "conf-is-nan": sgb(conf=float("nan")),
    "conf-is-huge": sgb(conf=10**400),
    "feature-is-a-number": sgb(feature=1),
    "feature-is-short": sgb(feature=b64(np.ones(4, "f4"))),
    "feature-is-no-base64": sgb(feature="~" * 44),
    "attributes-are-a-number": sgb(attributes=3),
    "thousands-of-attributes": sgb(attributes=["red"] * 5000),
    "attr-scores-are-words": sgb(attr_scores=["a"]),
    "objects-are-words": {"objects": ["dog"]},
    "no-objects": {},
}


@pytest.mark.parametrize("cell", OBJECTS.values(), ids=OBJECTS.keys())
def test_bad_objects_fail_alone(tmp_path: Path, cell: Any) -> None:
    text = f"1\t{json.dumps(sgb())}\n9\t{json.dumps(cell)}\n"
    report = load(tmp_path, text, format="vinvl_sgb")
    assert sum(report.outcomes["failed"].values()) == 1
    assert list(open_store(tmp_path / "store").ids) == ["1"]


def test_endless_class_names_are_refused(tmp_path: Path) -> None:
    rows = (f"{n}\t{json.dumps(sgb(**{'class': f'class {n}'}))}\n" for n in range(20_002))
    with pytest.raises(DataError, match="not classes"):
        load(tmp_path, "".join(rows), format="vinvl_sgb")


def test_a_yaml_file_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "secret.tsv").write_text(f"1\t{json.dumps(packed())}\n")
    (folder / "test.yaml").write_text("feature: ../secret.tsv\n")
    with pytest.raises(DataError, match="no file in that folder"):
        import_store(folder, tmp_path / "store", format="vinvl_oscar")


def hdf5(path: Path, **extra: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in {"1_features": np.ones((2, 4), "f4"), **extra}.items():
            if value is not None:
                file[name] = value
    return path


def test_hdf5_is_never_followed_out_of_its_file(tmp_path: Path) -> None:
    hdf5(tmp_path / "secret.h5", data=np.ones((2, 4), "f4"))
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(64))
    source = hdf5(
        tmp_path / "source.h5",
        **{
            "2_features": h5py.ExternalLink(tmp_path / "secret.h5", "/data"),
            "3_features": h5py.SoftLink("/1_features"),
        },
    )
    with h5py.File(source, "a") as file:
        file.create_dataset("4_features", (2, 4), "f4", external=[(str(raw), 0, 64)])
        virtual = h5py.VirtualLayout((2, 4), "f4")
        virtual[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", (2, 4))
        file.create_virtual_dataset("5_features", virtual)
    report = import_store(source, tmp_path / "store")
    assert list(open_store(tmp_path / "store").ids) == ["1"]
    assert report.outcomes["failed"] == {"foreign-link": 4}


def test_hdf5_arrays_are_measured_before_they_are_read(tmp_path: Path) -> None:
    source = hdf5(tmp_path / "source.h5")
    with h5py.File(source, "a") as file:
        file.create_dataset("2_features", (10**12, 4), "f4", chunks=(1024, 4))
        file["3_features"] = np.array([b"text"])
        file["4_features"] = h5py.Empty("f4")
        file.create_group("5_features")
        file["6_features"] = np.full((2, 4), np.nan, "f4")
        file["7_features"] = np.ones((2, 5), "f4")
        file["8_features"] = np.ones(4, "f4")
        file["9_features"] = np.array([[("a", 1)]], dtype=[("x", "S1"), ("y", "i4")])
        file["other"] = 1
    report = import_store(source, tmp_path / "store")
    assert list(open_store(tmp_path / "store").ids) == ["1"]
    assert report.outcomes["failed"] == {
        "too-large": 1, "not-numbers": 2, "not-an-array": 2, "non-finite": 1, "wrong-shape": 2,
    }  # fmt: skip
    assert report.problems == {"unknown-key": 1}


def test_a_cut_hdf5_is_refused(tmp_path: Path) -> None:
    source = hdf5(tmp_path / "source.h5", **{"2_features": np.ones((2000, 4), "f4")})
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(DataError, match="broken download"):
        import_store(source, tmp_path / "store", format="m2")


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('the bomb went off')",)


NPZ = {
    "absurd-shape": (header("(1000000000000, 4)") + bytes(32), "too-large"),
    "negative-shape": (header("(-2, 4)") + bytes(32), "truncated"),
    "cut": (saved(np.ones((2, 4), "f4"))[:-8], "truncated"),
    "too-long": (saved(np.ones((2, 4), "f4")) + b"more", "truncated"),
    "code-in-the-header": (header("__import__('os').system('true')"), "damaged"),
    "no-header": (b"nothing", "damaged"),
    "a-bomb": (saved(np.array(Bomb(), dtype=object)), "pickled"),
    "an-object": (saved(np.array({"a": 1}, dtype=object)), "pickled"),
    "text": (saved(np.array(["a", "b"])), "not-numbers"),
    "nan": (saved(np.full((2, 4), np.nan, "f4")), "non-finite"),
    "integers": (saved(np.ones((2, 4), "i8")), "wrong-shape"),
    "a-bomb-of-zeros": (header("(100000000, 4)") + bytes(80 << 20), "too-large"),
}


@pytest.mark.parametrize(("data", "reason"), NPZ.values(), ids=NPZ.keys())
def test_a_bad_npz_fails_alone(tmp_path: Path, data: bytes, reason: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    npz(folder / "1.npz", features=saved(np.ones((2, 4), "f4")))
    npz(folder / "9.npz", features=data)
    report = import_store(folder, tmp_path / "store", allow_pickle=True)
    assert report.outcomes["failed"] == {reason: 1}
    store = open_store(tmp_path / "store")
    assert list(store.ids) == ["1"]
    assert "--allow-pickle" not in store.absent["9"].detail  # it was said, and would not help


def test_members_with_path_names_are_never_extracted(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    npz(folder / "1.npz", features=saved(np.ones((2, 4), "f4")), **{"../../escaped": b"x"})
    (folder / "2.npz").write_bytes(b"PK\x03\x04 torn")
    report = import_store(folder, tmp_path / "store")
    assert report.outcomes["failed"] == {"damaged": 1}
    assert not [p for p in tmp_path.rglob("*escaped*")]


def test_a_bomb_in_milvlg_info_is_not_opened_unasked_and_does_nothing_asked(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    plain = {"x": saved(np.ones((2, 4), "f4")), "bbox": saved(np.ones((2, 4), "f4")),
             "num_bbox": saved(2), "image_h": saved(480), "image_w": saved(640)}  # fmt: skip
    npz(folder / "1.npz", **plain, info=saved(np.array({}, dtype=object)))
    npz(folder / "9.npz", **plain, info=saved(np.array(Bomb(), dtype=object)))
    assert import_store(folder, tmp_path / "unasked").ok == 2
    asked = import_store(folder, tmp_path / "asked", allow_pickle=True)
    assert asked.outcomes["failed"] == {"pickled": 1}


def test_features_too_large_for_float16_fail_alone(tmp_path: Path) -> None:
    big = butd("9", features=b64(np.full((2, 4), 1e6, "f4")))
    report = load(tmp_path, f"{GOOD}\n{big}\n", dtype="float16")
    assert report.outcomes["failed"] == {"overflow": 1}


def test_the_bomb_of_these_tests_is_real() -> None:
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(Bomb()))


SHAPES = {
    "m2": {"1_features": np.float32(1)},
    "m2-vector": {"1_features": np.ones(4, "f4")},
    "hin": {"1_features": np.float32(1), "1_size": np.int64(3)},
    "hin_clip": {"1_features": np.float32(1), "1_global": np.float32(1)},
    "grit": {"image_ids": np.array([1]), "gri_feat": np.float32(1)},
    "grit-vector": {"image_ids": np.array([1]), "gri_feat": np.ones(1, "f4")},
    "grit-words": {"image_ids": np.array([b"a"]), "gri_feat": np.ones((1, 2, 3), "f4")},
    "grit-table": {"image_ids": np.ones((2, 2), int), "gri_feat": np.ones((1, 2, 3), "f4")},
    "selfcritical_h5": {"1": np.float32(1)},
}


@pytest.mark.parametrize(("layout", "arrays"), SHAPES.items(), ids=SHAPES.keys())
def test_hdf5_of_unusable_shapes_is_refused(
    tmp_path: Path, layout: str, arrays: dict[str, Any]
) -> None:
    source = hdf5(tmp_path / "source.h5", **{"1_features": None, **arrays})
    with pytest.raises(DataError):
        import_store(source, tmp_path / "store", format=layout.partition("-")[0])
    assert not (tmp_path / "store").exists()


VINVL = {
    "fewer objects": ([{"rect": [64, 96, 256, 288], "class": "dog", "conf": 0.5}], 1),
    "no objects": ([], 1),
    "objects without a class": ([{"rect": [0, 0, 1, 1], "conf": 0.5}] * 2, 0),
    "objects without numbers": ([{"rect": "abcd", "class": "dog", "conf": 0.5}] * 2, 0),
}


@pytest.mark.parametrize(("objects", "ok"), VINVL.values(), ids=VINVL.keys())
def test_predictions_of_other_boxes_never_label_the_features(
    tmp_path: Path, objects: list[Any], ok: int
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = packed()
    names = [{"rect": [0, 0, 1, 1], "class": "cat", "conf": 0.5}] * 2
    size = {"image_h": 480, "image_w": 640}
    for key, found in {"1": names, "9": objects, "10": None}.items():
        with (folder / "features.tsv").open("a") as file:
            file.write(f"{key}\t2\t{rows['features']}\n")
        if found is not None:
            with (folder / "predictions.tsv").open("a") as file:
                file.write(f"{key}\t{json.dumps({'objects': found, **size})}\n")
    report = import_store(folder, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert report.ok == 1 + ok
    assert report.outcomes["failed"]["missing-predictions"] == 1
    if ok:  # boxes from the geometric tail; no class and no score: they describe other boxes
        row = store.read("9")
        np.testing.assert_allclose(row["boxes"], [[64, 96, 256, 288]] * 2, rtol=1e-5)
        assert len(row["classes"]) == len(row["scores"]) == 0


def test_a_machine_at_its_limit_fails_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    npz(folder / "1.npz", features=saved(np.ones((2, 4), "f4")))

    def exhausted(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(zipfile, "ZipFile", exhausted)
    with pytest.raises(ResourceError, match="too many open files"):
        import_store(folder, tmp_path / "store", format="xmodaler")
