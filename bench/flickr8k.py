"""The whole pipeline on Flickr8k's 8,091 pictures: extraction, training, beam-5 test scores.

    python -m bench.flickr8k                        XE with the recipe ``flickr8k``
    python -m bench.flickr8k --scst                 the same, and then self-critical training
    python -m bench.flickr8k --head hin             any head at a reduced size, 4 minutes of XE
    python -m bench.flickr8k --head hin --control   the same on features shuffled between images

Features: MobileNetV2 with its ImageNet weights (8 x 8 x 1280), and its map averaged over detector
boxes for heads that read regions. The full run reads four views of every picture (the picture and
three augmented ones), the short runs of the heads only the picture. The recipe's size was chosen
for time; the test split is decoded once, at the end. Repeating a command goes on where it stopped.
The four minutes of a head are counted in CPU time (minutes x threads), so that another job on the
machine does not shorten them; validation and decoding come on top. Each run leaves its row in
``bench/flickr8k.jsonl``.
"""

import json
import time
from pathlib import Path
from typing import Any

from bench.report import Report, arguments, data_root, pin_threads

BOUND, MINUTES = 0.47, 45.0
SCST_EPOCHS, SCST_MINUTES, SCST_GAIN = 9, 40.0, 1.10
HEAD_MINUTES = 4.0
VIEWS = 4
RESULTS = Path(__file__).with_name("flickr8k.jsonl")
NETWORK = {"model": "mobilenetv2_100", "pad_type": "same", "mean": 0.5, "std": 0.5}
#: The pictures are squashed squares: nothing is cropped, and 256 pixels give 8 x 8 cells.
GRID = {"pad_type": "same", "mean": 0.5, "std": 0.5, "fit": "squash", "size": 256}
#: Reduced sizes: width 128, feed-forward 512, two layers; what differs is the head's own.
TRANSFORMER = {"dim": 128, "heads": 4, "hidden": 512}
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {**TRANSFORMER, "encoder_layers": 2, "decoder_layers": 2},
    "hin": {**TRANSFORMER, "layers": 2},
    "m2": {**TRANSFORMER, "layers": 2},
    "grit": {**TRANSFORMER, "layers": 2},
    "hiercap": {**TRANSFORMER, "layers": 2, "cells": 64},
    "ort": {**TRANSFORMER, "layers": 2, "input_dropout": 0.1},
    "spatial": {**TRANSFORMER, "layers": 2, "squeezed": 64},
    "updown": {"dim": 128, "words": 128, "attention": 64, "dropout": 0.1},
    "att2in": {"dim": 256, "words": 128, "attention": 128, "dropout": 0.3},
    "prefix": {
        "dim": 128, "heads": 4, "layers": 2, "mapper": "transformer", "inputs": "grid",
        "mapper_layers": 2, "mapper_heads": 4, "hidden": 512, "prefix": 10, "rows": 64,
        "positions": 128,
    },
}  # fmt: skip
#: What a few minutes of cross-entropy want: more and larger steps than the full recipe's.
SHORT = {"batch_size": 16, "xe.optim.lr": 1e-3, "average": 0.99, "validate_epochs": 1000}
STORES = {
    **dict.fromkeys(("transformer", "prefix"), "grid"),
    **dict.fromkeys(("hin", "grit", "hiercap"), "grid,region"),
    **dict.fromkeys(("m2", "ort", "spatial", "updown", "att2in"), "region"),
}
#: A language model over pieces needs a vocabulary of them; there is no GPT-2 file to be had here.
#: Two LSTMs on top of each other take many updates before the image and the last word reach the
#: answer: they get smaller batches.
OPTIONS: dict[str, dict[str, Any]] = {
    "updown": {"batch_size": 8, "xe.optim.lr": 2e-3},
    "prefix": {"text.vocabulary": "bpe", "text.size": 2500, "text.longest": 28},
}


def main() -> None:
    """Parse, run, print."""
    options = arguments(
        __doc__,
        head={"default": "", "choices": ["", *SMALL]},
        control={"action": "store_true"},
        scst={"action": "store_true"},
        minutes={"type": float, "default": HEAD_MINUTES},
        threads={"type": int, "default": 2},
        work={"type": Path, "default": Path("bench-work/flickr8k")},
    )
    pin_threads(options.threads)
    report = Report("flickr8k")
    images(options.work)
    if options.head:
        extract(report, options.work, STORES[options.head])
        small(report, options)
    else:
        extract(report, options.work, "grid", VIEWS)
        full(report, options.work, options.threads)
        if options.scst:
            self_critical(report, options.work, options.threads)
    report.finish(options.json)


def images(work: Path) -> None:
    """Prepare the dataset in its standard splits."""
    from precap import prepare_data

    root = data_root() / "flickr8k"
    if not (work / "data" / "dataset.json").is_file():
        prepare_data(root / "captions.json", work / "data", images=root / "images", name="flickr8k")


def features(work: Path, views: int) -> Path:
    """Where stores with so many views are kept."""
    return work / ("features" if views == 1 else "views")


