"""A variant is a file: find it by its file name in a package, or by ``module:Class`` anywhere."""

import difflib
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from precap.errors import ConfigError

#: A module without this line, such as a package's contract, is no plugin.
_OFFER = re.compile(rb"^PLUGIN\b", re.MULTILINE)


def names(package: ModuleType) -> list[str]:
    """All built-in plugin names, without importing any of them."""
    return list(_names(package))


@cache  # every store that is opened asks
def _names(package: ModuleType) -> tuple[str, ...]:
    files = (file for folder in package.__path__ for file in Path(folder).glob("[!_]*.py"))
    return tuple(sorted(file.stem for file in files if _OFFER.search(file.read_bytes())))


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
        if module[:1] in ("", "."):
            raise ImportError(f"{module!r} is no module")
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"Could not load {name!r}: {error}. Give it as module:Class, with the module's folder "
            f"on PYTHONPATH."
        ) from error
