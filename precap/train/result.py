"""What a training came to, or why it stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from precap.errors import PrecapError


class TrainingError(PrecapError):
    """Training cannot go on; the last checkpoint is as it was."""


def diverged(out: Path, loss: float, step: int) -> TrainingError:
    """The loss is not a number any more."""
    there = (out / "last.safetensors").exists()
    kept = f"The last checkpoint in {out} is intact." if there else "Nothing was saved yet."
    return TrainingError(
        f"The loss became {loss} at step {step}. {kept} Train anew (--resume none, or another "
        f"--out) with a lower learning rate (--set xe.optim.lr=...), clip_norm=1, or "
        f"precision=fp32; look at the features with `precap store info` for huge values."
    )


@dataclass(frozen=True)
class RunResult:
    """What a training came to. ``scores``: of the best checkpoint on the validation split.

    peak_memory: bytes, of the device on CUDA, else of this process. stopped: "done" or "patience".
    rank: of the process that returns it; torchrun starts many, and the first one reports.
    """

    path: Path
    best: float | None
    best_step: int
    steps: int
    minutes: float
    scores: Mapping[str, float]
    parameters: int
    peak_memory: int
    stopped: str
    rank: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path), "scores": dict(self.scores)}

    def __str__(self) -> str:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        return (
            f"{self.path}: {self.parameters / 1e6:.1f} M parameters, {self.steps:,} steps in "
            f"{self.minutes:.1f} min, peak memory {self.peak_memory / 2**30:.2f} GiB\n"
            f"best at step {self.best_step:,} on validation: {scores or 'not validated'}"
        )
