"""What ``--device`` names, and whether this machine has it."""

import re

from precap.errors import ConfigError

_DEVICE = re.compile(r"auto|cpu|mps|xpu|cuda(:[0-9]+)?")


def check(name: str) -> None:
    """ConfigError for a name that is no device on any machine."""
    if not _DEVICE.fullmatch(name):
        raise ConfigError(f"--device {name!r} is no device. Use auto, cpu, cuda or cuda:1.")


def here(name: str) -> str:
    """``auto`` as what there is on this machine; ConfigError for what it lacks."""
    check(name)
    if name != "auto" and not name.startswith("cuda"):
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise ConfigError(f"--device {name}: this machine has no CUDA device. Use cpu or auto.")
    if int(name.partition(":")[2] or 0) >= count:
        raise ConfigError(
            f"--device {name}: this machine has {count} CUDA devices, the first is cuda:0. Use one "
            f"of them, cpu or auto."
        )
    return name
