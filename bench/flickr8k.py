"""The whole pipeline on Flickr8k's 8,091 pictures: extraction, training, beam-5 test scores.

    python -m bench.flickr8k                        XE with the recipe ``flickr8k``
    python -m bench.flickr8k --scst                 and then self-critical, in one resumable command
    python -m bench.flickr8k --head hin             any head at a reduced size, 4 minutes of XE
    python -m bench.flickr8k --head hin --control   the same on features shuffled between images

Features: MobileNetV2 with its ImageNet weights (7 x 7 x 1280), and the same network pooled at
detector boxes for heads that read regions. Recipe and seed were chosen on val; the test split is
decoded once, at the end. Repeating the command goes on where it stopped.
"""

import json
import time
from pathlib import Path
from typing import Any

from bench.report import Report, arguments, data_root

REFERENCE = 0.425  # test CIDEr of a plain 2+2-layer, width-256 transformer after 24 minutes of XE
BOUND, MINUTES = 0.45, 45.0
SCST_MINUTES, SCST_GAIN = 40.0, 1.10
HEAD_MINUTES = 4.0
SCST_EPOCHS = 8
NETWORK = ("grid:mobilenetv2_100", {"pad_type": "same", "mean": 0.5, "std": 0.5})
#: Reduced sizes of the heads, and the stores that each reads.
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {
        "dim": 256,
        "heads": 4,
        "hidden": 1024,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
}
STORES: dict[str, str] = {"transformer": "grid"}


def main() -> None:
    """Parse, run, print."""
    options = arguments(
        __doc__,
        head={"default": ""},
        control={"action": "store_true"},
        scst={"action": "store_true"},
        minutes={"type": float, "default": HEAD_MINUTES},
        work={"type": Path, "default": Path("bench-work/flickr8k")},
    )
    report = Report("flickr8k")
    images(options.work)
    extract(report, options.work)
    if options.head:
        small(report, options.work, options.head, options.minutes, options.control)
    else:
        full(report, options.work, options.scst)
    report.finish(options.json)


def images(work: Path) -> None:
    """Prepare the dataset in its standard splits."""
    from precap import prepare_data

    root = data_root() / "flickr8k"
    if not (work / "data" / "dataset.json").is_file():
        prepare_data(root / "captions.json", work / "data", images=root / "images", name="flickr8k")


def extract(report: Report, work: Path) -> None:
    """The grid store; the time is that of this run, 0 when everything was there."""
    from precap import extract_features

    name, settings = NETWORK
    weights = data_root() / "weights" / "mobilenetv2_100" / "imagenet.safetensors"
    (done,) = extract_features(
        name, data=work / "data", out=work / "features", settings=settings, weights=str(weights)
    )
    if done.computed:
        report.row("extract", "minutes", done.seconds / 60, "min")
        report.row("extract", "rate", done.computed / done.seconds, "images/s")
    report.row("extract", "images with features", done.ok, "images")


def full(report: Report, work: Path, scst: bool) -> None:
    """The recipe to its end, scored once on test."""
    from precap import train_head

    run = work / "runs" / ("scst" if scst else "xe")
    options = {"scst.epochs": SCST_EPOCHS} if scst else {}
    begun = time.perf_counter()
    result = train_head(
        "grid", data=work / "data", stores=work / "features", out=run, recipe="flickr8k",
        options=options,
    )  # fmt: skip
    report.row(run.name, "wall time of this command", (time.perf_counter() - begun) / 60, "min")
    report.row(run.name, "training", result.minutes, "min")
    report.row(run.name, "parameters", result.parameters / 1e6, "M")
    report.row(run.name, "peak memory", result.peak_memory / 2**30, "GiB")
    scores = score(report, run)
    if scst:
        base = json.loads((work / "runs" / "xe" / "scores-test.json").read_text())
        before = base["xe"]["corpus"]["CIDEr"]
        report.at_least("SCST raises test CIDEr by", scores["CIDEr"] / before, SCST_GAIN)
    else:
        report.at_least("test CIDEr after XE", scores["CIDEr"], BOUND)
        report.at_most("minutes of XE on 2 cores", result.minutes, MINUTES)


def small(report: Report, work: Path, head: str, minutes: float, control: bool) -> None:
    """One head at its reduced size for a few minutes of XE."""
    from precap import train_head

    run = work / "runs" / f"{head}{'-control' if control else ''}"
    result = train_head(
        STORES.get(head, "grid"), head=head, data=work / "data", stores=work / "features", out=run,
        recipe="flickr8k",
        options={
            "head_config": SMALL.get(head, {}),
            "xe.epochs": epochs_in(work, head, minutes),
            "shuffle_features": control,
        },
    )  # fmt: skip
    report.row(run.name, "training", result.minutes, "min")
    report.row(run.name, "parameters", result.parameters / 1e6, "M")
    report.row(run.name, "peak memory", result.peak_memory / 2**30, "GiB")
    score(report, run)


def epochs_in(work: Path, head: str, minutes: float) -> float:
    """Epochs that fit into ``minutes``, from the pace of a twentieth of one (remembered)."""
    from precap import train_head

    memo = work / f"pace-{head}.json"
    if not memo.is_file():
        probe = work / "runs" / f"pace-{head}"
        share = 0.05
        result = train_head(
            STORES.get(head, "grid"), head=head, data=work / "data", stores=work / "features",
            out=probe, recipe="flickr8k",
            options={
                "head_config": SMALL.get(head, {}), "xe.epochs": share, "val_images": 1,
                "resume": "none",
            },
        )  # fmt: skip
        memo.write_text(json.dumps(result.minutes / share))
    return round(minutes / float(json.loads(memo.read_text())), 2)


def score(report: Report, run: Path) -> dict[str, float]:
    """Beam-5 scores on the test split."""
    from precap import evaluate_runs

    found = evaluate_runs(run, split="test", beam=5)
    corpus = dict(found.scores[run.name].corpus)
    for metric, value in corpus.items():
        report.row(run.name, f"test {metric}", value, "")
    return corpus


if __name__ == "__main__":
    main()
