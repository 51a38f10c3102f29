"""What every torch extractor shares: precision, storage dtype, the spec, rows per image."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from precap.extract import devices
from precap.extract.contract import Setting
from precap.extract.images import DECODE
from precap.types import Features, FeatureSpec, Field

_COMPUTE = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: int8 is quantised by the store, row by row, from float32.
_HANDED = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}


def device(setting: Setting) -> str:
    """The torch device that ``setting`` names; ConfigError when this machine has none such."""
    return devices.here(setting.device)


@contextmanager
def forwarding(setting: Setting, where: str) -> Iterator[None]:
    """No gradients, the compute precision of ``setting``, and fp32 that means fp32 on a GPU too."""
    dtype = _COMPUTE[setting.compute]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if where.startswith("cuda"):
            cudnn = torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            stack.enter_context(cudnn)
        if dtype is not None:
            stack.enter_context(torch.autocast(where.partition(":")[0], dtype=dtype))
        yield


def rows(batch: Tensor, storage: str) -> NDArray[Any]:
    """(B, ...) on any device -> numpy in the dtype that ``storage`` asks to be handed."""
    array: NDArray[Any] = batch.to(_HANDED[storage]).cpu().contiguous().numpy()
    return array


def features(found: Mapping[str, Tensor], setting: Setting) -> list[Features]:
    """Named tensors with a batch axis -> one Features per image, in the storage dtype."""
    arrays = {name: rows(tensor, setting.storage) for name, tensor in found.items()}
    count = len(next(iter(arrays.values())))
    return [{name: array[i] for name, array in arrays.items()} for i in range(count)]


def spec(
    name: str,
    version: int,
    weights: str,
    fields: tuple[Field, ...],
    setting: Setting,
    **identity: Mapping[str, Any],
) -> FeatureSpec:
    """A FeatureSpec for an image extractor; ``identity``: its ``preprocess`` and ``config``."""
    return FeatureSpec(
        extractor=name,
        version=version,
        weights=weights,
        fields=fields,
        compute=setting.compute,
        decode=DECODE,
        views=setting.views,
        **identity,
    )
