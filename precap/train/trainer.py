"""Training in one visible loop: phases, updates, validation, checkpoints, resume."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from precap import allocator
from precap.errors import ConfigError, Interrupted
from precap.signals import Asked, stoppable
from precap.train import changes, checkpoint, distributed, folder, notes, optim
from precap.train.batch import floats, pinned
from precap.train.cache import StoreLike
from precap.train.contract import Batch
from precap.train.data import Prefetched
from precap.train.distributed import Ranks
from precap.train.events import Event, Kind, ignore
from precap.train.meter import Meter
from precap.train.phases import Phase
from precap.train.predict import casting, predict
from precap.train.prepare import Captions, Job, Validate, first_weights, make_job, make_recipe
from precap.train.progress import Progress
from precap.train.result import RunResult, diverged
from precap.train.settings import TrainConfig


def fit(
    config: TrainConfig,
    *,
    captions: Captions,
    stores: Mapping[str, StoreLike],
    out: Path,
    validate: Validate | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> RunResult:
    """Train a head on cached features; goes on from ``out`` when it holds a checkpoint.

    captions: split -> image id -> captions. stores: name -> opened store. validate: one caption per
    validation image -> metrics, of which ``config.select`` picks the best checkpoint; None: CIDEr
    of our own. Under torchrun every process calls this with the same arguments.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    allocator.retain()
    out = Path(out)
    with distributed.joined(config.device) as ranks:
        device = distributed.pick_device(config.device, ranks)
        recipe = make_recipe(config, stores)
        with folder.held(out, ranks):
            job = make_job(recipe, captions, stores, validate, device, ranks)
            job.notes.extend(notes.of(config, recipe))
            with stoppable("The last whole update is") as asked:
                return Trainer(job, out, device, ranks, on_event, asked).run()


