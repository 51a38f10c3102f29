"""Weights that others published: read without running their code, named as our heads name them."""

import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from precap import plugins
from precap.errors import ConfigError, DataError
from precap.plugins import guess
from precap.train import checkpoint, heads

#: Under which key training code keeps the weights, and what wrappers put before every name.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
#: How torch's files begin: a zip archive, or a bare pickle of older versions.
FORMATS = (b"PK", b"\x80")


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
        start = _start(path)
        if not start.startswith(FORMATS):
            raise DataError(
                f"{path} is no checkpoint: it begins with {start!r}, like neither of torch's "
                f"formats. If it is a web page or a pointer saved under that name, download it "
                f"again."
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if _damaged(path, error):
            raise DataError(
                f"{path} is damaged or cut short ({first}). Compare its size with its origin's and "
                f"get the file again."
            ) from error
        raise DataError(
            f"{path} is no plain weights file ({first}). Only tensors and plain values are read; "
            f"save its state_dict as .safetensors where it was made."
        ) from error
    return unwrapped(found, path)


def _damaged(path: Path, error: Exception) -> bool:
    """Whether a torch file breaks off, as opposed to one that holds more than plain data."""
    start = _start(path)
    if start[:2] == b"PK":
        return not zipfile.is_zipfile(path)
    cut = isinstance(error, EOFError) or "EOF" in str(error) or "corrupt" in str(error)
    ran_out = isinstance(error, IndexError | pickle.UnpicklingError) and "ran out" in str(error)
    return start[:1] == b"\x80" and (cut or ran_out or isinstance(error, IndexError))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


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


def formats(kind: type[Any]) -> list[str]:
    """The formats that a head reads."""
    return sorted(getattr(sys.modules[kind.__module__], "IMPORTERS", {}))


def head_of(form: str, path: Path) -> str:
    """The built-in head that reads ``form``; where several do, the one that knows these weights."""
    kinds = {name: plugins.load(heads, name) for name in plugins.names(heads)}
    known = sorted({form for kind in kinds.values() for form in formats(kind)})
    if not form:
        raise ConfigError(
            f"--init needs --head, or --init-format to choose the head by. Formats: "
            f"{', '.join(known)}."
        )
    if form not in known:
        raise ConfigError(f"--init-format {form!r} is unknown.{guess(form, known)}")
    found = [name for name, kind in kinds.items() if form in formats(kind)]
    if len(found) > 1:
        state = read(path)
        found = [name for name in found if _knows(kinds[name], form, state)] or found
    if len(found) > 1:
        raise ConfigError(f"--init-format {form} could be for {' or '.join(found)}: say --head.")
    return found[0]


def _knows(kind: type[Any], form: str, state: Mapping[str, Tensor]) -> bool:
    try:
        options(kind, form, state)
    except DataError:
        return False
    return True


def form_of(kind: type[Any], form: str) -> str:
    """The format's name: given, or the only one the head knows. ConfigError otherwise."""
    known = formats(kind)
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


def load(head: Any, form: str, state: Mapping[str, Tensor], where: str) -> None:
    """Give ``head`` the weights of ``where``, strictly; DataError under the names of that file."""
    kind, origin = type(head), dict[str, str]()

    def named(ours: str) -> str:
        if not origin:
            origin.update(_origins(kind, form, state))
        theirs = origin.get(ours, ours)
        return theirs if theirs == ours else f"{theirs} (here {ours})"

    checkpoint.load_weights(head, convert(kind, form, state), where, named)


def _origins(kind: type[Any], form: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name -> the file's, for what the file holds and for what it should hold besides.

    Found by converting tensors whose every number is the place of their name in a list.
    """
    shapes: dict[str, Any] = {name: value.shape for name, value in state.items()}
    most = max((int(n) for name in state for n in re.findall(r"\d+", name)), default=0)
    for name, value in state.items():
        for other, shape in _neighbours(name, tuple(value.shape), min(most, 64)):
            shapes.setdefault(other, shape)
    names = list(shapes)
    marks = {k: torch.tensor(float(i)).expand(shapes[k]) for i, k in enumerate(names)}
    found = convert(kind, form, marks)
    return {k: names[int(v[(0,) * v.dim()])] for k, v in found.items() if v.numel()}


def _neighbours(
    name: str, shape: tuple[int, ...], most: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names that a complete file would have beside ``name``: other layers, its weight or bias."""
    stem, _, last = name.rpartition(".")
    names = {name: shape}
    if last == "weight" and len(shape) > 1:
        names[f"{stem}.bias"] = shape[:1]
    elif last == "bias":
        names[f"{stem}.weight"] = (*shape, 1)
    for key, size in names.items():
        yield key, size
        for match in re.finditer(r"(?<=\.)\d+(?=\.)", key):
            for number in range(most + 1):
                yield f"{key[: match.start()]}{number}{key[match.end() :]}", size


def _plain_numpy() -> list[Any]:
    """Arrays and scalars of numpy inside a checkpoint (random states, scores) are plain data."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    kinds = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "u1", "u4", "u8", "?")}
    found: list[Any] = [np.ndarray, np.dtype, *sorted(kinds, key=str)]
    for name in ("_reconstruct", "scalar"):
        found += [(getattr(core, name), f"numpy.{m}.multiarray.{name}") for m in ("core", "_core")]
    return found
