"""Find an extractor's weights, take their sha256, read them safely, or say which file goes where.

``auto`` looks in this order: precap's own folder ($PRECAP_WEIGHTS, else ~/.cache/precap/weights),
the caches that the model libraries keep, and the Hugging Face hub when it can be reached.
``random:SEED`` is only ever used when the user asks for it. Pickles that hold more than tensors
are refused: they could run any program.
"""

import hashlib
import os
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from precap import hub
from precap.errors import ConfigError

State = dict[str, torch.Tensor]
SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".pkl")


#: How torch's files begin: a zip archive, or a bare pickle of older versions.
_CHECKPOINTS = (b"PK\x03\x04", b"\x80")
#: From a pickle to a file that cannot run code; unwraps as ``load_state`` does.
_CONVERT = (
    "import torch, safetensors.torch as s; "
    "m = torch.load('{}', weights_only=False, map_location='cpu'); names = dict(m) if "
    "isinstance(m, dict) else {{}}; m = next((names[k] for k in ('state_dict', 'model', "
    "'model_state_dict') if k in names), m); m = m.state_dict() if hasattr(m, 'state_dict') "
    "else m; s.save_file({{k: v.clone().contiguous() for k, v in m.items() "
    "if torch.is_tensor(v)}}, '{}')"
)


@dataclass(frozen=True)
class Source:
    """Where the published weights of one model are kept.

    name: what the file is called, without suffix, in precap's own folder. repo, files: a hub
    repository and the file names to try there. url: the original download, for the message.
    """

    name: str
    repo: str = ""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    url: str = ""


@dataclass(frozen=True)
class Weights:
    """Weights that were found. ``digest`` enters the spec; one of ``path`` and ``seed`` is set."""

    digest: str
    path: Path | None = None
    seed: int | None = None


def folder() -> Path:
    """precap's own weights folder."""
    own = os.environ.get("PRECAP_WEIGHTS")
    return Path(own) if own else Path.home() / ".cache" / "precap" / "weights"


def find(wanted: str, source: Source) -> Weights:
    """What "auto", "random:SEED" or a path means for ``source``; ConfigError when there is none."""
    check(wanted)
    kind, _, seed = wanted.partition(":")
    if kind == "random":
        return Weights(f"random:{_seed(seed)}", seed=_seed(seed))
    if wanted != "auto":
        path = Path(wanted).expanduser()
        if path.is_dir():
            raise ConfigError(f"--weights {path} is a folder. Name the file in it.")
        return Weights(sha256(path), path)
    known = (
        _own(source)
        or _library_cache(source)
        or hub.fetch(source.repo, source.files, offline=False)
    )
    if known is None:
        raise ConfigError(_missing(source))
    return Weights(sha256(known), known)


def check(wanted: str) -> None:
    """ConfigError for what no extractor can use: a seed that is no number, a path to nothing."""
    kind, _, seed = wanted.partition(":")
    if kind == "random":
        _seed(seed)
    elif wanted != "auto" and not Path(wanted).expanduser().exists():
        raise ConfigError(
            f"There is no weights file {wanted}. Give --weights FILE, auto or random:SEED."
        )


def sha256(path: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state(path: Path) -> State:
    """The tensors of a checkpoint by name: safetensors, or a pickle of tensors and plain values.

    ``{"model": ...}``, ``{"state_dict": ...}`` and a ``module.`` prefix are taken off. Raises
    ConfigError for a damaged file, and for a pickle that would need to run code.
    """
    content = _content(path)
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise ConfigError(f"{path} holds no tensors. Is it a checkpoint of a model?")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def fit(module: torch.nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load ``state`` into ``module``, every key matched. ConfigError names what does not fit."""
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    problems = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
    said = [f"{len(n)} {what} (e.g. {', '.join(n[:3])})" for what, n in problems if n]
    if said:
        raise ConfigError(
            f"{where} does not fit {type(module).__name__}: {'; '.join(said)}. Name the model "
            f"variant that these weights belong to."
        )
    module.load_state_dict(dict(state), strict=False)


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fill ``module`` from ``seed`` and each parameter's name: the same on every machine.

    Matrices and kernels N(0, 1/fan_in), norm scales 1, biases 0, running statistics 0 and 1.
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or name.endswith("num_batches_tracked"):
                continue
            value = _random(name, tuple(tensor.shape), seed)
            if value is not None:
                tensor.copy_(torch.from_numpy(value))


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any] | None:
    if not shape:
        return None
    if name.endswith(("running_mean", "bias")) and len(shape) == 1:
        return np.zeros(shape, np.float32)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return np.ones(shape, np.float32)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    stream = np.random.default_rng(zlib.crc32(f"{seed}:{name}".encode()))
    values = stream.standard_normal(shape, dtype=np.float32)
    return np.asarray(values / np.float32(np.sqrt(fan_in)), np.float32)


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--weights random:{text} needs a whole number: random:0.") from error


def _content(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} {_why(path, error)}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} holds {type(content).__name__}, not named tensors.")
    return content


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be loaded, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix != ".safetensors" and not start.startswith(_CHECKPOINTS):
        return (
            f"is no checkpoint: it begins with {start!r}, like neither of torch's formats. If it "
            f"is a web page or a pointer saved under that name, download it again."
        )
    if isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error):
        return (
            f"is a pickle that could run code, and was not loaded. If you trust where it comes "
            f'from, convert it once: python -c "{_CONVERT.format(path, _converted(path))}" and '
            f"give {_converted(path)}."
        )
    said = str(error).partition("\n")[0]
    return f"is damaged ({said}): cut short or changed on its way. Copy or download it again."


def _converted(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _own(source: Source) -> Path | None:
    paths = (folder() / f"{source.name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _library_cache(source: Source) -> Path | None:
    file = source.url.rsplit("/", 1)[-1]
    homes = (Path(torch.hub.get_dir()) / "checkpoints", Path.home() / ".cache" / "clip")
    if file and Path(file).suffix in SUFFIXES:
        found = next((home / file for home in homes if (home / file).is_file()), None)
        if found:
            return found
    return hub.fetch(source.repo, source.files, offline=True)


def _missing(source: Source) -> str:
    place = folder() / f"{source.name}.safetensors"
    ways: list[str] = []
    if source.repo:
        ways.append(f"hf download {source.repo}  (on a machine that reaches the hub)")
    if source.url:
        ways.append(f"download {source.url}")
    how = f" To get it: {'; or '.join(ways)}." if ways else ""
    hub = "the hub could not be reached" if source.repo else "no hub offers them"
    return (
        f"The weights of {source.name} are not on this machine and {hub}. "
        f"Put the file at {place} (.pt, .pth, .th, .bin work too) or pass --weights FILE.{how} For "
        f"a trial without real weights: --weights random:0."
    )
