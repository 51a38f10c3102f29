"""Where features came from: recorded beside a store's identity, never part of it."""

import platform
import socket
from importlib import metadata
from typing import Any

from precap import __version__
from precap.extract.recipe import Recipe

_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "pillow", "numpy", "detectron2")


def provenance(recipe: Recipe) -> dict[str, Any]:
    """The recipe, versions of the libraries, host and device, as plain JSON values."""
    versions = {"precap": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "recipe": recipe.as_json(),
        "versions": versions,
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "device": recipe.setting.device,
    }
