"""Any order of planning, writing, crashing, damaging and repairing, beside a dict model."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from precap.store.plan import Plan, extend
from precap.store.reader import open_store
from precap.store.verify import repair, verify
from precap.store.writer import Writer, create
from tests.store import sabotage, toy

MADE = toy.spec(toy.FIELDS[:3])


class Life(RuleBasedStateMachine):
    """The model: which shards hold which ids, which are committed, which are damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="precap-life-"))
        self.path = self.folder / "s"
        create(self.path, MADE)
        self.shards: dict[int, list[str]] = {}
        self.committed: set[int] = set()
        self.damaged: set[int] = set()
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(more=st.integers(1, 7), size=st.integers(1, 4))
    def plan(self, more: int, size: int) -> None:
        new = toy.ids(more, self.count)
        self.count += more
        assert extend(self.path, toy.ids(self.count), shard_size=size) == more
        first = len(self.shards)
        for number, start in enumerate(range(0, more, size)):
            self.shards[first + number] = new[start : start + size]

    @precondition(lambda self: len(self.committed) < len(self.shards))
    @rule(pick=st.randoms(use_true_random=False))
    def write_one(self, pick: random.Random) -> None:
        with Writer(self.path) as writer:
            shard = pick.choice(writer.remaining())
            assert writer.claim(shard)
            toy.commit(writer, shard)
        self.committed.add(shard)

    @precondition(lambda self: len(self.committed) < len(self.shards))
    @rule(call=st.integers(1, 30), pick=st.randoms(use_true_random=False))
    def crash(self, call: int, pick: random.Random) -> None:
        """The power goes at some call of a commit: the shard is committed whole, or not at all."""
        with Writer(self.path) as writer:
            shard = pick.choice(writer.remaining())
        with sabotage.power_cut(call):
            try:
                doomed = Writer(self.path)
                doomed.claim(shard)
                toy.commit(doomed, shard)
            except sabotage.PowerCut:
                pass
        for lease in (self.path / "leases").iterdir():
            lease.unlink()  # its process is gone
        with Writer(self.path) as writer:
            if shard not in writer.remaining():
                self.committed.add(shard)

    @precondition(lambda self: self.committed - self.damaged)
    @rule(how=st.sampled_from(["flip", "cut", "delete"]), pick=st.randoms(use_true_random=False))
    def damage(self, how: str, pick: random.Random) -> None:
        shard = pick.choice(sorted(self.committed - self.damaged))
        file = self.path / f"shards/{shard:06d}.h5"
        data = bytearray(file.read_bytes())
        if how == "flip":
            data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
            file.write_bytes(data)
        elif how == "cut":
            file.write_bytes(data[: pick.randrange(len(data))])
        else:
            file.unlink()
        self.damaged.add(shard)

    @rule()
    def check(self) -> None:
        found = {finding.shard for finding in verify(self.path).damage}
        assert found == self.damaged

    @rule()
    def mend(self) -> None:
        done = repair(self.path)
        assert set(done.requeued) == self.damaged
        adopted = {int(Path(name).stem) for name in done.adopted}  # a crash came before its line
        self.committed = self.committed - self.damaged | adopted
        self.damaged = set()

    @rule()
    def lose_the_ledger(self) -> None:
        """Every ledger file goes: whole shards are adopted, damaged ones are written again."""
        for file in (self.path / "ledger").iterdir():
            file.unlink()
        adopted = {int(Path(name).stem) for name in repair(self.path).adopted}
        # Some damaged ones, too: a flip in padding of the format changes nothing that is read.
        assert self.committed - self.damaged <= adopted
        self.committed = adopted
        self.damaged = set()

    @rule()
    def resume(self) -> None:
        toy.fill(self.path)
        self.committed = set(self.shards)

    @invariant()
    def the_plan_never_changes(self) -> None:
        plan = Plan(self.path)
        assert {shard: plan.ids(shard) for shard in range(plan.shards)} == self.shards

    @invariant()
    def committed_rows_are_there_and_right(self) -> None:
        store = open_store(self.path)
        for shard, members in self.shards.items():
            if shard in self.committed - self.damaged:
                toy.check(store, members)
            elif shard not in self.committed:
                assert [store.outcome(image) for image in members] == [None] * len(members)


Life.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLife = Life.TestCase
