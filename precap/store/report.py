"""What checking and mending a store find and do, for people and for programs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["damage", "residue"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    damage: committed data that is lost, changed or unreachable. residue: what a crash leaves
    behind; the next run does that shard again. images: ids known to be affected.
    """

    severity: Severity
    kind: str
    path: str
    detail: str
    shard: int | None = None
    images: tuple[str, ...] = ()


@dataclass
class Report:
    """What ``verify`` looked at and found."""

    path: Path
    full: bool
    shards: int = 0
    remaining: int = 0
    images: int = 0
    bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that are damage."""
        return [finding for finding in self.findings if finding.severity == "damage"]

    @property
    def sound(self) -> bool:
        """Whether everything committed is there, unchanged."""
        return not self.damage

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path), "sound": self.sound}

    def __str__(self) -> str:
        how = "every byte" if self.full else "presence and sizes"
        lines = [
            f"{finding.severity:8} {finding.kind:12} {finding.path}: {finding.detail}"
            + (f" (images {', '.join(finding.images[:5])})" if finding.images else "")
            for finding in self.findings
        ]
        verdict = "sound" if self.sound else f"{len(self.damage)} damaged"
        lines.append(
            f"{self.path}: {verdict}; {how} of {self.shards} shards with {self.images} images, "
            f"{self.bytes / 1e6:.1f} MB checked in {self.seconds:.1f} s; {self.remaining} shards "
            f"remain to be written."
        )
        return "\n".join(lines)


@dataclass
class Repaired:
    """What ``repair`` did. requeued: shard numbers that the next extraction or import writes anew;
    adopted: whole shards that had no ledger line and have one now; beyond: damage that only a copy
    can mend.
    """

    path: Path
    requeued: list[int] = field(default_factory=list)
    images: int = 0
    mended: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    beyond: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        lines = [f"cannot be repaired: {f.path}: {f.detail}" for f in self.beyond]
        lines += [f"cut damaged lines from {name}" for name in self.mended]
        lines += [f"removed {name}" for name in self.removed]
        lines += [f"adopted {name}" for name in self.adopted]
        numbers = ", ".join(map(str, self.requeued[:20])) + (" ..." if self.requeued[20:] else "")
        todo = f" ({numbers}): repeat the extraction or import" if self.requeued else ""
        shards = f"{len(self.requeued)} shards with {self.images} images"
        lines.append(f"{self.path}: {shards} queued again{todo}.")
        return "\n".join(lines)
