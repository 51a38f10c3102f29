"""What all benches share: rows that were measured, claims that hold or not, one way to print."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure: the median of ``runs`` measurements."""

    case: str
    what: str
    value: float
    unit: str
    runs: int


@dataclass(frozen=True)
class Claim:
    """A promise: ``value`` must be at least (or at most) ``bound``."""

    claim: str
    value: float
    bound: float
    holds: bool


@dataclass
class Report:
    """Collects rows and claims; ``finish`` prints them and leaves with the exit code."""

    name: str
    rows: list[Row] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def row(self, case: str, what: str, value: float, unit: str, runs: int = 1) -> None:
        """Add a figure."""
        self.rows.append(Row(case, what, value, unit, runs))

    def at_least(self, claim: str, value: float, bound: float) -> None:
        """Claim that ``value`` is at least ``bound``."""
        self.claims.append(Claim(claim, value, bound, value >= bound))

    def at_most(self, claim: str, value: float, bound: float) -> None:
        """Claim that ``value`` is at most ``bound``."""
        self.claims.append(Claim(claim, value, bound, value <= bound))

    def as_json(self) -> dict[str, Any]:
        """{"name", "machine", "rows", "claims"} as plain values."""
        return {"machine": machine(), **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.name} on {machine()}"]
        cases = list(dict.fromkeys(row.case for row in self.rows))
        for case in cases:
            lines.append(f"\n{case}")
            rows = [row for row in self.rows if row.case == case]
            lines += [f"  {r.what:44} {r.value:12.4g} {r.unit}  ({r.runs} runs)" for r in rows]
        lines.append("\nclaims")
        lines += [
            f"  {'ok  ' if c.holds else 'MISS'} {c.claim}: {c.value:.4g} (bound {c.bound:g})"
            for c in self.claims
        ]
        return "\n".join(lines)

    def finish(self, as_json: bool) -> None:
        """Print a table or one JSON object; exit code 1 when a claim does not hold."""
        print(json.dumps(self.as_json()) if as_json else self)
        sys.exit(0 if all(claim.holds for claim in self.claims) else 1)


def arguments(description: str | None, **options: Mapping[str, Any]) -> argparse.Namespace:
    """``--json``, plus ``name={"default": ...}`` options, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    return parser.parse_args()


def machine() -> str:
    """Processor, cores this process may use, Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = [line for line in _cpuinfo().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{name}, {cores} cores, {platform.system()}, Python {platform.python_version()}"


def data_root() -> Path:
    """Where real data is looked for: $PRECAP_BENCH_DATA, else ../shared/data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PRECAP_BENCH_DATA", beside))


def pin_threads(count: int = 1) -> None:
    """Fix the compute threads of numpy's and torch's libraries; call it before importing them."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def side_by_side(
    contenders: Mapping[str, Callable[[], Any]], runs: int, warm: int = 2
) -> dict[str, Sequence[float]]:
    """Wall times of each contender, in turns within a run, so that all meet the same weather."""
    for _ in range(warm):
        for call in contenders.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for run in range(runs):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(contenders[name]))
    return {name: found for name, found in times.items()}


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
