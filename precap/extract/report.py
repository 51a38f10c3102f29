"""What became of the images: counts over a whole store, read from its ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precap.extract.reading import NO_PARENT

EXAMPLES = 5


@dataclass(frozen=True)
class Report:
    """What became of the images a run was asked for.

    ok, skipped, failed: over the whole store, each image once. reasons: "failed: truncated" ->
    count. examples: id, reason and detail of some. computed: images this run computed. pending:
    planned images nobody has computed yet (another process has them, or another part).
    """

    store: Path
    ok: int
    skipped: int
    failed: int
    pending: int
    computed: int
    seconds: float
    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[tuple[str, str, str]] = ()

    @property
    def lost(self) -> int:
        """How many images have no features."""
        return self.skipped + self.failed

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.__dict__, "store": str(self.store), "examples": [*map(list, self.examples)]}

    def __str__(self) -> str:
        lines = [
            f"{self.store}: {self.ok:,} ok, {self.skipped:,} skipped, {self.failed:,} failed"
            + (f", {self.pending:,} pending" if self.pending else "")
            + f"; {self.computed:,} computed in {self.seconds:.1f} s"
        ]
        lines += [f"  {count:,} x {reason}" for reason, count in sorted(self.reasons.items())]
        lines += [f"    {image}: {reason}: {why}" for image, reason, why in self.examples]
        if f"skipped: {NO_PARENT}" in self.reasons:
            lines.append("  Repeat the command when the parent has those: it computes them then.")
        return "\n".join(lines)


def report(out: Path, *, computed: int = 0, seconds: float = 0.0) -> Report:
    """The state of the store at ``out``, read from its ledger."""
    from precap.store.reader import open_store
    from precap.store.writer import Writer

    store = open_store(out)
    counts = store.statuses()
    sums = {status: sum(reasons.values()) for status, reasons in counts.items()}
    absent = list(store.absent.values())
    with Writer(out) as everything:
        pending = sum(len(everything.ids(shard)) for shard in everything.remaining())
    return Report(
        store=out,
        ok=sums["ok"],
        skipped=sums["skipped"],
        failed=sums["failed"],
        pending=pending,
        computed=computed,
        seconds=seconds,
        reasons={
            f"{status}: {reason}": count
            for status in ("skipped", "failed")
            for reason, count in counts[status].items()
        },
        examples=[(o.id, o.reason, o.detail) for o in absent[:EXAMPLES]],
    )