class Trainer:
    """Runs a Job's phases one after another. One instance per process."""

    def __init__(
        self,
        job: Job,
        out: Path,
        device: torch.device,
        ranks: Ranks,
        on_event: Callable[[Event], None],
        asked: Asked,
    ) -> None:
        self.job, self.out, self.device, self.ranks, self.asked = job, out, device, ranks, asked
        self.config, self.head = job.recipe.config, job.head
        self.at, self.meter = Progress(), Meter(ranks, device, on_event)
        self.average: optim.Average | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "fp16")
        self.randomness: checkpoint.Tensors = {}
        self.touched, self.kept = False, 0  # kept: the step of the last checkpoint
        self.started = self.saved = time.perf_counter()
        self.ahead: list[Phase] = []

    def run(self) -> RunResult:
        """Resume if there is something to resume from, then every phase to its end."""
        self.ahead = self.resume()
        self.meter.open(self.out, self.at.step)
        self.announce()
        try:
            while self.ahead:
                with self.interruptible():
                    self.train(self.ahead[0])
                del self.ahead[0]
            self.finish()
        finally:
            self.meter.close()
        return self.result()

    def train(self, phase: Phase) -> None:
        """One phase, from wherever it stands to its end or until patience is over."""
        if self.at.phase != phase.name:
            self.begin(phase)
        total, length = self.updates(phase), len(phase.loader)
        self.randomness = checkpoint.random_state()
        self.after(phase, total)  # what an interruption left undone
        while not self.at.over(total):
            epoch, skip = divmod(self.at.local, length)
            phase.begin_epoch(epoch)
            finish = pinned if self.device.type == "cuda" else None
            batches = Prefetched(phase.loader.epoch(epoch, skip), finish=finish)
            for batch in batches:
                self.update(phase, batch, total)
                self.after(phase, total, batches)
                if self.at.over(total):
                    break

    def update(self, phase: Phase, batch: Batch, total: int) -> None:
        """One update of the weights from one batch."""
        optimizer, c = self.optimizer, self.config
        assert optimizer is not None, "a phase begins with its optimiser"
        optim.set_rate(optimizer, optim.rate(phase.optim, self.at.local, total, len(phase.loader)))
        moved = floats(batch.to(self.device))
        images = self.ranks.add(torch.tensor(float(len(batch.ids)), device=self.device))
        with casting(self.device, c.precision):
            shares, weight, figures = phase.prepare(moved, c.accumulate)
        weight = self.ranks.add(weight.to(self.device, torch.float32)).clamp_min(1)
        lost = torch.zeros((), device=self.device)
        for share in shares:
            with casting(self.device, c.precision):
                summed, extra = phase.loss(share)
            loss = summed / weight
            if extra is not None:
                loss = loss + extra * (len(share.batch.ids) / images)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            lost += loss.detach()
        self.check(lost)
        self.touched = True  # from here to the count of the step, the weights are in between
        self.ranks.add_gradients(self.head)  # first: what overflows on one rank must on all
        self.scaler.unscale_(optimizer)
        optim.clip(self.head, c.clip_norm, c.clip_value)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self.meter.note({"loss": lost, "updates": torch.ones(()), "images": images, **figures})
        self.at.count()
        self.randomness = checkpoint.random_state()
        self.touched = False

    def after(self, phase: Phase, total: int, batches: Prefetched[Batch] | None = None) -> None:
        """Log, validate and save when it is time; each at most once per update."""
        c, at, length = self.config, self.at, len(phase.loader)
        if at.pending == "log":
            if at.step % c.log_every == 0 or at.local == total:
                self.log(phase, total, batches)
            at.pending = "validate"
        if at.pending == "validate":
            every = c.validate_steps or max(1, round(c.validate_epochs * length))
            if at.local % every == 0 or at.local == total:
                self.require_sound()
                self.validate()
                self.save()
            at.pending = ""
            if c.save_every and at.step % c.save_every == 0 and self.kept < at.step:
                self.require_sound()
                self.save()
        self.heed()

    def heed(self) -> None:
        """The clock and signals. Ranks agree on them where they meet anyway, at a log line."""
        if self.ranks.world > 1 and self.at.step % self.config.log_every:
            return
        minutes = (time.perf_counter() - self.saved) / 60
        told = self.ranks.collect((self.asked.came, 0 < self.config.save_minutes <= minutes))
        self.asked.came = [name for came, _ in told for name in came]
        late = told[0][1] or (self.ranks.world > 1 and bool(self.asked.came))
        if late and self.kept < self.at.step:
            self.require_sound()
            self.save()
        self.asked()

    # Beginning and resuming

    def begin(self, phase: Phase) -> None:
        """A phase's fresh optimiser; a later phase starts from the best weights so far."""
        best = self.out / "best.safetensors"
        if self.at.best is not None and best.exists():
            checkpoint.take(self.head, best)
        self.equip(phase)
        self.at.begin(phase.name)
        self.meter.restore({})
        updates, size = self.updates(phase), phase.loader.batch_size
        self.emit("phase", message=f"{phase.name}: {updates} updates of {size} images")

    def equip(self, phase: Phase) -> None:
        """Fresh optimiser and average."""
        self.optimizer = optim.make(self.head, phase.optim)
        decay = self.config.average
        self.average = optim.Average(self.head, decay) if decay else None

    def resume(self) -> list[Phase]:
        """Go on from the run folder's checkpoint, or begin; the phases still to be trained."""
        source = folder.source(self.out, self.config.resume, self.ranks)
        if source is None:
            first_weights(self.head, self.config)
            self.job.notes.extend(notes.of_first_weights(self.job.recipe))
            if self.ranks.first:
                folder.begin(self.out, self.job)
            self.ranks.share(None)
            return list(self.job.phases)
        tensors, facts = checkpoint.load(source)
        self.at = at = Progress.of(facts, source)
        at.hope(self.config.patience)
        names = [phase.name for phase in self.job.phases]
        place = next((n for n, name in enumerate(names) if name == at.phase), -1)
        total = self.updates(self.job.phases[place]) if place >= 0 else 0
        recipe = folder.go_on(self.out, self.job, at, total)
        self.ranks.share(None)
        if self.ranks.first:
            recipe.write(self.out / "run.json")
        ahead = [p for p in self.job.phases if changes.place(p.name) >= changes.place(at.phase)]
        if place >= 0 and at.over(total):
            del ahead[0]
        elif place >= 0:
            self.equip(self.job.phases[place])
        checkpoint.restore(tensors, self.head, self.optimizer, self.average, str(source))
        if self.average:
            self.average.count = at.averaged
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.meter.restore(at.sums)
        self.started -= at.seconds
        self.kept = at.step
        return ahead

    # Validating and saving

    def validate(self) -> None:
        """Caption the validation images, score them, know whether this is the best."""
        c, at = self.config, self.at
        if self.job.validation is None:
            at.pending = ""
            return
        start = time.perf_counter()
        with self.average.used() if self.average else nullcontext():
            batches, words = self.job.validation.inorder(), self.job.vocabulary
            mine: dict[str, str] = {}
            for some in predict(self.head, words, batches, c.decode, self.device, c.precision):
                mine |= {p.image_id: p.caption for p in some}
                if self.ranks.world == 1:
                    self.asked()
        captions = {k: v for part in self.ranks.collect(mine) for k, v in part.items()}
        scores = self.ranks.share(self.scored(captions) if self.ranks.first else {})
        better = at.judge(scores, c.select, c.patience)
        at.pending = ""
        spent = time.perf_counter() - start
        self.meter.paused(spent)
        self.meter.write("validation", at.step, {**scores, "seconds": spent})
        said = f"{c.select} {scores[c.select]:.4f}" + (" (best)" if better else "")
        self.emit("validation", scores, said)

    def scored(self, captions: dict[str, str]) -> dict[str, float]:
        """The caller's metrics. Where they fail, what was trained is saved before the error."""
        select = self.config.select
        try:
            scores = dict(self.job.validate(captions))
            if select not in scores:
                known = ", ".join(scores)
                raise ConfigError(f"select={select!r} is no validation metric. There are: {known}.")
        except Exception:
            checkpoint.set_random_state(self.randomness)
            self.save()
            raise
        return scores

    def save(self) -> None:
        """``last``, and ``best`` when this step is the best one."""
        at = self.at
        self.kept, self.saved = at.step, time.perf_counter()
        if not self.ranks.first:
            return
        at.seconds = time.perf_counter() - self.started
        at.averaged = self.average.count if self.average else 0
        at.sums = self.meter.saved()
        facts = {"progress": dict(vars(at)), "scaler": self.scaler.state_dict()}
        last, best = self.out / "last.safetensors", self.out / "best.safetensors"
        checkpoint.save(last, checkpoint.gather(self.head, self.optimizer, self.average), facts)
        if at.best_step == at.step and at.best is not None and at.local > 0:
            checkpoint.promote(last, best)
        self.emit("saved")

    def finish(self) -> None:
        """A run without validation has its last weights as its best."""
        last, best = self.out / "last.safetensors", self.out / "best.safetensors"
        if self.ranks.first:
            if not last.exists():
                self.save()
            if self.at.best is None or not best.exists():
                checkpoint.promote(last, best)
        self.ranks.share(None)
        self.emit("end")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """On a signal: save the last whole update, then let the signal's exception go on."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted, SystemExit):
            whole = not self.touched and self.at.local > 0 and self.ranks.world == 1
            if whole and self.is_sound():
                checkpoint.set_random_state(self.randomness)
                self.save()
            raise

    # Reporting

    def log(self, phase: Phase, total: int, batches: Prefetched[Batch] | None) -> None:
        """One line: means since the last one, rates, and how long is left."""
        values = self.meter.means(batches.waited if batches else 0.0)
        if batches:
            batches.waited = 0.0
        if not math.isfinite(values["loss"]):
            raise diverged(self.out, values["loss"], self.at.step)
        values["lr"] = optim.rate(phase.optim, self.at.local - 1, total, len(phase.loader))
        values["epoch"] = self.at.local / len(phase.loader)
        self.meter.write(phase.name, self.at.step, values)
        self.at.pending = "validate"
        self.emit("step", values)

    def emit(
        self, kind: Kind, values: Mapping[str, float] | None = None, message: str = ""
    ) -> None:
        """To the caller."""
        left = sum(self.updates(p) for p in self.ahead)
        if self.ahead and self.ahead[0].name == self.at.phase:
            left -= self.at.local
        self.meter.emit(kind, self.at.step, left, values, message)

    def announce(self) -> None:
        """Say what is about to happen."""
        r = self.job.recipe
        sources = ", ".join(f"{role} from {s.store}" for role, s in r.sources.items())
        where = f"; going on at step {self.at.step}" if self.at.step else ""
        self.emit(
            "start",
            message=f"{r.config.head} with {self.parameters() / 1e6:.1f} M parameters on "
            f"{self.device}, {self.job.images} images, {self.job.vocabulary.words.size} words; "
            f"{sources}{where}",
        )
        for note in self.job.notes:
            self.emit("note", message=note)

    def check(self, loss: torch.Tensor) -> None:
        """Stop before a broken loss reaches the weights; a GPU is only asked before it saves."""
        if self.device.type == "cpu" and not math.isfinite(float(loss)):
            raise diverged(self.out, float(loss), self.at.step + 1)

    def require_sound(self) -> None:
        """Before anything is saved, by all ranks together."""
        if not self.is_sound():
            raise diverged(self.out, math.nan, self.at.step)

    def is_sound(self) -> bool:
        """Whether the losses since the last line, and the weights, are numbers."""
        sums = [p.detach().sum(dtype=torch.float64) for p in self.head.parameters()]
        if "loss" in self.meter.sums:
            sums.append(self.meter.sums["loss"].double())
        return math.isfinite(float(self.ranks.add(torch.stack(sums).sum())))

    def updates(self, phase: Phase) -> int:
        """Updates of a whole phase."""
        return max(1, round(phase.epochs * len(phase.loader)))

    def parameters(self) -> int:
        """Trained numbers in the head."""
        return sum(p.numel() for p in self.head.parameters() if p.requires_grad)

    def result(self) -> RunResult:
        """What the run came to."""
        at, minutes = self.at, (time.perf_counter() - self.started) / 60
        peak = allocator.peak()
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        numbers, rank = self.parameters(), self.ranks.rank
        return RunResult(
            self.out, at.best, at.best_step, at.step, minutes, at.scores, numbers, peak,
            at.stopped, rank,
        )  # fmt: skip
