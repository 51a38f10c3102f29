"""The detectors equal the published code, preprocessing included, from published key names.

The weights of each network (100 to 150 million numbers) are generated once, written to a file as a
user would have it, and loaded through the extractor. Boxes are given, as in the golden runs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from precap.errors import ConfigError
from precap.extract.contract import Setting
from precap.extract.extractors.vinvl import network_input, oscar_tail
from precap.extract.recipe import build
from tests.extract import golden

Array = NDArray[Any]

#: These networks take minutes on a machine that has other work.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def built(name: str, case: golden.Case, folder: Path, **settings: Any) -> Any:
    """The extractor ``name`` with the weights of ``case`` from a file in ``folder``."""
    file = folder / "weights.pth"
    torch.save({"model": case.state()}, file)
    made = build(name, settings, Setting(weights=str(file), storage="float32"))
    file.unlink()
    return made


def with_boxes(case: golden.Case, folder: Path) -> Path:
    """A boxes file that holds the boxes of ``case``."""
    boxes = case.expected["boxes"].astype(np.float64).tolist()
    entry = {"image_landscape.png": {"width": 640, "height": 480, "boxes": boxes}}
    file = folder / "boxes.json"
    file.write_text(json.dumps(entry))
    return file


def picture() -> Any:
    image = golden.picture()
    image.info["path"] = str(golden.FOLDER / "image_landscape.png")
    return image


def relative(case: golden.Case, name: str, array: Array, share: float) -> None:
    """``array`` is within rtol ``share`` and ``share`` of the array's rms: the case's tolerance."""
    case.close(name, array, atol=share * case.rms(name), rtol=share)


@pytest.fixture(scope="module")
def grit(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return built("grit", golden.load("grit_detector"), tmp_path_factory.mktemp("grit"))


def centred(boxes: Array) -> Array:
    """Boxes in pixels of the 640 x 480 picture as GRIT has them: cx, cy, w, h in 0..1."""
    relative = boxes.astype(np.float64) / [640, 480, 640, 480]
    start, stop = relative[:, :2], relative[:, 2:]
    return np.concatenate([(start + stop) / 2, stop - start], 1)


def test_grit_detector(grit: Any) -> None:
    case = golden.load("grit_detector")
    prepared = grit.prepare(picture())
    assert list(prepared["pixels"].shape[:2]) == case.expected["valid_hw"].tolist()
    canvas, padding = grit.on_canvas([prepared["pixels"]])
    case.close("input_every16", canvas[0, :, ::16, ::16].numpy(), atol=1e-6)
    case.close("input_mean", canvas[0].double().mean((1, 2)).numpy(), atol=1e-6)
    found = grit.extract([prepared])[0]
    np.testing.assert_array_equal(found["mask"], ~case.expected["gri_mask"])
    assert not padding[0, :384, :512].any()
    assert padding.sum() == 384 * (640 - 512)
    for name, array in {
        "gri_feat": found["grid"],
        "reg_feat": found["region"],
        **golden.summaries("gri_feat", found["grid"]),
        **golden.summaries("reg_feat", found["region"]),
    }.items():
        case.close(name, array, atol=5e-4, rtol=1e-3)
    case.close("reg_boxes", centred(found["boxes"]), atol=1e-4)
    case.close("reg_boxes_initial", grit.network.det_module.start().numpy(), atol=1e-4)
    for level, values in enumerate(grit.network.backbone(canvas)):
        rows = values[0].flatten(1).T.numpy()  # (H*W, C)
        assert list(values.shape[1:]) == case.expected[f"level{level}_shape"].tolist()
        case.close(f"level{level}_head", rows[:8, :64], atol=5e-4, rtol=1e-3)
        for name, array in golden.summaries(f"level{level}", rows).items():
            case.close(name, array, atol=5e-4, rtol=1e-3)


def test_grit_detector_with_boxes_all_over_the_picture(grit: Any) -> None:
    """The spread case: the same weights but for one key, times a power of two."""
    case = golden.load("grit_detector_spread")
    scale = case.meta["weight_scale"]["det_module.query_embed.weight"]
    query = grit.network.det_module.query_embed.weight
    query.data.mul_(scale)
    try:
        found = grit.extract([grit.prepare(picture())])[0]
        start = grit.network.det_module.start().numpy()
    finally:
        query.data.div_(scale)
    for name, array in {
        "reg_feat": found["region"],
        **golden.summaries("reg_feat", found["region"]),
    }.items():
        case.close(name, array, atol=1e-3, rtol=1e-3)
    case.close("reg_boxes", centred(found["boxes"]), atol=2e-4)
    case.close("reg_boxes_initial", start, atol=2e-4)


def test_bottom_up(tmp_path: Path) -> None:
    case = golden.load("bottomup_r101_c4")
    made = built("bottomup", case, tmp_path, boxes=str(with_boxes(case, tmp_path)))
    prepared = made.prepare(picture())
    pixels = torch.from_numpy(prepared["pixels"])
    assert list(pixels.shape) == case.expected["input_shape"].tolist()
    case.close("input_every16", pixels[:, ::16, ::16].numpy(), atol=1e-4)
    case.close("input_std", pixels.double().std((1, 2), correction=0).numpy(), atol=1e-3)
    assert float(prepared["scale"]) == float(case.expected["im_scale"])
    maps = watched(made.network)
    found = made.extract([prepared])[0]
    share = case.meta["tolerance"]["rtol"]
    network, regions = made.network, torch.from_numpy(found["region"])
    check_c4(case, maps[0], found["region"], share)
    probs = network.classes(regions)
    attributes = network.attributes(regions, probs.argmax(1))
    relative(case, "class_logits", network.class_logits(regions).numpy(), share)
    relative(case, "bbox_deltas_first64", network.box_deltas(regions).numpy()[:, :64], share)
    case.close("class_probs", probs.numpy(), atol=2e-3 * case.rms("class_probs"), rtol=2e-3)
    case.close("attribute_probs", attributes.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["boxes"], case.expected["boxes"])
    np.testing.assert_array_equal(found["classes"], case.expected["objects_id"])
    np.testing.assert_array_equal(found["attributes"], case.expected["attrs_id"])
    case.close("objects_conf", found["scores"], atol=1e-5)
    case.close("attrs_conf", found["attribute_scores"], atol=1e-5)
    assert found["size"].tolist() == [480, 640]


def test_vinvl(tmp_path: Path) -> None:
    case = golden.load("vinvl_x152_c4")
    boxes = with_boxes(case, tmp_path)
    made = built("vinvl", case, tmp_path, boxes=str(boxes), tail=True)
    prepared = made.prepare(picture())
    pixels = network_input(prepared["pixels"], "cpu")
    assert list(pixels.shape[1:]) == case.expected["input_shape"].tolist()
    case.close("input_every16", pixels[0, :, ::16, ::16].numpy(), atol=1e-5)
    maps = watched(made.network)
    found = made.extract([prepared])[0]
    share = case.meta["tolerance"]["rtol"]
    features, tail = found["region"][:, :2048], found["region"][:, 2048:]
    network, regions = made.network, torch.from_numpy(features.copy())
    check_c4(case, maps[0], features, share)
    logits = network.class_logits(regions).numpy()
    relative(case, "class_logits", logits, share)
    relative(case, "bbox_deltas_first64", network.box_deltas(regions).numpy()[:, :64], share)
    labels = torch.tensor([1, 17, 250, 512, 900, 1200, 1594, 3])
    relative(case, "attribute_logits", network.attribute_scores(regions, labels).numpy(), share)
    np.testing.assert_array_equal(found["classes"], 1 + logits[:, 1:].argmax(1))
    case.close("features_2054_tail", tail, atol=1e-6)
    again = oscar_tail(torch.from_numpy(found["boxes"]), 480, 640)
    np.testing.assert_array_equal(tail, again.numpy())


def watched(network: Any) -> list[torch.Tensor]:
    """A list that will hold the stride-16 map of every forward."""
    maps: list[torch.Tensor] = []
    network.resnet.layer3.register_forward_hook(lambda module, given, made: maps.append(made))
    return maps


def check_c4(case: golden.Case, features: torch.Tensor, regions: Array, share: float) -> None:
    """The stride-16 map (1, 1024, H, W) and the region features (R, 2048) of ``case``."""
    assert list(features.shape[1:]) == case.expected["res4_shape"].tolist()
    rows = features[0].flatten(1).T.numpy()  # (H*W, 1024)
    relative(case, "res4_head", rows[:8, :64], share)
    relative(case, "features", regions, share)
    for name, array in {
        **golden.summaries("res4", rows),
        **golden.summaries("features", regions),
    }.items():
        relative(case, name, array, share)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    for name in ("grit", "region", "bottomup"):
        with pytest.raises(ConfigError, match="does not fit"):
            build(name, {}, Setting(weights=str(file)))


@pytest.mark.parametrize("name", ["grit", "bottomup", "bottomup:fixed36", "vinvl", "region"])
def test_missing_weights_are_named_with_their_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Put the file at .*safetensors"):
        build(name, {}, Setting(weights="auto"))
