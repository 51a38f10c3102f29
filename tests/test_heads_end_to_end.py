"""Every head through the command line on JPEGs: extract, train, evaluate, caption."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from precap.cli import app
from tests.command import Precap

GOLDEN = Path(__file__).parent / "golden" / "regions" / "vinvl_released"
BACKBONE = "{model: mobilenetv2_035, size: 64}"  # 2 x 2 cells of 1280 numbers
SMALL = {"dim": 32, "heads": 2, "hidden": 64, "layers": 1}
PREFIX = {"dim": 32, "heads": 2, "layers": 1, "positions": 64, "prefix": 2}
PIECES = {"text.vocabulary": "bpe", "text.size": 300}


@dataclass(frozen=True)
class Trial:
    """One head, the stores it reads, its options, and how many self-critical steps it makes."""

    head: str
    features: str
    options: dict[str, object]
    also: tuple[tuple[str, object], ...] = ()
    critical: int = 0

    def settings(self) -> list[str]:
        """--set arguments."""
        given = {f"head.{name}": value for name, value in self.options.items()} | dict(self.also)
        return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


TRIALS = {
    "transformer": Trial(
        "transformer", "grid", {"dim": 32, "heads": 2, "hidden": 64, "encoder_layers": 1,
                                "decoder_layers": 1},
    ),
    "updown": Trial("updown", "region", {"dim": 24, "words": 24, "attention": 16}, critical=1),
    "att2in": Trial(
        "att2in", "grid", {"dim": 24, "words": 24, "attention": 16},
        (("xe.sampling_start", 0), ("xe.sampling_every", 1), ("xe.sampling_step", 0.25)),
    ),
    "ort": Trial("ort", "region", SMALL),
    "spatial": Trial("spatial", "region", SMALL),
    "spatial of a geometry store": Trial(
        "spatial", "region,geometry", {**SMALL, "encoding": "g2", "cells": 6, "look": "dot"}
    ),
    "hin": Trial("hin", "grid,region", SMALL, (("scst.candidates", "beam"),), critical=1),
    "hiercap": Trial("hiercap", "grid,region", {**SMALL, "cells": 4}),
    "grit": Trial("grit", "grid,region", SMALL),
    "m2": Trial("m2", "region", {**SMALL, "slots": 4}),
    "prefix, MLP": Trial("prefix", "grid", {**PREFIX, "inputs": "global"}, (*PIECES.items(),)),
    "prefix, transformer": Trial(
        "prefix", "grid",
        {**PREFIX, "inputs": "global", "mapper": "transformer", "inner": 2, "mapper_layers": 1,
         "mapper_heads": 2, "tune": "false", "normalise": "true"},
        (*PIECES.items(),),
    ),
    "prefix, OPG": Trial(
        "prefix", "grid",
        {**PREFIX, "inputs": "grid", "hidden": 32, "rows": 4, "sparse": "straight-through",
         "auxiliary": 0.1},
        (*PIECES.items(),), critical=1,
    ),
}  # fmt: skip


def command(*args: str | Path) -> str:
    """Output of ``precap ARGS``, which must succeed; for fixtures that outlive one test."""
    result = CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def stores(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores grid, region and geometry of all scenes."""
    out = tmp_path_factory.mktemp("stores")
    boxes = out / "boxes.json"
    boxes.write_text(json.dumps(boxes_of(scenes)))
    made = ("--data", scenes, "--out", out, "--weights", "random:0", "--dtype", "float32")
    command("extract", "grid:mobilenetv2_035", *made, "--set", "size=64")
    command(
        "extract", "region", *made, "--set", "backend=grid", "--set", f"grid={BACKBONE}", "--set",
        f"boxes={boxes}",
    )  # fmt: skip
    command("extract", "geometry", *made, "--parent", out / "region", "--set", "cells=6")
    return out


def boxes_of(scenes: Path) -> dict[str, dict[str, object]]:
    """Two to four boxes per picture, as parts of a picture of 100 x 100."""
    found: dict[str, dict[str, object]] = {}
    for number, path in enumerate(sorted((scenes / "images").glob("*.jpg"))):
        rng = np.random.default_rng(number)
        corners = rng.integers(0, 60, (2 + number % 3, 2))
        boxes = np.concatenate([corners, corners + rng.integers(10, 40, corners.shape)], 1)
        found[path.name] = {"width": 100, "height": 100, "boxes": boxes.tolist()}
    return found


