"""The detectron2 backend, wherever detectron2 is importable: against detectron2's own inference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from precap.errors import ConfigError
from precap.extract.contract import Setting
from precap.extract.recipe import build
from precap.store import schema

try:
    import detectron2.config
except ImportError:
    detectron2 = None

#: detectron2 calls what torch has deprecated.
pytestmark = [
    pytest.mark.skipif(
        detectron2 is None, reason="detectron2 is not installed: make detectron2 builds it"
    ),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(1200),
]

SMALL = ["INPUT.MIN_SIZE_TEST", "96", "MODEL.RPN.POST_NMS_TOPK_TEST", "24"]
C4 = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
FPN = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


def picture() -> Image.Image:
    draw = np.random.default_rng(9)
    image = Image.fromarray(draw.integers(0, 256, (90, 120, 3), np.uint8))
    image.info["path"] = "photo.jpg"
    return image


@pytest.mark.parametrize(("config", "width"), [(FPN, 1024), (C4, 2048)])
def test_regions_are_those_of_detectron2s_own_inference(config: str, width: int) -> None:
    setting = Setting(weights="random:0", storage="float32")
    options = [*SMALL, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    made: Any = build("region:detectron2", {"config": config, "options": options}, setting)
    prepared = made.prepare(picture())
    row = made.extract([prepared])[0]
    schema.check_row("photo", row, made.spec)
    assert row["region"].shape == (len(row["boxes"]), width)
    assert 2 <= len(row["boxes"]) <= 24
    assert (row["boxes"] >= 0).all()
    assert (row["boxes"][:, 2:] <= [120, 90]).all()
    pixels = torch.from_numpy(prepared["pixels"].copy())
    with torch.inference_mode():
        seen = made.backend.see(pixels, 90, 120, None)
        found = made.backend.network([{"image": pixels.permute(2, 0, 1).float()}])[0]["instances"]
    assert len(found) > 0
    for score, kind in zip(found.scores.tolist(), found.pred_classes.tolist(), strict=True):
        gap = (seen.probs[:, kind + 1] - score).abs().min()
        assert gap < 1e-5, "a detection of detectron2 whose probability the backend does not have"


def test_given_boxes_and_a_checkpoint_of_the_model_zoos_kind(tmp_path: Path) -> None:
    """Weights saved as the zoo saves them, numpy arrays in a pickle, give the same features."""
    import pickle

    entry = {"photo.jpg": {"boxes": [[0, 0, 60, 45], [10, 10, 110, 80]]}}
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(entry))
    settings = {"config": FPN, "options": SMALL, "boxes": str(boxes)}
    seeded: Any = build("region:detectron2", settings, Setting(weights="random:3"))
    state = {k: v.numpy() for k, v in seeded.backend.network.state_dict().items()}
    zoo = tmp_path / "model_final.pkl"
    zoo.write_bytes(pickle.dumps({"model": state, "__author__": "someone"}))
    loaded = build("region:detectron2", settings, Setting(weights=str(zoo)))
    one = seeded.extract([seeded.prepare(picture())])[0]
    other = loaded.extract([loaded.prepare(picture())])[0]
    assert one["region"].shape == (2, 1024)
    np.testing.assert_array_equal(one["region"], other["region"])
    assert seeded.spec.fingerprint != loaded.spec.fingerprint


def test_models_without_region_features_and_unknown_configs_are_refused() -> None:
    setting = Setting(weights="random:0")
    for config, said in (
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "Faster or Mask"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "Faster or Mask"),
        ("no/such.yaml", "no detectron2 config"),
    ):
        with pytest.raises(ConfigError, match=said):
            build("region:detectron2", {"config": config}, setting)
    with pytest.raises(ConfigError, match="refuses"):
        build("region:detectron2", {"options": ["NO.SUCH", "1"]}, setting)
