"""Is everything there that the ledger says, byte for byte? And if not: queue it again."""

import time
from collections.abc import Iterator
from pathlib import Path

from precap import atomic
from precap.errors import LockedError, StoreError
from precap.store import deep, files, identity, sealed
from precap.store.index import Table, is_damaged
from precap.store.leases import Leases
from precap.store.ledger import Ledger, LedgerWriter, ShardRecord, stamp
from precap.store.plan import Plan
from precap.store.report import Finding, Repaired, Report, Severity


def verify(path: Path, full: bool = True) -> Report:
    """Check the store at ``path``: with ``full`` every byte by digest, else presence and sizes."""
    begun = time.monotonic()
    report = Report(path, full)
    report.findings += _check(path, full, report)
    report.seconds = round(time.monotonic() - begun, 3)
    return report


def _check(path: Path, full: bool, report: Report) -> Iterator[Finding]:
    try:
        mine = identity.load(path)
        plan = Plan(path)
    except StoreError as error:
        kind = "manifest" if "store.json" in str(error) else "plan"
        yield Finding("damage", kind, "store.json" if kind == "manifest" else "plan", str(error))
        return
    damaged = list(_check_plan(path, plan, full))
    yield from damaged
    if damaged:
        return
    ledger = Ledger(path)
    yield from _check_ledger(path, ledger)
    report.remaining = len(set(range(plan.shards)) - ledger.records.keys())
    agrees = True
    for record in ledger.records.values():
        report.shards += 1
        report.images += record.ok
        report.bytes += record.bytes
        if not plan.holds(record):
            agrees = False
            why = "it is committed, and the plan lacks it or holds other ids for it"
            yield Finding("damage", "plan", record.file, why, record.shard)
            continue
        yield from _check_shard(path, record, plan, mine, full)
    yield from _check_strays(path, ledger)
    if full and agrees:
        yield from _check_index(path, plan, ledger)


def _check_plan(path: Path, plan: Plan, full: bool) -> Iterator[Finding]:
    known = {generation.path for generation in plan.generations}
    for file in sorted((path / "plan").glob("[!.]*.txt")):
        if file not in known:
            name = f"plan/{file.name}"
            yield Finding("damage", "plan", name, "an earlier generation of the plan is missing")
    for generation in plan.generations if full else ():
        try:
            generation.text  # noqa: B018  reading it checks it
        except StoreError as error:
            yield Finding("damage", "plan", f"plan/{generation.path.name}", str(error))


def _check_ledger(path: Path, ledger: Ledger) -> Iterator[Finding]:
    if not ledger.path.is_dir():
        yield Finding("damage", "ledger", "ledger", "the folder is gone")
    for bad in ledger.bad:
        severity: Severity = "residue" if bad.torn else "damage"
        kind = "torn" if bad.torn else "ledger"
        yield Finding(severity, kind, f"ledger/{bad.path.name}", f"line {bad.number}: {bad.why}")


def _check_shard(
    path: Path, record: ShardRecord, plan: Plan, mine: identity.Identity, full: bool
) -> Iterator[Finding]:
    def damage(kind: str, detail: str, images: tuple[str, ...] = ()) -> Finding:
        return Finding("damage", kind, record.file, detail, record.shard, images)

    file = path / record.file
    if not file.exists():
        yield damage("missing", "the file is gone")
        return
    size = files.size_of(file)
    if size != record.bytes:
        yield damage("size", f"{size} bytes, should be {record.bytes}")
    elif full and files.digest_of(file)[0] != record.digest:
        images = deep.changed_images(file, record, plan, mine)
        yield damage("changed", "the digest does not match", images)
    elif full:
        yield from (damage("layout", why) for why in deep.disagreements(file, record, plan, mine))


def _check_strays(path: Path, ledger: Ledger) -> Iterator[Finding]:
    committed = {path / record.file for record in ledger.records.values()}
    folder = path / "shards"
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file not in committed:
            unfinished = file.name.endswith(".partial")
            kind = "partial" if unfinished else "uncommitted"
            detail = (
                "left by a crash"
                if unfinished
                else "a shard file without a ledger line; repair adopts it if it is whole"
            )
            yield Finding("residue", kind, f"shards/{file.name}", detail)


def _check_index(path: Path, plan: Plan, ledger: Ledger) -> Iterator[Finding]:
    if is_damaged(path, plan, ledger):
        yield Finding("damage", "index", "index", "it has changed; the next reader builds it anew")
    for image in Table.of_ok(plan, ledger).duplicates():
        yield Finding("damage", "duplicate", "ledger", f"image {image!r} was committed twice")


def repair(path: Path) -> Repaired:
    """Queue exactly the damaged shards again and clear what crashes left behind.

    LockedError while another process writes to the store.
    """
    live = Leases(path).live()
    if live:
        raise LockedError(f"{path} is being written to ({live[0]}). Repair it when that is done.")
    done = Repaired(path)
    findings = verify(path, full=True).findings
    done.beyond = [f for f in findings if f.kind in _BEYOND and f.severity == "damage"]
    if any(f.kind in ("manifest", "plan") for f in done.beyond):
        return done  # what cannot be told apart now is left as it is
    for name in identity.FOLDERS:
        files.make_folder(path / name)
    ledger = Ledger(path)
    _requeue(path, ledger, findings, done)
    for name in sorted({f.path for f in findings if f.kind in ("ledger", "torn")}):
        if (path / name).is_file():
            _cut(path / name, ledger)
            done.mended.append(name)
    _adopt(path, [f.path for f in findings if f.kind == "uncommitted"], done)
    for finding in findings:
        if finding.kind in _LEFT and finding.path not in done.adopted:
            files.discard(path / finding.path)
            done.removed.append(finding.path)
    return done


#: Kinds of findings that only a copy can mend, and of what a crash leaves.
_BEYOND = ("manifest", "plan", "duplicate")
_LEFT = ("partial", "uncommitted", "index")


def _adopt(path: Path, names: list[str], done: Repaired) -> None:
    """Give whole shards that have no ledger line one: their work may have taken days."""
    mine, plan = identity.load(path), Plan(path)
    found = [(name, deep.adopted(path / name, name, plan, mine)) for name in names]
    whole = [(name, record) for name, record in found if record is not None]
    if not whole:
        return
    lines = LedgerWriter(path)
    for name, record in whole:
        lines.append(record.as_json())
        done.adopted.append(name)
    lines.close()


def _requeue(path: Path, ledger: Ledger, findings: list[Finding], done: Repaired) -> None:
    kinds = ("missing", "size", "changed", "layout")
    shards = sorted({f.shard for f in findings if f.kind in kinds and f.shard is not None})
    if not shards:
        return
    lines = LedgerWriter(path)
    lines.append(
        {"void": [line.sum for shard in shards for line in ledger.lines[shard]], **stamp()}
    )
    lines.close()
    for shard in shards:
        files.discard(path / ledger.records[shard].file)
    done.requeued = shards
    done.images = sum(ledger.records[shard].ok for shard in shards)


def _cut(file: Path, ledger: Ledger) -> None:
    """Keep the whole lines of a ledger file whose writer is gone."""
    kept = []
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            sealed.unseal(line)
        except ValueError:
            continue
        kept.append(line)
    atomic.write_bytes(file, b"".join(kept))
