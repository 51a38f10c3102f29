"""From batches and commits to events: how far, how fast, what was lost, and by whom."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from precap.extract.flow import Shard
from precap.store.ledger import ShardRecord

#: An event is a flat mapping: done, total, unit, rate, eta (seconds), note, reasons, workers.
Listener = Callable[[Mapping[str, Any]], None]


class Progress:
    """Turns batches and commits into events.

    ``workers`` of an event: "host:pid" -> images per second while it had a shard, for every process
    that committed one in this run.
    """

    def __init__(self, total: int, on_event: Listener) -> None:
        self.total, self.committed = total, 0
        self._listen, self._begun = on_event, time.monotonic()
        self._reasons: Counter[str] = Counter()
        self._images: Counter[str] = Counter()  # by worker
        self._seconds: Counter[str] = Counter()
        self._open: dict[int, int] = {}  # shard -> images done
        self._said = (-1, -1, -1)

    def show(self, shard: Shard) -> None:
        """Images done so far, committed or not."""
        self._open[shard.number] = shard.done
        self._emit()

    def commit(self, record: ShardRecord) -> None:
        """A shard is durable."""
        self._open.pop(record.shard, None)
        images = record.ok + len(record.absent)
        self.committed += images
        self._reasons.update(f"{status}: {reason}" for _, status, reason, _ in record.absent)
        worker = f"{record.host}:{record.pid}"
        self._images[worker] += images
        self._seconds[worker] += record.seconds  # type: ignore[assignment]
        self._emit()

    def forget(self, images: int) -> None:
        """Another process has committed a shard that was counted as ours."""
        self.total -= images
        self._emit()

    def note(self, text: str) -> None:
        """Say something once."""
        self._listen({"note": text})

    def _rates(self) -> dict[str, float]:
        return {w: n / max(self._seconds[w], 1e-3) for w, n in sorted(self._images.items())}

    def _emit(self) -> None:
        done = self.committed + sum(self._open.values())
        state = (done, self.total, sum(self._reasons.values()))
        if state == self._said:
            return
        self._said = state
        seconds = time.monotonic() - self._begun
        rate = done / seconds if seconds > 0 else 0.0
        rates = self._rates()
        losses = [f"{n} {reason}" for reason, n in self._reasons.items()]
        self._listen(
            {
                "done": done,
                "total": self.total,
                "unit": "images",
                "rate": rate,
                "eta": (self.total - done) / rate if rate else None,
                "reasons": dict(self._reasons),
                "workers": rates,
                "note": ", ".join([*losses, *_spread(rates)]),
            }
        )


def _spread(rates: Mapping[str, float]) -> list[str]:
    """The rates of several workers in a few words."""
    if len(rates) < 2:
        return []
    slow, fast = min(rates.values()), max(rates.values())
    return [f"{len(rates)} workers, {slow:.1f} to {fast:.1f} images/s each"]
