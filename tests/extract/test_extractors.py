"""The extractor contract on every extractor of this folder, and what each adds to it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from precap.errors import ConfigError, ImageError
from precap.extract import runner
from precap.extract.contract import Setting
from precap.extract.extractors import clip
from precap.extract.recipe import build, store_name
from precap.store import plan, writer
from precap.types import FeatureSpec, Field, Outcome
from tests.extractor_contract import ExtractorContract

SMALL = "mobilenetv2_035"


class TestGrid(ExtractorContract):
    extractor = f"grid:{SMALL}"


class TestGridOfTokens(ExtractorContract):
    extractor = "grid:vit_tiny_patch16_224"


class TestGridChannelsLast(ExtractorContract):
    extractor = "grid:swin_tiny_patch4_window7_224"
    settings = {"size": 64, "kwargs": {"img_size": 64, "window_size": 2}}


class TestGridAtOriginalSize(ExtractorContract):
    extractor = f"grid:{SMALL}"
    settings = {"fit": "keep", "cells": 3}


class TestClip(ExtractorContract):
    extractor = "clip:ViT-S-32-alt"


class TestClipResNet(ExtractorContract):
    extractor = "clip:RN50"
    settings = {"outputs": ["tokens", "pooled", "projected"]}


class TestXVLM(ExtractorContract):
    extractor = "xvlm:64"  # the whole network on a picture small enough for a test


class TestTinyViT(ExtractorContract):
    extractor = "tinyvit:5m"


class TestGeometry(ExtractorContract):
    extractor = "geometry"
    settings = {"outputs": ["weights", "rows", "columns", "boxes", "relations"]}

    @classmethod
    def make_setting(cls, folders: pytest.TempPathFactory) -> Setting:
        return Setting(storage="float32", parent=regions(folders.mktemp("regions")))

    def make_items(self) -> list[Any]:
        return [BOXES[name] for name in ("two", "one", "none")]


BOXES = {
    "two": {
        "boxes": np.array([[64, 96, 320, 288], [256, 48, 576, 432]], np.float32),
        "size": np.array([480, 640]),
    },
    "one": {"boxes": np.array([[0, 0, 700, 500]], np.float32), "size": np.array([480, 640])},
    "none": {"boxes": np.zeros((0, 4), np.float32), "size": np.array([10, 10])},
}


def regions(path: Path, sizes: bool = True) -> Path:
    """A store of boxes: three images, one of them without features."""
    fields = [Field("boxes", "boxes", (None, 4))]
    fields += [Field("size", "size", (2,), "int64")] if sizes else []
    writer.create(path, FeatureSpec("fake", 1, "none", tuple(fields)))
    plan.extend(path, [*BOXES, "failed"])
    names = {field.name for field in fields}
    rows = {i: {k: v for k, v in row.items() if k in names} for i, row in BOXES.items()}
    outcomes = [*(Outcome(image, "ok") for image in rows), Outcome("failed", "failed", "corrupt")]
    with writer.Writer(path) as store:
        store.commit(0, outcomes, rows)
    return path


def test_geometry_computes_the_worked_example(tmp_path: Path) -> None:
    """Spatial's example: boxes A and B of a 640 x 480 picture on a 12 x 12 grid."""
    made = build("geometry", {}, Setting(storage="float32", parent=regions(tmp_path)))
    row = made.extract([made.prepare(BOXES["two"])])[0]
    whole = row["weights"].reshape(2, 12, 12)
    np.testing.assert_allclose(row["boxes"], [[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.9]])
    np.testing.assert_allclose(whole[0, 2, 1], 0.48, atol=1e-6)
    np.testing.assert_allclose(whole.sum((1, 2)) / 144, [0.16, 0.4], atol=1e-6)
    np.testing.assert_allclose(whole[1].sum(1)[1:4], [4.8, 6, 6], atol=1e-5)


def test_geometry_says_what_its_parent_lacks(tmp_path: Path) -> None:
    bare = regions(tmp_path / "bare", sizes=False)
    with pytest.raises(ConfigError, match="unit=relative"):
        build("geometry", {}, Setting(parent=bare))
    made = build("geometry", {"unit": "relative"}, Setting(parent=bare))
    prepared = made.prepare({"boxes": np.array([[0.1, 0.2, 0.5, 0.6]], np.float32)})
    np.testing.assert_allclose(prepared["boxes"], [[0.1, 0.2, 0.5, 0.6]])
    with pytest.raises(ConfigError, match="--parent"):
        build("geometry", {}, Setting())


def test_the_command_line_name_picks_the_variant() -> None:
    assert build(f"grid:{SMALL}", {}, Setting(weights="random:0")).spec.config["model"] == SMALL
    with pytest.raises(ConfigError, match="given twice"):
        build(f"grid:{SMALL}", {"model": "resnet18"}, Setting(weights="random:0"))
    assert store_name("clip:ViT-L-14") == "clip-ViT-L-14"
    assert store_name("mylab.edges:Edges") == "mylab.edges-Edges"


def test_presets_are_only_short_for_options() -> None:
    setting = Setting(weights="random:0")
    short = build("clip", {"preset": "clipcap"}, setting).spec
    options = {"outputs": ["pooled"], "quickgelu": True}
    long = build("clip:ViT-B-32", options, setting).spec
    assert short.fingerprint == long.fingerprint


