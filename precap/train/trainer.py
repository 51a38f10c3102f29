"""Training in one visible loop: phases, updates, validation, checkpoints, resume."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from precap import allocator
from precap.errors import ConfigError, Interrupted
from precap.train import checkpoint, distributed, folder, optim
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
from precap.train.result import RunResult, TrainingError
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
        out.mkdir(parents=True, exist_ok=True)
        if config.resume == "none" and ranks.first:
            folder.clear(out)
        job = make_job(recipe, captions, stores, validate, device, ranks)
        return Trainer(job, out, device, ranks, on_event).run()


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint.

    local: updates done in the phase. pending: what the last update still waits for: "log", then
    "validate", then nothing.
    """

    step: int = 0
    phase: int = 0
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


class Trainer:
    """Runs a Job's phases one after another. One instance per process."""

    def __init__(
        self,
        job: Job,
        out: Path,
        device: torch.device,
        ranks: Ranks,
        on_event: Callable[[Event], None],
    ) -> None:
        self.job, self.out, self.device, self.ranks = job, out, device, ranks
        self.config, self.head = job.recipe.config, job.head
        self.at, self.meter = Progress(), Meter(ranks, device, on_event)
        self.average: optim.Average | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "fp16")
        self.randomness: checkpoint.Tensors = {}
        self.touched = False
        self.started = time.perf_counter()

    def run(self) -> RunResult:
        """Resume if there is something to resume from, then every phase to its end."""
        inside = self.resume()
        self.meter.open(self.out, self.at.step)
        self.announce()
        try:
            for number in range(self.at.phase, len(self.job.phases)):
                with self.interruptible():
                    self.train(number, fresh=not inside)
                inside = False
            self.finish()
        finally:
            self.meter.close()
        return self.result()

    def train(self, number: int, fresh: bool) -> None:
        """One phase, from wherever it stands to its end or until patience is over."""
        phase = self.job.phases[number]
        if fresh:
            self.begin(number, phase)
        total, length = self.updates(phase), len(phase.loader)
        self.randomness = checkpoint.random_state()
        self.after(phase, total)  # what an interruption left undone
        while self.at.local < total and self.at.stopped != "patience":
            epoch, skip = divmod(self.at.local, length)
            phase.begin_epoch(epoch)
            finish = pinned if self.device.type == "cuda" else None
            batches = Prefetched(phase.loader.epoch(epoch, skip), finish=finish)
            for batch in batches:
                self.update(phase, batch, total)
                self.after(phase, total, batches)
                if self.at.local >= total or self.at.stopped == "patience":
                    break
        self.at.phase, self.at.local = number + 1, 0
        self.save()

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
        self.scaler.unscale_(optimizer)
        self.ranks.add_gradients(self.head)
        optim.clip(self.head, c.clip_norm, c.clip_value)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self.meter.note({"loss": lost, "updates": torch.ones(()), "images": images, **figures})
        self.at.step, self.at.local, self.at.pending = self.at.step + 1, self.at.local + 1, "log"
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
                self.validate()
                self.save()
            elif c.save_every and at.step % c.save_every == 0:
                at.pending = ""
                self.save()
            at.pending = ""

    # Beginning and resuming

    def begin(self, number: int, phase: Phase) -> None:
        """A phase's fresh optimiser; a later phase starts from the best weights so far."""
        best = self.out / "best.safetensors"
        if number > 0 and best.exists():
            checkpoint.take(self.head, best)
        self.equip(phase)
        self.at.waiting, self.at.stopped = 0, "done"
        self.meter.restore({})
        updates, size = self.updates(phase), phase.loader.batch_size
        self.emit("phase", message=f"{phase.name}: {updates} updates of {size} images")

    def equip(self, phase: Phase) -> None:
        """Fresh optimiser and average."""
        self.optimizer = optim.make(self.head, phase.optim)
        decay = self.config.average
        self.average = optim.Average(self.head, decay) if decay else None

    def resume(self) -> bool:
        """Go on from the run folder's checkpoint; True when it stands inside a phase."""
        source = self.out / f"{self.config.resume}.safetensors"
        if not self.ranks.share(self.config.resume != "none" and source.exists()):
            first_weights(self.head, self.config)
            if self.ranks.first:
                folder.prepare(self.out, self.job)
            self.ranks.share(None)
            return False
        folder.check_same(self.out, self.job)
        tensors, facts = checkpoint.load(source)
        self.at = Progress(**facts["progress"])
        inside = self.at.local > 0 and self.at.phase < len(self.job.phases)
        if inside:
            self.equip(self.job.phases[self.at.phase])
        checkpoint.restore(tensors, self.head, self.optimizer, self.average, str(source))
        if self.average:
            self.average.count = self.at.averaged
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.meter.restore(self.at.sums)
        self.started -= self.at.seconds
        return inside

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
            found = predict(self.head, words, batches, c.decode, self.device, c.precision)
            mine = {p.image_id: p.caption for some in found for p in some}
        captions = {k: v for part in self.ranks.collect(mine) for k, v in part.items()}
        scores = dict(self.job.validate(captions)) if self.ranks.first else {}
        scores = self.ranks.share(scores)
        if c.select not in scores:
            known = ", ".join(scores)
            raise ConfigError(f"select={c.select!r} is no validation metric. There are: {known}.")
        value = scores[c.select]
        better = at.best is None or value > at.best
        at.waiting = 0 if better else at.waiting + 1
        if better:
            at.best, at.best_step, at.scores = value, at.step, scores
        if c.patience and at.waiting >= c.patience:
            at.stopped = "patience"
        at.pending = ""
        spent = time.perf_counter() - start
        self.meter.paused(spent)
        self.meter.write("validation", at.step, {**scores, "seconds": spent})
        self.emit("validation", scores, f"{c.select} {value:.4f}" + (" (best)" if better else ""))

    def save(self) -> None:
        """``last``, and ``best`` when this step is the best one."""
        if not self.ranks.first:
            return
        at = self.at
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
            if not best.exists():
                checkpoint.promote(last, best)
        self.ranks.share(None)
        self.emit("end")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """On a signal: save the last whole update, then let the signal's exception go on."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted, SystemExit):
            if not self.touched and self.at.local > 0 and self.ranks.world == 1:
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
            raise self.diverged(values["loss"])
        values["lr"] = optim.rate(phase.optim, self.at.local - 1, total, len(phase.loader))
        values["epoch"] = self.at.local / len(phase.loader)
        self.meter.write(phase.name, self.at.step, values)
        self.at.pending = "validate"
        self.emit("step", values)

    def emit(
        self, kind: Kind, values: Mapping[str, float] | None = None, message: str = ""
    ) -> None:
        """To the caller."""
        left = sum(self.updates(p) for p in self.job.phases[self.at.phase :]) - self.at.local
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

    def check(self, loss: Tensor) -> None:
        """Stop before a broken loss reaches the weights; a GPU is only asked when it logs."""
        if self.device.type == "cpu" and not math.isfinite(float(loss)):
            raise self.diverged(float(loss))

    def diverged(self, loss: float) -> TrainingError:
        """The loss is not a number any more."""
        return TrainingError(
            f"The loss became {loss} at step {self.at.step + 1}. The last checkpoint in {self.out} "
            f"is intact. Lower the learning rate (--set xe.optim.lr=...), use clip_norm=1, or "
            f"precision=fp32; look at the features with `precap store info` for huge values."
        )

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
        numbers = self.parameters()
        return RunResult(
            self.out, at.best, at.best_step, at.step, minutes, at.scores, numbers, peak, at.stopped
        )
