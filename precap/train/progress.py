"""Where a run stands: part of every checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precap.errors import DataError


@dataclass
class Progress:
    """phase: the name of the one last worked on, empty before the first. local: updates in it.

    pending: what the last update still waits for: "log", then "validate", then nothing.
    """

    step: int = 0
    phase: str = ""
    local: int = 0
    best: float | None = None
    best_step: int = 0
    waiting: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    averaged: int = 0
    seconds: float = 0.0
    stopped: str = "done"
    pending: str = ""

    @staticmethod
    def of(facts: Mapping[str, Any], where: Path) -> "Progress":
        """From a checkpoint's JSON."""
        try:
            at = Progress(**facts["progress"])
            if isinstance(at.phase, str):
                return at
        except (KeyError, TypeError):
            pass
        raise DataError(
            f"{where} was written by another version of precap. Go on with that version, or train "
            f"anew with --resume none."
        )

    def begin(self, phase: str) -> None:
        """At the start of a phase."""
        self.phase, self.local, self.waiting, self.stopped = phase, 0, 0, "done"

    def count(self) -> None:
        """One more update."""
        self.step, self.local, self.pending = self.step + 1, self.local + 1, "log"

    def over(self, total: int) -> bool:
        """Whether a phase of ``total`` updates has come to its end."""
        return not self.pending and (self.local >= total or self.stopped == "patience")

    def judge(self, scores: Mapping[str, float], select: str, patience: int) -> bool:
        """Take note of a validation; whether it is the best so far."""
        value = scores[select]
        better = self.best is None or value > self.best
        self.waiting = 0 if better else self.waiting + 1
        if better:
            self.best, self.best_step, self.scores = value, self.step, dict(scores)
        self.hope(patience)
        return better

    def hope(self, patience: int) -> None:
        """Stop, or go on after all, as this patience says."""
        self.stopped = "patience" if patience and self.waiting >= patience else "done"
