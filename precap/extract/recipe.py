"""How to build an extractor: its name, its options, where it computes. Picklable, plain JSON."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from precap import config, plugins
from precap.errors import ConfigError
from precap.extract import devices
from precap.extract.contract import Extractor, Setting
from precap.types import FeatureSpec

COMPUTE = ("fp32", "bf16", "fp16")
#: Storage of floating-point fields.
STORED = ("float32", "float16", "int8")
#: What must be read for an option to mean anything.
_MEANT = {"parent": "store", "views": "image"}
#: What an extractor's class has, and how each is known.
_PARTS: Mapping[str, Callable[[Any], bool]] = {
    "Config": is_dataclass,
    "reads": lambda value: value in ("image", "store"),
    "prepare": callable,
    "extract": callable,
}


@dataclass(frozen=True)
class Recipe:
    """extractor: "clip:ViT-L-14", "grid" or "module:Class". settings: its Config options."""

    extractor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    setting: Setting = field(default_factory=Setting)

    def build(self, *, strict: bool = False) -> Extractor:
        """The extractor, weights loaded; ``strict``: ConfigError for a parent or views in vain."""
        if strict and self.setting.parent and find(self.extractor)[0].reads != "store":
            raise ConfigError(f"{self.extractor} reads no other store. Leave out --parent.")
        made = build(self.extractor, self.settings, self.setting)
        views = made.spec.views
        if strict and self.setting.views not in (1, views):
            whose = "its parent's" if made.reads == "store" else "its own"
            raise ConfigError(
                f"--views {self.setting.views} does nothing: {self.extractor} keeps {whose} number "
                f"of views, {views}. Leave it out."
            )
        return made

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them back."""
        setting = {**asdict(self.setting), "parent": _text(self.setting.parent)}
        return {
            "extractor": self.extractor,
            "settings": dict(self.settings),
            "setting": setting,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Recipe":
        """The recipe written by ``as_json``."""
        known = dict(values["setting"])
        parent = known.pop("parent", None)
        setting = Setting(**known, parent=Path(parent) if parent else None)
        return Recipe(values["extractor"], values["settings"], setting)


def build(extractor: str, settings: Mapping[str, Any], setting: Setting) -> Extractor:
    """Make the extractor that ``extractor`` names; ConfigError for unknown names and options."""
    kind, _ = find(extractor)
    _check(setting)
    made: Extractor = kind(configured(kind, extractor, settings), setting)
    if not isinstance(getattr(made, "spec", None), FeatureSpec):
        raise ConfigError(f"{extractor} is no extractor: once built it has no spec, a FeatureSpec.")
    return made


def _check(setting: Setting) -> None:
    """For every extractor, also for one that does not ask."""
    devices.check(setting.device)
    if setting.compute not in COMPUTE:
        known = ", ".join(COMPUTE)
        raise ConfigError(f"There is no compute precision {setting.compute!r}. Use one of {known}.")
    if setting.storage not in STORED:
        known = ", ".join(STORED)
        raise ConfigError(f"Features cannot be stored as {setting.storage!r}. Use one of {known}.")


def shared(extractors: Iterable[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Extractor -> its part of the options that were given for several.

    ``parent`` is for those that read a store, ``views`` for those that read pictures; what is for
    none of them is left to each, to be refused.
    """
    reads = {name: find(name)[0].reads for name in extractors}
    return {
        name: {
            key: value
            for key, value in options.items()
            if _MEANT.get(key) == own or _MEANT.get(key) not in reads.values()
        }
        for name, own in reads.items()
    }


def configured(kind: type[Any], extractor: str, settings: Mapping[str, Any]) -> Any:
    """The Config of ``kind`` from its options and from the variant in its name."""
    values, variant = dict(settings), find(extractor)[1]
    if variant:
        first = fields(kind.Config)[0].name
        if values.get(first, variant) != variant:
            raise ConfigError(f"{extractor}: {first} is given twice: {variant}, {values[first]}.")
        values[first] = variant
    return config.build(kind.Config, values, f"extractor {extractor}")


def find(extractor: str) -> tuple[type[Any], str]:
    """The class that ``extractor`` names, and its variant ("" when none is named)."""
    from precap.extract import extractors

    name, _, variant = extractor.partition(":")
    if name in plugins.names(extractors) or not variant:
        return plugins.load(extractors, name), variant
    kind = plugins.load(extractors, extractor)
    lacking = [what for what, has in _PARTS.items() if not has(getattr(kind, what, None))]
    if lacking or not callable(kind):
        raise ConfigError(
            f"{extractor} is no extractor: it lacks {', '.join(lacking) or 'a way to build it'}. "
            f"One has Config (a frozen dataclass of its options), reads ('image' or 'store'), "
            f"prepare and extract, as docs/extractors.md shows."
        )
    return kind, ""


def store_name(extractor: str) -> str:
    """The folder name of its store: "clip:ViT-L-14" gives "clip-ViT-L-14"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", extractor).strip("-.")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
