"""How to build an extractor: its name, its options, where it computes. Picklable, plain JSON."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from precap import config, plugins
from precap.errors import ConfigError
from precap.extract.contract import Extractor, Setting


@dataclass(frozen=True)
class Recipe:
    """extractor: "clip:ViT-L-14", "grid" or "module:Class". settings: its Config options."""

    extractor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    setting: Setting = field(default_factory=Setting)

    def build(self) -> Extractor:
        """The extractor, weights loaded."""
        return build(self.extractor, self.settings, self.setting)

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
    made: Extractor = kind(configured(kind, extractor, settings), setting)
    return made


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
    return plugins.load(extractors, extractor), ""


def store_name(extractor: str) -> str:
    """The folder name of its store: "clip:ViT-L-14" gives "clip-ViT-L-14"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", extractor).strip("-.")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
