"""One file holds one consistent moment: weights, optimiser, average, random state, position.

``last.safetensors`` and ``best.safetensors``: tensors ``model.*``, ``ema.*``, ``optim.N.*``,
``rng.*``; everything else is JSON in the file's own metadata, so that no crash can tear the two
apart. ``last.json`` and ``best.json`` repeat that JSON for people; nothing reads them back.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from precap import atomic
from precap.errors import ConfigError, DataError
from precap.train.optim import Average

Tensors = dict[str, Tensor]

#: What a file system without hard links answers.
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def gather(
    head: nn.Module, optimizer: torch.optim.Optimizer | None, average: Average | None
) -> Tensors:
    """Copies-free view of everything that must survive."""
    tensors = {f"model.{k}": v for k, v in unique(head).items()}
    if average is not None:
        names = [k for k, p in head.named_parameters() if p.requires_grad]
        tensors |= {f"ema.{k}": v for k, v in zip(names, average.shadow, strict=True)}
    if optimizer is not None:
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{number}.{k}": v for k, v in state.items() if torch.is_tensor(v)}
    return tensors | {f"rng.{k}": v for k, v in random_state().items()}


def unique(head: nn.Module) -> Tensors:
    """The state_dict, each tensor once: tied weights under their first name."""
    seen, kept = set[int](), Tensors()
    for name, value in head.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            kept[name] = value.detach()
    return kept


def random_state() -> Tensors:
    """The states of torch's random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: Mapping[str, Tensor]) -> None:
    """Back to ``random_state``."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def save(path: Path, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write ``path`` (.safetensors) whole or not at all, then the JSON beside it."""
    text = json.dumps(facts, ensure_ascii=False)
    with atomic.replacing(path) as partial:
        solid = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
        try:
            save_file(solid, partial, metadata={"precap": text})
        except SafetensorError as error:  # it hides the operating system's error in its text
            raise _os_error(error) from error
    atomic.write_text(path.with_suffix(".json"), json.dumps(facts, indent=1, ensure_ascii=False))


def promote(last: Path, best: Path) -> None:
    """Make ``best`` the same moment as ``last``: a second name of the file, or else a copy."""
    with atomic.replacing(best) as partial:
        try:
            os.link(last, partial)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(last, partial)
    atomic.write_text(best.with_suffix(".json"), last.with_suffix(".json").read_text("utf-8"))


def load(path: Path, prefixes: tuple[str, ...] = ()) -> tuple[Tensors, dict[str, Any]]:
    """Tensors (whose name begins with one of ``prefixes``, or all) and facts of a checkpoint."""
    try:
        with safe_open(path, "pt") as file:
            names = [k for k in file.keys() if not prefixes or k.startswith(prefixes)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            facts = json.loads((file.metadata() or {})["precap"])
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no checkpoint {path}. Train first, or check the path."
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no checkpoint of this tool, or damaged ({error}). Use the other one of "
            f"last and best, or train again."
        ) from error
    return tensors, facts


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors below ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_weights(
    head: nn.Module, tensors: Tensors, where: str, named: Callable[[str], str] = str
) -> None:
    """Strictly: DataError lists every missing, unexpected and misshapen tensor as ``named``."""
    own = unique(head)
    wrong = [f"{named(k)} is missing" for k in own if k not in tensors]
    wrong += [f"{named(k)} is unexpected" for k in tensors if k not in own]
    wrong += [
        f"{named(k)} is {list(v.shape)} and must be {list(own[k].shape)}"
        for k, v in tensors.items()
        if k in own and v.shape != own[k].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise DataError(
            f"The weights of {where} do not fit this head: {shown}. Use the head, features and "
            f"vocabulary they were trained with."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def take(head: nn.Module, path: Path) -> dict[str, Any]:
    """Give ``head`` the weights of a checkpoint, the averaged ones if it has them; its facts."""
    tensors, facts = load(path, ("model.", "ema."))
    load_weights(head, part(tensors, "model.") | part(tensors, "ema."), str(path))
    return facts


def restore(
    tensors: Tensors,
    head: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: Average | None,
    where: str,
) -> None:
    """Put back what ``gather`` took."""
    load_weights(head, part(tensors, "model."), where)
    shadows = part(tensors, "ema.")
    if average is not None and shadows:
        names = [k for k, p in head.named_parameters() if p.requires_grad]
        for name, shadow in zip(names, average.shadow, strict=True):
            shadow.copy_(shadows[name])
    moments = part(tensors, "optim.")
    if optimizer is not None and moments:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    set_random_state(part(tensors, "rng."))


def _os_error(error: SafetensorError) -> Exception:
    """The OSError behind a SafetensorError such as "... No space left on device (os error 28)"."""
    _, found, tail = str(error).rpartition("(os error ")
    digits = "".join(c for c in tail if c.isdigit())
    return OSError(int(digits), str(error)) if found and digits else error
