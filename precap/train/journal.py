"""What a run leaves to read: log.jsonl and TensorBoard events, written by the first rank."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precap import atomic


class Journal:
    """Appends to ``log.jsonl``; on resume both logs go on from ``step``, later lines are cut."""

    def __init__(self, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = path / "log.jsonl"
        if self.path.exists():
            lines = _until(self.path.read_text("utf-8").splitlines(), step)
            atomic.write_text(self.path, "".join(line + "\n" for line in lines))
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(path), purge_step=step + 1)

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line, and a curve per number."""
        self.file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write everything out."""
        self.file.close()
        self.board.close()


def _until(lines: list[str], step: int) -> list[str]:
    kept = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # the torn last line of a killed process
            continue
        if values.get("step", 0) <= step:
            kept.append(line)
    return kept
