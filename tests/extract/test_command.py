"""Every extractor of this folder through the command line, on real JPEGs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from precap.cli import app
from precap.extract import catalogue, runner
from precap.extract.recipe import store_name
from precap.store import plan, writer
from precap.store.reader import open_store
from precap.types import Field, Outcome
from tests.command import Precap
from tests.extract import edges
from tests.extract.conftest import write_photos
from tests.extract.test_extractors import BOXES, regions

NAMES = "clip:ViT-S-32-alt,grid:mobilenetv2_035,xvlm:64,tinyvit:5m"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture")
    call("data", "prepare", str(tmp_path / "photos"), "--out", str(tmp_path / "data"))
    return tmp_path / "data"


def call(*arguments: str, code: int = 0) -> str:
    """Run the command line; its standard output."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_all_image_extractors(dataset: Path, tmp_path: Path) -> None:
    options = ["--data", str(dataset), "--weights", "random:0", "--json", "--device", "cpu"]
    said = call("extract", NAMES, "--out", str(tmp_path / "features"), *options, code=3)
    reports = [json.loads(line) for line in said.splitlines()]
    assert [(r["ok"], r["failed"]) for r in reports] == [(3, 1)] * 4
    shapes = {"clip-ViT-S-32-alt": 384, "grid-mobilenetv2_035": 1280, "xvlm-64": 1024}
    for name, width in {**shapes, "tinyvit-5m": 320}.items():
        store = open_store(tmp_path / "features" / name)
        row = store.read(store.ids[0])
        assert row["tokens"].shape[1] == width
        assert np.isfinite(row["pooled"]).all()
        assert row["tokens"].dtype == np.float16


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "options", "why", "fields"),
    [
        ("grid", ("preset=resnet101",), "too-narrow", {"tokens": (196, 2048), "pooled": (2048,)}),
        ("clip:RN50", (), "", {"tokens": (49, 2048), "pooled": (1024,)}),
        (
            "bottomup:fixed36",
            ("short=64", "long=96", "proposals=40"),
            "no-regions",
            {"region": (36, 2048), "attributes": (36,)},
        ),
    ],
)
def test_large_networks_and_a_picture_of_one_pixel(
    name: str,
    options: tuple[str, ...],
    why: str,
    fields: dict[str, tuple[int, ...]],
    dataset: Path,
    tmp_path: Path,
) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "photos" / "0001.jpg")
    settings = [word for option in options for word in ("--set", option)]
    where = ["--data", str(dataset), "--out", str(tmp_path), "--device", "cpu"]
    said = call("extract", name, *where, "--weights", "random:0", *settings, "--json", code=3)
    report = json.loads(said)
    assert (report["ok"], report["failed"]) == ((2, 2) if why else (3, 1))
    assert not why or report["reasons"][f"failed: {why}"] == 1
    row = open_store(tmp_path / store_name(name)).read("0002")
    for field, shape in fields.items():
        assert row[field].shape[1:] == shape[1:]
        assert row[field].shape[0] <= shape[0]
        assert np.isfinite(row[field]).all()


def test_one_wrong_name_or_option_stops_before_the_first_is_computed(
    dataset: Path, tmp_path: Path, precap: Precap
) -> None:
    where = ("--data", dataset, "--out", tmp_path / "out", "--weights", "random:0")
    names = "grid:mobilenetv2_035,clip:ViT-S-32-alt"
    for more in ((f"{names},klip",), (names, "--set", "normalize=true")):
        said = precap.refused("extract", *more, *where, code=2)
        assert "Did you mean 'clip'" in said or "no option 'normalize'" in said
        assert not (tmp_path / "out").exists()
    own = ("--set", "clip.normalize=true", "--set", "grid.cells=2", "--dry-run")
    assert "grid-mobilenetv2_035: 4 images" in precap("extract", names, *where, *own)
    said = precap.refused("extract", "clip", *where, "--boxes", tmp_path, code=2)
    assert "no option 'boxes'" in said


