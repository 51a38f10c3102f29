"""Extractors equal the published implementations, preprocessing included, from published keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from precap import geometry
from precap.extract.contract import Extractor, Setting
from precap.extract.recipe import build
from tests.extract import golden

Array = NDArray[Any]


def extractor(name: str, state: Mapping[str, Any], tmp_path: Path, **settings: Any) -> Extractor:
    """``name`` with the weights ``state``, as a user would give them: in a file."""
    file = tmp_path / "weights.pth"
    torch.save({"model": dict(state)}, file)
    return build(name, settings, Setting(weights=str(file), storage="float32"))


def run(made: Any, case: golden.Case | None) -> dict[str, Array]:
    """Features of the golden picture; the network input is compared on the way."""
    prepared = made.prepare(golden.picture())
    pixels = made.pixels.tensor([prepared["pixels"]], "cpu")[0].numpy()
    if case is not None:
        assert list(pixels.shape) == case.expected["input_shape"].tolist()
        case.close("input_every16", pixels[:, ::16, ::16], atol=1e-6)
    return dict(made.extract([prepared])[0])


def test_clip_vit_b32_quickgelu(tmp_path: Path) -> None:
    case = golden.load("clip_vit_b32_quickgelu")
    state = case.state("visual.")
    outputs = ["tokens", "pooled", "projected"]
    found = run(extractor("clip:ViT-B-32-quickgelu", state, tmp_path, outputs=outputs), case)
    expected = {
        "tokens": found["tokens"],
        "pooled": found["pooled"],
        **golden.summaries("tokens", found["tokens"]),
        **golden.summaries("tokens_projected", found["projected"]),
    }
    for name, array in expected.items():
        case.close(name, array, atol=1e-4, rtol=1e-4)


def test_clipcap_preset_is_the_unnormalised_projection(tmp_path: Path) -> None:
    case = golden.load("clip_vit_b32_quickgelu")
    path = tmp_path / "ViT-B-32.safetensors"
    save_file(case.state("visual."), path)
    setting = Setting(weights=str(path), storage="float32")
    preset: Any = build("clip", {"preset": "clipcap", "quickgelu": True}, setting)
    assert list(run(preset, case)) == ["pooled"]
    case.close("pooled", run(preset, case)["pooled"], atol=1e-4, rtol=1e-4)
    options = {"preset": "clipcap", "quickgelu": True, "normalize": True}
    unit: Any = build("clip", options, setting)
    case.close("pooled_l2normalised", run(unit, case)["pooled"], atol=1e-5)


def test_xvlm_at_its_own_resolution(tmp_path: Path) -> None:
    case = golden.load("xvlm_swin_b_224")
    found = run(extractor("xvlm", case.state(), tmp_path), case)
    for name, array in {
        "tokens": found["tokens"],
        **golden.summaries("tokens", found["tokens"]),
    }.items():
        case.close(name, array, atol=2e-4, rtol=1e-4)
    np.testing.assert_array_equal(found["pooled"], found["tokens"][0])


def test_xvlm_at_384_from_a_224_checkpoint(tmp_path: Path) -> None:
    from precap.extract.extractors.xvlm import resized_table

    case = golden.load("xvlm_swin_b_384_from_224")
    state = golden.load("xvlm_swin_b_224").state()
    for place in ("l0b0", "l1b1", "l2b17", "l3b1"):
        layer, block = place[1:].split("b")
        key = f"vision_encoder.layers.{layer}.blocks.{block}.attn.relative_position_bias_table"
        case.close(f"table_{place}", resized_table(state[key], 12).numpy(), atol=1e-5)
    found = run(extractor("xvlm:384", state, tmp_path), case)
    tokens = found["tokens"]
    case.close("tokens_head", tokens[:8, :64], atol=2e-4, rtol=1e-4)
    for name, array in golden.summaries("tokens", tokens).items():
        case.close(name, array, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "variant"), [("tinyvit_5m", "5m"), ("tinyvit_21m_224", "21m")])
def test_tinyvit(name: str, variant: str, tmp_path: Path) -> None:
    case = golden.load(name)
    state = case.state()
    found = run(extractor(f"tinyvit:{variant}", state, tmp_path), case)
    logits = state["head.weight"].numpy() @ found["pooled"] + state["head.bias"].numpy()
    expected = {
        "tokens": found["tokens"],
        "pooled": found["pooled"],
        "logits_first64": logits[:64],
        **golden.summaries("tokens", found["tokens"]),
    }
    for key, array in expected.items():
        case.close(key, array, atol=2e-4, rtol=1e-4)
    tini = run(extractor(f"tinyvit:{variant}", state, tmp_path, preset="clip"), None)
    case.close("pooled_clip_preprocess", tini["pooled"], atol=2e-4, rtol=1e-4)


def test_resnet101_grid(tmp_path: Path) -> None:
    case = golden.load("resnet101_grid")
    found = run(extractor("grid", case.state(), tmp_path, preset="resnet101"), case)
    att = found["tokens"]  # (196, 2048)
    expected = {
        "fc": found["pooled"],
        "att_head": att[:8, :64],
        "att_rows_0_97_195": att[[0, 97, 195]],
        **golden.summaries("att", att),
    }
    for name, array in expected.items():
        case.close(name, array, atol=1e-4 * case.rms(name), rtol=1e-4)


def test_resnet101_map_before_it_is_averaged_to_cells(tmp_path: Path) -> None:
    case = golden.load("resnet101_grid")
    made: Any = extractor("grid", case.state(), tmp_path, preset="resnet101")
    made.cells = None
    found = run(made, None)["tokens"]  # (300, 2048): 15 x 20 positions, row-major
    channels, height, width = case.expected["layer4_shape"].tolist()
    assert found.shape == (height * width, channels)
    expected = {"layer4_head": found[:8, :64], **golden.summaries("layer4", found)}
    for name, array in expected.items():
        case.close(name, array, atol=1e-4 * case.rms(name), rtol=1e-4)


def test_pairwise_geometry() -> None:
    case = golden.load("geometry")
    for unit in ("relative", "pixels"):
        terms = geometry.pairwise(case.expected[f"boxes_{unit}"])
        case.close(f"ort_raw_{unit}", terms, atol=1e-5)
        case.close(f"ort_embedding_{unit}", geometry.waves(terms), atol=5e-4)


def test_grid_weights() -> None:
    case = golden.load("geometry")
    boxes = case.expected["grid_boxes"].astype(np.float64)
    rows, columns = geometry.cover(boxes, 12)
    whole = geometry.grid_weights(boxes, 12)
    expected = {
        "grid_cover_rows": rows,
        "grid_cover_columns": columns,
        "grid_weights": whole,
        "grid_rowvec": whole.reshape(-1, 12, 12).sum(-1),
        "grid_colvec": whole.reshape(-1, 12, 12).sum(-2),
        "grid_weights_area": geometry.grid_weights(boxes, 12, "area"),
        "grid_weights_box": geometry.grid_weights(boxes, 12, "box"),
    }
    for name, array in expected.items():
        case.close(name, array, atol=1e-5)
    # ORT's vectors, which precap does not make, leave out the cell in which a box ends.
    for name, shares in (("ort01_vertical", rows), ("ort01_horizontal", columns)):
        touched = case.expected[name] == 1
        assert (shares[touched] > 0).all()
        assert ((shares > 0).sum(1) - touched.sum(1) <= 1).all()