def extract(report: Report, work: Path, stores: str, views: int = 1) -> None:
    """The stores that are read; the time is that of this run, 0 when everything was there."""
    from precap import extract_features

    boxes = data_root() / "flickr8k" / "boxes_yolox_nano.json"
    weights = data_root() / "weights" / "mobilenetv2_100" / "imagenet.safetensors"
    settings: dict[str, dict[str, Any]] = {
        "grid": GRID,
        "region": {"boxes": str(boxes), "grid": NETWORK},
    }
    names = {"grid": f"grid:{NETWORK['model']}", "region": "region:grid"}
    for store in stores.split(","):
        (done,) = extract_features(
            names[store], data=work / "data", out=features(work, views),
            settings=settings[store], weights=str(weights), views=views,
        )  # fmt: skip
        if done.computed:
            report.row(f"extract {store}", "minutes", done.seconds / 60, "min")
            report.row(f"extract {store}", "rate", done.computed / done.seconds, "images/s")
        report.row(f"extract {store}", "images with features", done.ok, "images")


def train(work: Path, run: Path, stores: str, threads: int, views: int = 1, **options: Any) -> Any:
    """Train with the recipe ``flickr8k`` and these changes."""
    from precap import train_head

    head = options.pop("head", None)
    listen = options.pop("on_event", None)
    changes = {"threads": threads, "device": "cpu", **options}
    return train_head(
        stores, head=head, data=work / "data", stores=features(work, views),
        out=run, recipe="flickr8k", options=changes, on_event=listen,
    )  # fmt: skip


def full(report: Report, work: Path, threads: int) -> None:
    """The recipe's cross-entropy to its end, scored once on test."""
    run = work / "runs" / "xe"
    result = train(work, run, "grid", threads, VIEWS, **{"scst.epochs": 0})
    row = finish(report, run, result, {"head": "transformer", "phase": "xe", "threads": threads})
    report.at_least("test CIDEr after XE", row["CIDEr"], BOUND)
    report.at_most("minutes of XE", result.minutes, MINUTES)


def self_critical(report: Report, work: Path, threads: int) -> None:
    """The recipe's self-critical phase from the best weights of the run before."""
    run, before = work / "runs" / "scst", work / "runs" / "xe"
    result = train(
        work,
        run,
        "grid",
        threads,
        VIEWS,
        init_run=str(before),
        **{"xe.epochs": 0, "scst.epochs": SCST_EPOCHS},
    )
    row = finish(report, run, result, {"head": "transformer", "phase": "scst", "threads": threads})
    base = json.loads((before / "scores-test.json").read_text())["xe"]["corpus"]["CIDEr"]
    report.at_least("SCST raises test CIDEr by", row["CIDEr"] / base, SCST_GAIN)
    report.at_most("minutes of SCST", result.minutes, SCST_MINUTES)


def small(report: Report, options: Any) -> None:
    """One head at its reduced size for a few minutes of XE."""
    head, work = options.head, options.work
    run = work / "runs" / f"{head}{'-control' if options.control else ''}"
    epochs = options.minutes * 60 * options.threads / seconds_per_epoch(options)
    result = train(
        work, run, STORES[head], options.threads, head=head,
        **{
            "head_config": SMALL[head], "xe.epochs": round(epochs, 2), "scst.epochs": 0,
            "shuffle_features": options.control, **SHORT, **OPTIONS.get(head, {}),
        },
    )  # fmt: skip
    facts = {
        "head": head, "control": options.control, "minutes": options.minutes,
        "threads": options.threads, "epochs": round(epochs, 2),
    }  # fmt: skip
    finish(report, run, result, facts)


def seconds_per_epoch(options: Any) -> float:
    """CPU seconds of an epoch, from the second half of a tenth of one (remembered)."""
    head, work = options.head, options.work
    memo = work / f"pace-{head}-{options.threads}.json"
    if not memo.is_file():
        marks: list[tuple[float, float]] = []

        def listen(event: dict[str, Any]) -> None:
            if event.get("kind") == "step":
                marks.append((time.process_time(), event["epoch"]))

        train(
            work, work / "runs" / f"pace-{head}", STORES[head], options.threads, head=head,
            on_event=listen,
            **{
                "head_config": SMALL[head], "xe.epochs": 0.11, "scst.epochs": 0, "log_every": 20,
                "val_images": 1, "resume": "none", **SHORT, **OPTIONS.get(head, {}),
            },
        )  # fmt: skip
        (begun, first), (ended, last) = marks[0], marks[-1]
        memo.write_text(json.dumps((ended - begun) / (last - first)))
    return float(json.loads(memo.read_text()))


def finish(report: Report, run: Path, result: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Score a run on test with beam 5, show it, keep its row."""
    from precap import evaluate_runs

    found = evaluate_runs(run, split="test", beam=5, report=False)
    corpus = {name: round(value, 4) for name, value in found.scores[run.name].corpus.items()}
    report.row(run.name, "training", result.minutes, "min")
    report.row(run.name, "parameters", result.parameters / 1e6, "M")
    report.row(run.name, "peak memory", result.peak_memory / 2**30, "GiB")
    for metric, value in corpus.items():
        report.row(run.name, f"test {metric}", value, "")
    row = {
        "run": run.name, **facts, "val CIDEr": round(result.scores["CIDEr"], 4), **corpus,
        "parameters": result.parameters, "trained": round(result.minutes, 1),
        "peak GiB": round(result.peak_memory / 2**30, 2),
    }  # fmt: skip
    keep(row)
    return row


def keep(row: dict[str, Any]) -> None:
    """Replace this run's row in the file of results."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    others = [line for line in lines if json.loads(line)["run"] != row["run"]]
    RESULTS.write_text("\n".join(sorted([*others, json.dumps(row)])) + "\n")


if __name__ == "__main__":
    main()