GRID = "grid:mobilenetv2_035"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((GRID, "--device", "gpu"), "'gpu' is no device. Use auto, cpu, cuda or cuda:1."),
        ((GRID, "--device", "gpu", "--cluster", "local:1"), "'gpu' is no device"),
        ((GRID, "--device", "gpu", "--dry-run"), "'gpu' is no device"),
        ((GRID, "--format", "contract"), "no backend 'contract'. Available: hdf5, zarr."),
        ((GRID, "--parent", "."), "grid:mobilenetv2_035 reads no other store"),
        ((GRID, "--parent", ".", "--dry-run"), "reads no other store"),
        ((GRID, "--weights", "."), "is a folder. Name the file in it"),
        ((edges.NAME, "--device", "gpu"), "'gpu' is no device"),
        ((edges.NAME, "--compute", "fp8"), "no compute precision 'fp8'. Use one of fp32, bf16"),
        ((edges.NAME, "--dtype", "float8"), "cannot be stored as 'float8'"),
        ((edges.NAME, "--weights", "gone.pt"), "no weights file gone.pt"),
        ((edges.NAME, "--weights", "random:x"), "whole number"),
        ((edges.NAME, "--parent", "."), "reads no other store"),
        (
            ("mylab.edges:EdgesConfig",),
            "no extractor: it lacks Config, reads, prepare, extract.",
        ),
        (("os:path",), "os:path is no extractor: it lacks Config, reads"),
        ((":Edges",), "module:Class"),
        (("clip", "--set", "outputs=[tokns]"), "(got 'tokns'). Correct"),
    ],
)
def test_options_that_nothing_can_use_are_refused(
    words: tuple[str, ...],
    said: str,
    dataset: Path,
    tmp_path: Path,
    precap: Precap,
    edges_extractor: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = () if "--weights" in words else ("--weights", "random:0")
    found = precap.refused("extract", *words, *options, "--data", dataset, "--out", "out", code=2)
    assert said in found
    assert "at least 1 item" not in found
    assert not Path("out").exists()


def test_an_option_for_some_of_several_is_refused_only_where_it_is_for_none(
    dataset: Path, tmp_path: Path, precap: Precap, edges_extractor: str
) -> None:
    parent = regions(tmp_path / "regions")
    where = ("--data", dataset, "--out", tmp_path / "out", "--parent", parent)
    said = precap.refused("extract", "geometry", *where, "--views", "2", code=2)
    assert "geometry keeps its parent's number of views, 1" in said
    names = f"{edges_extractor},geometry"
    precap("extract", names, *where, "--views", "2", code=3)
    made = open_store(tmp_path / "out" / store_name(edges_extractor))
    assert made.spec.views == 2
    assert (made.identity.provenance or {})["recipe"]["setting"]["parent"] is None


def test_an_option_reaches_one_variant_by_its_whole_name(
    dataset: Path, tmp_path: Path, precap: Precap, edges_extractor: str
) -> None:
    where = ("--data", dataset, "--out", tmp_path / "out", "--weights", "random:0", "--dry-run")
    both = f"{GRID},grid:mobilenetv2_050,{edges_extractor}"
    own = ("--set", f"{GRID}.cells=2", "--set", "grid.cells=3", "--set", "cells=4")
    found = precap("extract", both, *where, *own, "--json")
    size = {Path(one["store"]).name: one["bytes"] for one in map(json.loads, found.splitlines())}
    assert size == {
        store_name(GRID): 4 * 2 * 1280 * (2 * 2 + 1),
        "grid-mobilenetv2_050": 4 * 2 * 1280 * (3 * 3 + 1),
        store_name(edges_extractor): 4 * 2 * 2 * 4 * 4,
    }
    last = ("--set", f"{edges_extractor}.cells=5", "--json")
    found = precap("extract", edges_extractor, *where, *last)
    assert json.loads(found)["bytes"] == 4 * 2 * 2 * 5 * 5


def test_every_output_of_geometry(tmp_path: Path) -> None:
    for ref, name in zip(write_photos(tmp_path / "photos", 3), BOXES, strict=True):
        ref.path.rename(ref.path.with_name(f"{name}.jpg"))
    call("data", "prepare", str(tmp_path / "photos"), "--out", str(tmp_path / "data"))
    parent = regions(tmp_path / "regions")
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path), "--parent", str(parent)]
    call("extract", "geometry", *where, "--set", "outputs=[rows, columns, relations]")
    row = open_store(tmp_path / "geometry").read("two")
    assert {name: array.shape for name, array in row.items()} == {
        "rows": (2, 12),
        "columns": (2, 12),
        "relations": (4, 4),
    }
    field = Field("relations", "weights", (None, 4), "float16")
    assert catalogue.field_bytes(field) == catalogue.TYPICAL_ROWS**2 * 4 * 2


