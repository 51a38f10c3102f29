"""Weights that others published: read without running their code, named as our heads name them."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from precap.errors import ConfigError, DataError
from precap.plugins import guess

#: Under which key training code keeps the weights, and what wrappers put before every name.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors, or of a torch file (``weights_only``: no code is run).

    ConfigError when there is no such file, DataError when it holds anything but plain data.
    """
    if not path.is_file():
        raise ConfigError(f"There is no weights file {path}. Check --init.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged: {error}. Get the file again.") from error
    try:
        with torch.serialization.safe_globals(_plain_numpy()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file it cannot read
        first = str(error).strip().splitlines()[0]
        raise DataError(
            f"{path} is no plain weights file ({first}). Only tensors and plain values are read; "
            f"save its state_dict as .safetensors where it was made."
        ) from error
    return unwrapped(found, path)


def unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefixes of DataParallel and compile."""
    while isinstance(found, Mapping) and not any(torch.is_tensor(v) for v in found.values()):
        inner = next((found[k] for k in WRAPPERS if isinstance(found.get(k), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not any(torch.is_tensor(v) for v in found.values()):
        raise DataError(f"{path} holds no named weights. Expected a state_dict.")
    state = {str(k): v for k, v in found.items() if torch.is_tensor(v)}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): v for name, v in state.items()}
    return state


def form_of(kind: type[Any], form: str) -> str:
    """The format's name: given, or the only one the head knows. ConfigError otherwise."""
    known: list[str] = sorted(getattr(sys.modules[kind.__module__], "IMPORTERS", {}))
    if not form and len(known) == 1:
        return known[0]
    if form not in known:
        if not known:
            raise ConfigError("This head reads no published weights. Leave --init out.")
        raise ConfigError(f"--init-format {form!r} is unknown to this head.{guess(form, known)}")
    return form


def options(kind: type[Any], form: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The head's options under which these weights give the published answers."""
    makers = getattr(sys.modules[kind.__module__], "IMPORT_OPTIONS", {})
    found: dict[str, Any] = makers[form](state) if form in makers else {}
    return found


def convert(kind: type[Any], form: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names; names the format does not know are a DataError."""
    converted: dict[str, Tensor] = sys.modules[kind.__module__].IMPORTERS[form](state)
    return converted


def _plain_numpy() -> list[Any]:
    """Arrays and scalars of numpy inside a checkpoint (random states, scores) are plain data."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    kinds = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "u1", "u4", "u8", "?")}
    found: list[Any] = [np.ndarray, np.dtype, *sorted(kinds, key=str)]
    for name in ("_reconstruct", "scalar"):
        found += [(getattr(core, name), f"numpy.{m}.multiarray.{name}") for m in ("core", "_core")]
    return found