def test_openai_weights_need_quickgelu_and_a_bare_file_must_say_so(tmp_path: Path) -> None:
    tower = build("clip:ViT-B-32", {}, Setting(weights="random:0")).tower  # type: ignore[attr-defined]
    state = {f"visual.{k}": v for k, v in tower.state_dict().items()}
    file = tmp_path / "openai.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, file)
    with pytest.raises(ConfigError, match="quickgelu=true"):
        build("clip:ViT-B-32", {}, Setting(weights=str(file)))
    wrong = build("clip:ViT-B-32", {"quickgelu": False}, Setting(weights=str(file)))
    right = build("clip:ViT-B-32", {"quickgelu": True}, Setting(weights=str(file)))
    named = build("clip:ViT-B-32-quickgelu", {}, Setting(weights=str(file)))
    assert wrong.spec.fingerprint != right.spec.fingerprint == named.spec.fingerprint


@pytest.mark.parametrize(
    ("options", "quick"),
    [
        ({"preset": "hin"}, True),
        ({"preset": "clipcap"}, True),
        ({"preset": "clipcap", "quickgelu": False}, False),
        ({"preset": "clipcap", "pretrained": "laion2b_s34b_b79k"}, False),
        ({"model": "ViT-B-32-quickgelu"}, True),
        ({"pretrained": "openai"}, True),
        ({"pretrained": "laion2b_s34b_b79k"}, False),
        ({"model": "ViT-B-32-256"}, False),  # OpenAI never published it
        ({"model": "RN50"}, None),
        ({}, None),
    ],
)
def test_the_activation_of_a_file_follows_from_what_was_said(
    options: dict[str, Any], quick: bool | None
) -> None:
    config = clip._resolved(clip.ClipConfig(**options))
    if quick is None:
        with pytest.raises(ConfigError, match="quickgelu=true for OpenAI's"):
            clip._quickgelu(config, Setting(weights="some.pt"))
        assert clip._quickgelu(config, Setting(weights="random:3")) is False
        assert clip._quickgelu(config, Setting(weights="auto")) is True
    else:
        assert clip._quickgelu(config, Setting(weights="some.pt")) is quick


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_compute_precision_is_part_of_the_identity(compute: str) -> None:
    draw = np.random.default_rng(0)
    picture = {"pixels": draw.integers(0, 256, (224, 224, 3), np.uint8)}
    exact = build(f"grid:{SMALL}", {}, Setting("random:0", storage="float32"))
    made = build(f"grid:{SMALL}", {}, Setting("random:0", storage="float32", compute=compute))
    same = made.spec.fingerprint == exact.spec.fingerprint
    assert same == (compute == "fp32")
    one, other = exact.extract([picture])[0]["pooled"], made.extract([picture])[0]["pooled"]
    gap = np.abs(one - other).max() / np.abs(one).max()
    assert gap == 0 if compute == "fp32" else 0 < gap < 0.1


def test_a_timm_name_that_does_not_exist_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match="mobilenetv2_100"):
        build("grid:mobilnetv2_100", {}, Setting(weights="random:0"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (f"grid:{SMALL}", {"size": 0}, "size.*greater than 0"),
        (f"grid:{SMALL}", {"cells": -1}, "cells.*greater than 0"),
        (f"grid:{SMALL}", {"resize": 0}, "resize.*greater than 0"),
        ("grid:vit_tiny_patch16_224", {"size": 100}, "100 x 100.*img_size"),
        ("grid:vit_tiny_patch16_224", {"fit": "keep"}, "any size.*fit=crop"),
        ("grid:vit_tiny_patch16_224", {"cells": 7}, "leave cells out"),
        ("grid:swin_tiny_patch4_window7_224", {"fit": "keep"}, "any size.*fit=crop"),
        ("xvlm:0", {}, "size.*greater than 0"),
        ("xvlm:33", {}, "multiple of 32"),
        ("clip:ViT-S-32-alt", {"outputs": []}, "outputs.*at least 1"),
        ("geometry", {"outputs": []}, "outputs.*at least 1"),
        ("geometry", {"cells": 0}, "cells.*greater than 0"),
        ("region", {"short": 0}, "short.*greater than 0"),
        ("vinvl", {"proposals": -3}, "proposals.*greater than 0"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_any_picture(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(name, options, Setting(weights="random:0"))


def test_a_picture_too_small_for_the_network_costs_only_itself() -> None:
    made: Any = build("grid", {"preset": "resnet101"}, Setting(weights="random:0"))
    assert made.shortest == 3
    for size in ((1, 1), (2, 500), (500, 2)):
        with pytest.raises(ImageError) as caught:
            made.prepare(Image.new("RGB", size))
        assert caught.value.reason == "too-narrow"
    prepared = made.prepare(Image.new("RGB", (3, 40)))
    assert made.extract([prepared])[0]["tokens"].shape == (196, 2048)


def test_default_shards_hold_about_as_many_bytes_whatever_the_features() -> None:
    made = build(f"grid:{SMALL}", {}, Setting(weights="random:0"))
    size = runner.default_shard_size(made, 32)
    row = sum(2 * int(np.prod(field.shape)) for field in made.spec.fields)  # type: ignore[arg-type]
    assert 0.5 * runner.SHARD_BYTES < size * row <= runner.SHARD_BYTES
    assert runner.default_shard_size(made, 4000) == 8000


def test_half_precision_storage_is_what_extract_hands_over() -> None:
    made: Any = build(f"grid:{SMALL}", {}, Setting(weights="random:0", storage="float16"))
    prepared = {"pixels": np.zeros((224, 224, 3), np.uint8)}
    assert made.extract([prepared])[0]["tokens"].dtype == np.float16
    assert torch.is_inference_mode_enabled() is False