def test_geometry_of_a_region_store(dataset: Path, tmp_path: Path) -> None:
    photos = tmp_path / "more"
    for ref, name in zip(write_photos(photos, 4), [*BOXES, "failed"], strict=True):
        ref.path.rename(photos / f"{name}.jpg")
    call("data", "prepare", str(photos), "--out", str(tmp_path / "more-data"))
    parent = regions(tmp_path / "features" / "regions")
    options = ["--data", str(tmp_path / "more-data"), "--out", str(tmp_path / "features")]
    call("extract", "geometry", "--parent", str(parent), *options, code=3)
    store = open_store(tmp_path / "features" / "geometry")
    ids = {image.rpartition("/")[2].partition(".")[0]: image for image in store.ids}
    assert store.read(ids["two"])["weights"].shape == (2, 144)
    assert {o.reason for o in store.absent.values()} == {"no-parent"}


def test_geometry_takes_up_what_its_parent_got_later(tmp_path: Path, precap: Precap) -> None:
    for ref, name in zip(write_photos(tmp_path / "photos", 4), [*BOXES, "failed"], strict=True):
        ref.path.rename(ref.path.with_name(f"{name}.jpg"))
    precap("data", "prepare", tmp_path / "photos", "--out", tmp_path / "data")
    parent = regions(tmp_path / "regions")
    command = ("extract", "geometry", "--data", tmp_path / "data", "--out", tmp_path)
    for more in ((), ("--retry-failed",)):
        assert "Repeat the command" in precap(*command, "--parent", parent, *more, code=3)
    assert "0 to compute" in precap(*command, "--parent", parent, "--dry-run")
    plan.extend(parent, [], again=plan.failed)
    with writer.Writer(parent) as store:
        store.commit(1, [Outcome("failed", "ok")], {"failed": BOXES["one"]})
    assert "1 to compute" in precap(*command, "--parent", parent, "--dry-run")
    said = precap(*command, "--parent", parent)
    assert "4 ok, 0 skipped, 0 failed; 1 computed" in said
    assert open_store(tmp_path / "geometry").read("failed")["weights"].shape == (1, 144)
    assert "; 0 computed" in precap(*command, "--parent", parent)


def test_the_catalogue_lists_every_extractor_with_its_fields() -> None:
    entries = {entry.name: entry for entry in catalogue.entries()}
    assert {"clip", "grid", "xvlm", "tinyvit", "geometry"} <= entries.keys()
    assert entries["clip"].bytes == 2 * (49 * 768 + 512)
    assert "tokens 49x768 (grid)" in entries["clip"].fields
    for entry in entries.values():
        assert entry.fields
        assert entry.weights
        assert json.dumps(entry.as_json())


def test_the_command_line_lists_and_estimates(dataset: Path, tmp_path: Path) -> None:
    assert "tokens 49x768 (grid)" in call("extract", "--list")
    options = ["--data", str(dataset), "--out", str(tmp_path / "features"), "--device", "cpu"]
    weights = ["--weights", "random:0", "--dry-run", "--json"]
    said = json.loads(call("extract", "grid:mobilenetv2_035", *options, *weights))
    assert (said["images"], said["missing"]) == (4, 4)
    assert not (tmp_path / "features").exists()


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    refs = write_photos(tmp_path / "photos", 10)
    recipe = runner.make_recipe("grid:mobilenetv2_035", weights="random:0", device="cpu")
    found = runner.dry_run(refs, tmp_path / "store", recipe, shard_size=4)
    row = 2 * (49 * 1280 + 1280)
    assert (found.images, found.missing, found.shards, found.bytes) == (10, 10, 3, 10 * row)
    assert found.seconds > 0
    assert not (tmp_path / "store").exists()
    assert "10 to compute" in str(found)
