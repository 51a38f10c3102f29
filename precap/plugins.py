"""A variant is a file: find it by its file name in a package, or by ``module:Class`` anywhere."""

import difflib
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

from precap.errors import ConfigError


def names(package: ModuleType) -> list[str]:
    """All built-in plugin names, without importing any of them."""
    found = pkgutil.iter_modules(package.__path__)
    return sorted(module.name for module in found if module.name[0] != "_")


def load(package: ModuleType, name: str) -> Any:
    """The class a plugin offers: ``PLUGIN`` of ``package/name.py``, or that of ``module:Class``.

    Raises ConfigError that lists what there is, and what was probably meant, for an unknown name.
    """
    if ":" in name:
        return _foreign(name)
    known = names(package)
    if name not in known:
        kind = package.__name__.rsplit(".", 1)[-1].removesuffix("s")
        raise ConfigError(f"There is no {kind} {name!r}.{guess(name, known)}")
    return import_module(f"{package.__name__}.{name}").PLUGIN


def guess(name: str, known: list[str]) -> str:
    """A sentence with the nearest known name, if any, and all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Available: {', '.join(known)}."


def _foreign(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"Could not load {name!r}: {error}. Give it as module:Class, with the module's folder "
            f"on PYTHONPATH."
        ) from error
