"""What a repeated command may change of a run, and what would make it another run."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from precap.config import as_dict
from precap.errors import ConfigError
from precap.train.progress import Progress
from precap.train.run import Recipe

#: They change no update, or none that is still to be checked: the new command's values count.
FREE = (
    "accumulate", "cache", "compile", "decode", "device", "log_every", "patience", "resume",
    "save_every", "save_minutes", "threads", "validate_epochs", "validate_steps",
)  # fmt: skip
#: Compared by what they led to: the head's config, the stores' fingerprints, the vocabulary.
LED_TO = ("head_config", "features", "text.files")
PHASES = ("xe", "scst")


def settle(old: Recipe, new: Recipe, at: Progress, total: int, out: Path) -> Recipe:
    """The recipe under which the run in ``out`` goes on: the new one, as far as it may change it.

    at: where the run stands. total: updates that its phase has under ``new``, 0 when it is left
    out. A phase that has begun keeps its options but may become longer; one that is over may be
    left out, and stays in the recipe. ConfigError names every change that is refused.
    """
    before, now = dict(_options(old)), dict(_options(new))
    refused = [
        f"{name} {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and not _may(name, new, at, total)
    ]
    if refused:
        raise ConfigError(
            f"{out} holds a run that cannot go on with other options: {'; '.join(refused)}. "
            f"Repeat the command with the old values, choose another --out, or --resume none to "
            f"train it anew."
        )
    kept = {
        name: getattr(old.config, name)
        for name in PHASES[: place(at.phase) + 1]
        if not getattr(new.config, name).epochs
    }
    return replace(new, config=replace(new.config, **kept))


def _may(name: str, new: Recipe, at: Progress, total: int) -> bool:
    """Whether this option may differ from the run's."""
    first, _, rest = name.partition(".")
    if name == "select":
        return at.best is None
    if name == "decode.longest" and at.phase == "scst":  # how long its candidates are
        return total == 0 or at.over(total)
    if first not in PHASES:
        return first in FREE
    if place(first) > place(at.phase) or not getattr(new.config, first).epochs:
        return True
    return first == at.phase and rest == "epochs" and at.local <= total


def place(phase: str) -> int:
    """The number of a phase, -1 before the first."""
    return PHASES.index(phase) if phase in PHASES else -1


def _options(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every option with its whole name, and what the features are."""
    for name, value in _flat(as_dict(recipe.config)):
        if not name.startswith(LED_TO):
            yield name, value
    for name, value in as_dict(recipe.head_config).items():
        yield f"head.{name}", value
    for role, source in recipe.sources.items():
        yield f"features.{role}", f"{source.field.name} {source.spec.fingerprint[:12]}"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value
