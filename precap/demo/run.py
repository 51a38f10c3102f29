"""The whole job on pictures drawn on the spot, and once more on shuffled features as a control."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap import pipeline
from precap.demo.scenes import make_scenes

if TYPE_CHECKING:
    from precap.evaluate.metrics import Scores

Listener = Callable[[Mapping[str, Any]], None]
IMAGES = 1500
#: Two kinds of features from networks nobody trained: the demo needs no download.
FEATURES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("grid:resnet18", {"size": 160}),
    ("clip:ViT-S-32-alt", {}),
)
STORES = "grid,clip"
HEAD = "transformer"
OPTIONS: Mapping[str, Any] = {
    "head.dim": 128,
    "head.heads": 4,
    "head.hidden": 512,
    "head.encoder_layers": 2,
    "head.decoder_layers": 2,
    "text.threshold": 1,
    "batch_size": 16,
    "xe.epochs": 14,
    "xe.optim.lr": 1e-3,
    "validate_epochs": 2,
    "decode.beam": 5,
}
REAL, CONTROL = "real", "shuffled"


@dataclass(frozen=True)
class Outcome:
    """What the demo came to. ``str`` is the table that it prints at the end."""

    scores: "Mapping[str, Scores]"
    domains: Mapping[str, list[str]]
    report: Path
    seconds: float

    @property
    def ratio(self) -> float:
        """CIDEr on the real features, in units of the control's."""
        real, control = (self.scores[n].corpus["CIDEr"] for n in (REAL, CONTROL))
        return real / max(control, 1e-9)

    def domain(self, run: str, name: str) -> float:
        """Mean CIDEr over the test pictures of one domain."""
        each = self.scores[run].per_image["CIDEr"]
        chosen = [each[image] for image in self.domains[name] if image in each]
        return sum(chosen) / len(chosen) if chosen else float("nan")

    def __str__(self) -> str:
        real, control = (self.scores[name] for name in (REAL, CONTROL))
        rows = [(name, value, control.corpus[name]) for name, value in real.corpus.items()]
        rows += [
            (f"CIDEr, {name}s", self.domain(REAL, name), self.domain(CONTROL, name))
            for name in self.domains
        ]
        lines = [f"{'':<24}{'features':>10}{'shuffled':>10}"]
        lines += [f"{name:<24}{one:>10.3f}{other:>10.3f}" for name, one, other in rows]
        lines += [f"{name}: {why}" for name, why in real.unavailable.items()]
        lines += ["", f"CIDEr is {self.ratio:.1f} times that of features shuffled between images."]
        lines += [f"{self.seconds / 60:.1f} minutes; the report: {self.report}"]
        return "\n".join(lines)


def scenes(out: Path, *, seed: int = 0, images: int = IMAGES) -> Path:
    """Only the pictures and their captions: a prepared dataset in ``out``/data."""
    return make_scenes(Path(out) / "data", images=images, seed=seed)


def demo(
    out: Path,
    *,
    seed: int = 0,
    images: int = IMAGES,
    options: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
) -> Outcome:
    """Draw, extract, train, evaluate, and report below ``out``; what is there is not done again.

    options: changes to the training of both runs. on_event: progress, as the pipeline gives it.
    """
    begun, out = time.monotonic(), Path(out)
    listen = on_event or (lambda event: None)
    listen({"note": f"drawing {images:,} pictures"})
    data = scenes(out, seed=seed, images=images)
    features = out / "features"
    for name, settings in FEATURES:
        pipeline.extract_features(
            name, data=data, out=features, weights="random:0", settings=settings, on_event=listen
        )
    runs = [out / "runs" / name for name in (REAL, CONTROL)]
    for run in runs:
        pipeline.train_head(
            STORES,
            head=HEAD,
            data=data,
            stores=features,
            out=run,
            options={**OPTIONS, **(options or {}), "shuffle_features": run.name == CONTROL},
            on_event=_named(run.name, listen),
        )
    found = pipeline.evaluate_runs(runs, split="test", compare=True, out=out, on_event=listen)
    domains = pipeline.dataset(data).domains()
    return Outcome(found.scores, domains, out / "report-test.html", time.monotonic() - begun)


def _named(run: str, listen: Listener) -> Listener:
    return lambda event: listen({**event, "what": run})
