"""What a run folder holds besides checkpoints, and whether a training may go on in it."""

import hashlib
import json
from pathlib import Path

from precap.errors import ConfigError
from precap.train import vocab
from precap.train.prepare import Job
from precap.train.run import Recipe


def prepare(out: Path, job: Job) -> None:
    """run.json and vocab.json, before anything that needs them is written."""
    job.recipe.write(out / "run.json")
    vocab.write(job.vocabulary, out / "vocab.json")


def clear(out: Path) -> None:
    """Take away an earlier training's checkpoints and logs."""
    for name in ("last", "best"):
        for end in (".safetensors", ".json"):
            (out / f"{name}{end}").unlink(missing_ok=True)
    (out / "log.jsonl").unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()


def check_same(out: Path, job: Job) -> None:
    """A checkpoint only goes on under the head, features and vocabulary it was made with."""
    old, new = Recipe.read(out / "run.json"), job.recipe
    pairs = {
        "head": (old.config.head, new.config.head),
        "head options": (old.head_config, new.head_config),
        "features": (_features(old), _features(new)),
        "vocabulary": (_digest(vocab.read(out / "vocab.json")), _digest(job.vocabulary)),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            raise ConfigError(
                f"{out} holds a run with another {what} ({before}; now {now}). Choose another "
                f"--out, or --resume none to train it anew."
            )


def _features(recipe: Recipe) -> dict[str, tuple[str, str]]:
    return {r: (s.field.name, s.spec.fingerprint[:12]) for r, s in recipe.sources.items()}


def _digest(vocabulary: vocab.Vocabulary) -> str:
    text = json.dumps(vocabulary.as_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