@pytest.mark.parametrize("name", TRIALS)
def test_a_head_trains_is_scored_and_captions_pictures(
    precap: Precap, name: str, scenes: Path, stores: Path, tmp_path: Path
) -> None:
    trial, run = TRIALS[name], tmp_path / "run"
    out = precap(
        "train", "--head", trial.head, "--features", trial.features, "--data", scenes, "--stores",
        stores, "--out", run, "--batch-size", "24", "--xe-epochs", "1", "--scst-epochs",
        str(trial.critical / 2), "--set", "text.threshold=1", "--set", "decode.longest=8",
        *trial.settings(), "--json",
    )  # fmt: skip
    assert json.loads(out)["steps"] == 2 + trial.critical
    assert_learned(run, trial)
    precap("evaluate", run, "--metrics", "bleu,cider", "--no-report")
    scores = json.loads((run / "scores-test.json").read_text())["run"]["corpus"]
    assert np.isfinite(list(scores.values())).all()
    lines = (run / "predictions-test.jsonl").read_text().splitlines()
    cached = [json.loads(line) for line in lines]
    items = [json.loads(line) for line in (scenes / "images.jsonl").read_text().splitlines()]
    files = {item["id"]: scenes / "images" / Path(item["file"]).name for item in items}
    said = precap("caption", run, *(files[p["image_id"]] for p in cached), "--jsonl")
    fresh = [json.loads(line) for line in said.splitlines()]
    assert len(cached) == 6
    assert [p["caption"] for p in fresh] == [p["caption"] for p in cached]
    assert [p["score"] for p in fresh] == pytest.approx([p["score"] for p in cached], abs=1e-4)


def assert_learned(run: Path, trial: Trial) -> None:
    """The log holds a finite loss of every phase, and the weights moved."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    text = json.dumps(events)
    assert "NaN" not in text
    assert "Infinity" not in text
    assert ("reward" in text) == bool(trial.critical)


@pytest.fixture
def three(tmp_path: Path, scenes: Path) -> Path:
    """A dataset of the three images that the VinVL sample describes."""
    items = [json.loads(line) for line in (scenes / "images.jsonl").read_text().splitlines()]
    folder, records = tmp_path / "pictures", []
    folder.mkdir()
    for item, (name, split) in zip(
        items, (("9", "train"), ("391895", "train"), ("1000268201", "val")), strict=False
    ):
        with Image.open(scenes / "images" / Path(item["file"]).name) as picture:
            picture.save(folder / f"{name}.jpg")
        records.append(
            {"file": f"{name}.jpg", "image_id": name, "split": split, "captions": item["captions"]}
        )
    table = tmp_path / "captions.json"
    table.write_text(json.dumps(records))
    command(
        "data", "prepare", table, "--format", "list", "--images", folder, "--out", tmp_path / "d"
    )
    return tmp_path / "d"


def test_imported_vinvl_and_extracted_clip_find_their_head(
    precap: Precap, three: Path, tmp_path: Path
) -> None:
    features, run = tmp_path / "f", tmp_path / "run"
    precap("store", "import", GOLDEN, "--out", features / "vinvl")
    precap(
        "extract", "clip:ViT-S-32-alt", "--data", three, "--out", features, "--weights", "random:0",
    )  # fmt: skip
    sizes = [part for k, v in SMALL.items() for part in ("--set", f"head.{k}={v}")]
    code, out, err = precap.result(
        "train", "--features", "vinvl,clip", "--data", three, "--stores", features, "--out", run,
        "--xe-epochs", "1", "--set", "text.threshold=1", *sizes,
    )  # fmt: skip
    assert code == 0, err
    assert "head 'hin' fits these features" in out + err
    sources = json.loads((run / "run.json").read_text())["features"]
    assert sources["region"]["store"] == "vinvl"
    assert sources["grid"]["store"] == "clip"
    precap("evaluate", run, "--split", "val", "--metrics", "bleu", "--no-report")
    assert len((run / "predictions-val.jsonl").read_text().splitlines()) == 1
    said = precap.refused("caption", run, three.parent / "pictures" / "9.jpg", code=2)
    assert "imported features" in said
