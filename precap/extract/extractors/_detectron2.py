"""Any region-based detectron2 model as a describer of regions, through detectron2's own API.

detectron2 is optional and imported only when asked for; docs/detectors.md says how to install it.
A model is a config file (of its model zoo by name, or a path) and its weights.
"""

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from precap.errors import ConfigError
from precap.extract import weights
from precap.extract.extractors._rcnn import Seen
from precap.extract.extractors._translate import fill, translate
from precap.store.importers import pickles

DEFAULT = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
#: In older files, computed by the model itself today.
_COMPUTED = ((r"^pixel_(mean|std)$|cell_anchors\.\d+$", None),)
_CHUNK = 100


class Detectron2:
    """Features of the box head (or of res5, averaged over space).

    ``first``: the number of the class at column 1 of the probabilities; detectron2 counts from 0.
    """

    first = 0

    def __init__(self, config: str, options: list[str], wanted: str, device: str) -> None:
        """config: "" for Faster R-CNN R50-FPN. options: detectron2's KEY, VALUE, KEY, VALUE ..."""
        cfg = _configured(_installed(), config, options)
        from detectron2.data.transforms import ResizeShortestEdge
        from detectron2.modeling import build_model

        own = cfg.MODEL.WEIGHTS
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"  # neither is part of what the model is
        self.identity: dict[str, Any] = {
            "network": config or DEFAULT,
            "config": hashlib.sha256(cfg.dump().encode()).hexdigest(),
        }
        cfg.MODEL.DEVICE = device
        self.network = build_model(cfg).eval()
        self.heads = _region_heads(self.network, config)
        self.width = int(self.heads.box_predictor.cls_score.in_features)
        wanted = own if wanted == "auto" and Path(own).is_file() else wanted
        found = weights.find(wanted, weights.Source(f"detectron2-{_stem(config)}", files=()))
        self.digest = found.digest
        _load(self.network, found)
        shortest = [cfg.INPUT.MIN_SIZE_TEST] * 2
        self.resize = ResizeShortestEdge(shortest, max_size=cfg.INPUT.MAX_SIZE_TEST)
        self.bgr = cfg.INPUT.FORMAT == "BGR"

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """(h, w, 3) uint8 at network size, in the model's channel order."""
        pixels = np.asarray(image)
        pixels = np.ascontiguousarray(pixels[:, :, ::-1] if self.bgr else pixels)
        resized: NDArray[Any] = self.resize.get_transform(pixels).apply_image(pixels)
        return resized

    def see(self, pixels: Tensor, height: int, width: int, given: Tensor | None) -> Seen:
        """pixels: what ``prepare`` made. given: boxes (R, 4) in original pixels, or None."""
        rows, columns = pixels.shape[:2]
        stretch = torch.tensor([columns / width, rows / height] * 2, device=pixels.device)
        images = self.network.preprocess_image([{"image": pixels.permute(2, 0, 1).float()}])
        maps = self.network.backbone(images.tensor)
        if given is None:
            proposals, _ = self.network.proposal_generator(images, maps, None)
            boxes = proposals[0].proposal_boxes.tensor.float()
        else:
            boxes = given * stretch
        regions = torch.cat([self._regions(maps, part) for part in torch.split(boxes, _CHUNK)])
        logits, _ = self.heads.box_predictor(regions)
        probs = logits.float().softmax(1).roll(1, 1)  # detectron2 has the background last
        return Seen(regions, boxes / stretch if given is None else given, probs)

    def _regions(self, maps: dict[str, Tensor], boxes: Tensor) -> Tensor:
        from detectron2.structures import Boxes

        heads, at = self.heads, [Boxes(boxes)]
        if hasattr(heads, "res5"):
            levels = [maps[name] for name in heads.in_features]
            found: Tensor = heads._shared_roi_transform(levels, at).mean((2, 3))
        else:
            levels = [maps[name] for name in heads.box_in_features]
            found = heads.box_head(heads.box_pooler(levels, at))
        return found


def _installed() -> ModuleType:
    try:
        import detectron2.config  # a folder named detectron2 nearby would pass as the bare package
    except ImportError as error:
        raise ConfigError(
            "backend detectron2 needs the package detectron2, which is not installed here. Run "
            "`make detectron2` (about 3 minutes; needs git and g++), or leave the backend out: "
            "torchvision needs nothing more."
        ) from error
    return detectron2  # type: ignore[no-any-return]


def _configured(package: ModuleType, config: str, options: list[str]) -> Any:
    from detectron2.config import get_cfg

    shipped = Path(str(package.__file__)).parent / "model_zoo" / "configs"
    path = next((p for p in (Path(config), shipped / (config or DEFAULT)) if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"There is no detectron2 config {config!r}: neither a file nor in its model zoo, such "
            f"as {DEFAULT}."
        )
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path))
        cfg.merge_from_list(options)
    except (KeyError, AssertionError, ValueError) as error:
        raise ConfigError(f"detectron2 refuses {path} with {options}: {error}") from error
    return cfg


def _region_heads(network: Any, config: str) -> Any:
    heads = getattr(network, "roi_heads", None)
    if not hasattr(getattr(heads, "box_predictor", None), "cls_score"):
        raise ConfigError(
            f"detectron2 config {config!r} builds {type(network).__name__} without one box head "
            f"whose features describe a region. Use a Faster or Mask R-CNN, not a cascade."
        )
    return heads


def _load(network: Any, found: weights.Weights) -> None:
    if found.path is None or found.path.suffix != ".pkl":
        fill(network, found, _COMPUTED)
    else:
        weights.fit(network, translate(_zoo(found.path), _COMPUTED), str(found.path))


def _zoo(path: Path) -> dict[str, Tensor]:
    """The model zoo's pickles of numpy arrays, read without running anything."""
    with path.open("rb") as file:
        content = pickles.load(file, str(path))
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{path} holds no detectron2 model.")
    return {k: torch.tensor(pickles.plain(v)) for k, v in content["model"].items()}


def _stem(config: str) -> str:
    return Path(config or DEFAULT).stem
