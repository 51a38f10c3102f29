"""Training in one visible loop: phases, updates, validation, checkpoints, resume."""

import hashlib
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precap.errors import ConfigError, PrecapError
from precap.train import checkpoint, distributed, optim, vocab
from precap.train.batch import floats, pinned
from precap.train.cache import StoreLike
from precap.train.contract import Batch
from precap.train.data import Prefetched
from precap.train.distributed import Ranks
from precap.train.events import Event, ignore
from precap.train.journal import Journal
from precap.train.phases import Phase
from precap.train.predict import casting, predict
from precap.train.prepare import Captions, Job, Validate, make_job, make_recipe
from precap.train.run import Recipe
from precap.train.settings import TrainConfig


class TrainingError(PrecapError):
    """Training cannot go on; the last checkpoint is as it was."""


@dataclass(frozen=True)
class RunResult:
    """What a training came to. ``scores``: of the best checkpoint on the validation split.

    peak_memory: bytes, of the device on CUDA, else of this process. stopped: "done" or "patience".
    """

    path: Path
    best: float | None
    best_step: int
    steps: int
    minutes: float
    scores: Mapping[str, float]
    parameters: int
    peak_memory: int
    stopped: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path), "scores": dict(self.scores)}

    def __str__(self) -> str:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        return (
            f"{self.path}: {self.parameters / 1e6:.1f} M parameters, {self.steps:,} steps in "
            f"{self.minutes:.1f} min, peak memory {self.peak_memory / 2**30:.2f} GiB\n"
            f"best at step {self.best_step:,} on validation: {scores or 'not validated'}"
        )


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
    with distributed.joined(config.device) as ranks:
        device = distributed.pick_device(config.device, ranks)
        recipe = make_recipe(config, stores)
        out.mkdir(parents=True, exist_ok=True)
        if config.resume == "none" and ranks.first:
            _clear(out)
        job = make_job(recipe, captions, stores, validate, device, ranks)
        trainer = Trainer(job, Path(out), device, ranks, on_event)
        return trainer.run()


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    step: int = 0
    phase: int = 0
    local: int = 0
    best: float | None = None
    best_step: int = 0
    waiting: int = 0
    sums: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    averaged: int = 0
    seconds: float = 0.0
    stopped: str = "done"


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
        self.config, self.head, self.on_event = job.recipe.config, job.head, on_event
        self.at = Progress()
        self.average: optim.Average | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "fp16")
        self.journal: Journal | None = None
        self.sums: dict[str, Tensor] = {}
        self.speed, self.mark, self.touched = 0.0, time.perf_counter(), False
        self.started = time.perf_counter()

    # The run

    def run(self) -> RunResult:
        """Resume if there is something to resume from, then every phase to its end."""
        resumed = self.resume()
        if self.ranks.first:
            self.journal = Journal(self.out, self.at.step)
        self.announce(resumed)
        try:
            for number in range(self.at.phase, len(self.job.phases)):
                with self.interruptible():
                    self.train(number, fresh=not resumed)
                resumed = False
            self.finish()
        finally:
            if self.journal:
                self.journal.close()
        return self.result()

    def train(self, number: int, fresh: bool) -> None:
        """One phase, from wherever it stands."""
        phase = self.job.phases[number]
        if fresh:
            self.begin(number, phase)
        total, length = self.updates(phase), len(phase.loader)
        while self.at.local < total:
            epoch, skip = divmod(self.at.local, length)
            phase.begin_epoch(epoch)
            finish = pinned if self.device.type == "cuda" else None
            batches = Prefetched(phase.loader.epoch(epoch, skip), finish=finish)
            for batch in batches:
                self.update(phase, batch, total)
                self.after(phase, total, batches)
                if self.at.local >= total:
                    break
            if self.config.patience and self.at.waiting >= self.config.patience:
                self.at.stopped = "patience"
                break
        self.at.phase, self.at.local = number + 1, 0
        self.save()

    def update(self, phase: Phase, batch: Batch, total: int) -> None:
        """One update of the weights from one batch."""
        optimizer, c = self.optimizer, self.config
        assert optimizer is not None
        self.randomness = checkpoint.random_state()
        lr = optim.rate(phase.optim, self.at.local, total, len(phase.loader))
        optim.set_rate(optimizer, lr)
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
        self.touched = True
        self.scaler.unscale_(optimizer)
        self.ranks.add_gradients(self.head)
        optim.clip(self.head, c.clip_norm, c.clip_value)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self.note({"loss": lost, "updates": torch.ones(()), "images": images, **figures})
        self.at.step += 1
        self.at.local += 1
        self.touched = False

    def after(self, phase: Phase, total: int, batches: Prefetched[Batch]) -> None:
        """Log, validate and save when it is time."""
        c, at, length = self.config, self.at, len(phase.loader)
        if at.step % c.log_every == 0 or at.local == total:
            self.log(phase, total, batches)
        every = c.validate_steps or max(1, round(c.validate_epochs * length))
        if at.local % every == 0 or at.local == total:
            self.validate()
            self.save()
        elif c.save_every and at.step % c.save_every == 0:
            self.save()

    # Beginning and resuming

    def begin(self, number: int, phase: Phase) -> None:
        """A phase's fresh optimiser; a later phase starts from the best weights so far."""
        best = self.out / "best.safetensors"
        if number > 0 and best.exists():
            self.take(best)
        self.optimizer = optim.make(self.head, phase.optim)
        self.average = (
            optim.Average(self.head, self.config.average) if self.config.average else None
        )
        self.at.waiting, self.sums = 0, {}
        updates, size = self.updates(phase), phase.loader.batch_size
        message = f"{phase.name}: {updates} updates of {size} images"
        self.emit("phase", message=message)

    def take(self, path: Path) -> None:
        """The weights (averaged ones, if any) of a checkpoint."""
        tensors, _ = checkpoint.load(path, ("model.", "ema."))
        weights = checkpoint.part(tensors, "model.") | checkpoint.part(tensors, "ema.")
        checkpoint.load_weights(self.head, weights, str(path))

    def resume(self) -> bool:
        """Go on from the run folder's checkpoint; True when it stands inside a phase."""
        source = self.out / f"{self.config.resume}.safetensors"
        exists = self.ranks.share(self.config.resume != "none" and source.exists())
        if not exists:
            self.prepare_folder()
            return False
        self.check_same()
        tensors, facts = checkpoint.load(source)
        self.at = Progress(**facts["progress"])
        inside = self.at.local > 0 and self.at.phase < len(self.job.phases)
        if inside:
            self.optimizer = optim.make(self.head, self.job.phases[self.at.phase].optim)
            if self.config.average:
                self.average = optim.Average(self.head, self.config.average)
                self.average.count = self.at.averaged
        checkpoint.restore(tensors, self.head, self.optimizer, self.average, str(source))
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.sums = {k: torch.tensor(v) for k, v in (self.at.sums or {}).items()}
        self.started -= self.at.seconds
        return inside

    def prepare_folder(self) -> None:
        """run.json and vocab.json, before anything that needs them is written."""
        if self.ranks.first:
            self.job.recipe.write(self.out / "run.json")
            vocab.write(self.job.vocabulary, self.out / "vocab.json")
        self.ranks.share(None)

    def check_same(self) -> None:
        """A checkpoint only goes on under the head, features and vocabulary it was made with."""
        old, new = Recipe.read(self.out / "run.json"), self.job.recipe
        ours = {r: (s.field.name, s.spec.fingerprint) for r, s in new.sources.items()}
        theirs = {r: (s.field.name, s.spec.fingerprint) for r, s in old.sources.items()}
        vocabulary = vocab.read(self.out / "vocab.json")
        pairs = {
            "head": (old.config.head, new.config.head),
            "head options": (old.head_config, new.head_config),
            "features": (theirs, ours),
            "vocabulary": (_digest(vocabulary), _digest(self.job.vocabulary)),
        }
        for what, (before, now) in pairs.items():
            if before != now:
                raise ConfigError(
                    f"{self.out} holds a run with another {what} ({before}, now {now}). Choose "
                    f"another --out, or --resume none to train it anew."
                )

    # Validating and saving

    def validate(self) -> None:
        """Caption the validation images, score them, keep the best checkpoint."""
        c, at = self.config, self.at
        if self.job.validation is None:
            return
        start = time.perf_counter()
        with self.average.used() if self.average else nullcontext():
            batches = self.job.validation.inorder()
            found = predict(
                self.head, self.job.vocabulary, batches, c.decode, self.device, c.precision
            )
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
        spent = time.perf_counter() - start
        self.mark += spent  # validation is not training time
        self.write("validation", {**scores, "seconds": spent})
        self.emit("validation", scores, f"{c.select} {value:.4f}" + (" (best)" if better else ""))

    def save(self) -> None:
        """``last``, and ``best`` when this step is the best one."""
        if not self.ranks.first:
            return
        at = self.at
        at.seconds = time.perf_counter() - self.started
        at.averaged = self.average.count if self.average else 0
        at.sums = {k: float(v) for k, v in self.sums.items()}
        facts = {
            "progress": dict(vars(at)),
            "scaler": self.scaler.state_dict(),
            "phase": self.job.phases[min(at.phase, len(self.job.phases) - 1)].name
            if self.job.phases
            else "none",
        }
        last, best = self.out / "last.safetensors", self.out / "best.safetensors"
        checkpoint.save(last, checkpoint.gather(self.head, self.optimizer, self.average), facts)
        if at.best_step == at.step and at.best is not None and at.local > 0:
            checkpoint.promote(last, best)
        self.emit("saved")

    def finish(self) -> None:
        """A run without validation has its last weights as its best."""
        if self.ranks.first:
            if not (self.out / "last.safetensors").exists():
                self.save()
            if not (self.out / "best.safetensors").exists():
                checkpoint.promote(self.out / "last.safetensors", self.out / "best.safetensors")
        self.ranks.share(None)
        self.emit("end")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """On a signal: save the last whole update, then let the signal's exception go on."""
        try:
            yield
        except BaseException as error:
            stopping = not isinstance(error, Exception) or error.__class__.__name__ == "Interrupted"
            if stopping and not self.touched and self.at.local > 0 and self.ranks.world == 1:
                checkpoint.set_random_state(self.randomness)
                self.save()
            raise

    # Reporting

    def note(self, figures: Mapping[str, Tensor]) -> None:
        """Add to the sums since the last log line; stays on the device."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0) + value.to(self.device, torch.float64)

    def log(self, phase: Phase, total: int, batches: Prefetched[Batch]) -> None:
        """One line: means since the last one, rates, and how long is left."""
        names = sorted(self.sums)
        summed = self.ranks.add(torch.stack([self.sums[n].to(self.device) for n in names]))
        sums = dict(zip(names, summed.tolist(), strict=True))
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        updates = sums["updates"] / self.ranks.world
        values = {"loss": sums["loss"] / updates}
        if not math.isfinite(values["loss"]):
            raise self.diverged(values["loss"])
        if sums.get("candidates"):
            values["reward"] = sums["reward"] / sums["candidates"]
        values["lr"] = optim.rate(phase.optim, self.at.local - 1, total, len(phase.loader))
        values["epoch"] = self.at.local / len(phase.loader)
        self.speed = seconds / updates
        rates = {
            "images_per_second": sums["images"] / self.ranks.world / max(seconds, 1e-9),
            "wait": batches.waited / max(seconds, 1e-9),
        }
        batches.waited = 0.0
        self.sums = {}
        self.write(phase.name, values | rates)
        self.emit("step", values | rates)

    def write(self, kind: str, values: Mapping[str, float]) -> None:
        """To the run's logs."""
        if self.journal:
            self.journal.add(kind, self.at.step, dict(values))

    def emit(self, kind: Any, values: Mapping[str, float] | None = None, message: str = "") -> None:
        """To the caller."""
        if not self.ranks.first:
            return
        left = sum(self.updates(p) for p in self.job.phases[self.at.phase :]) - self.at.local
        total = self.at.step + left
        self.on_event(Event(kind, self.at.step, total, values or {}, left * self.speed, message))

    def announce(self, resumed: bool) -> None:
        """Say what is about to happen."""
        r = self.job.recipe
        sources = ", ".join(f"{role} from {s.store}" for role, s in r.sources.items())
        message = (
            f"{r.config.head} with {self.parameters() / 1e6:.1f} M parameters on {self.device}, "
            f"{self.job.images} images, {self.job.vocabulary.words.size} words; {sources}"
        )
        where = f"; going on at step {self.at.step}" if resumed or self.at.step else ""
        self.emit("start", message=message + where)
        for note in self.job.notes:
            self.emit("note", message=note)
        self.mark = time.perf_counter()

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
        at = self.at
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return RunResult(
            self.out,
            at.best,
            at.best_step,
            at.step,
            (time.perf_counter() - self.started) / 60,
            at.scores or {},
            self.parameters(),
            peak,
            at.stopped,
        )


def _digest(vocabulary: vocab.Vocabulary) -> str:
    text = json.dumps(vocabulary.as_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _clear(out: Path) -> None:
    for name in ("last", "best"):
        for end in (".safetensors", ".json"):
            (out / f"{name}{end}").unlink(missing_ok=True)
    (out / "log.jsonl").unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
