"""Counting while a run trains: sums since the last line, rates, what is left, who is told."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precap.train.distributed import Ranks
from precap.train.events import Event, Kind
from precap.train.journal import Journal


class Meter:
    """Sums figures on the device, so that a step never waits for them; reads them at a line."""

    def __init__(self, ranks: Ranks, device: torch.device, tell: Callable[[Event], None]) -> None:
        self.ranks, self.device, self.tell = ranks, device, tell
        self.sums: dict[str, Tensor] = {}
        self.journal: Journal | None = None
        self.speed, self.mark = 0.0, time.perf_counter()

    def open(self, path: Path, step: int) -> None:
        """Begin or continue the logs in ``path``; only the first rank writes."""
        if self.ranks.first:
            self.journal = Journal(path, step)
        self.mark = time.perf_counter()

    def close(self) -> None:
        """Write everything out."""
        if self.journal:
            self.journal.close()

    def note(self, figures: Mapping[str, Tensor]) -> None:
        """Add to the sums since the last line."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0) + value.to(self.device, torch.float64)

    def saved(self) -> dict[str, float]:
        """The sums as plain values, for a checkpoint."""
        return {name: float(value) for name, value in self.sums.items()}

    def restore(self, sums: Mapping[str, float]) -> None:
        """Back to ``saved``."""
        self.sums = {
            k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in sums.items()
        }

    def means(self, waited: float) -> dict[str, float]:
        """Loss, reward and rates since the last line, over all ranks; starts a new line."""
        names = sorted(self.sums)
        summed = self.ranks.add(torch.stack([self.sums[n] for n in names]))
        sums = dict(zip(names, summed.tolist(), strict=True))
        now = time.perf_counter()
        seconds, self.mark, self.sums = max(now - self.mark, 1e-9), now, {}
        updates = sums["updates"] / self.ranks.world
        self.speed = seconds / updates
        values = {"loss": sums["loss"] / updates}
        if sums.get("candidates"):
            values["reward"] = sums["reward"] / sums["candidates"]
        images = sums["images"] / self.ranks.world
        return values | {"images_per_second": images / seconds, "wait": waited / seconds}

    def paused(self, seconds: float) -> None:
        """This time was not training."""
        self.mark += seconds

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """To the run's logs."""
        if self.journal:
            self.journal.add(kind, step, dict(values))

    def emit(
        self,
        kind: Kind,
        step: int,
        left: int,
        values: Mapping[str, float] | None = None,
        message: str = "",
    ) -> None:
        """To the caller, from the first rank only."""
        if self.ranks.first:
            self.tell(Event(kind, step, step + left, values or {}, left * self.speed, message))
