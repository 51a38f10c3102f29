"""The CIDEr-D engine against pycocoevalcap's scorer: equal scores, hypotheses per CPU-second."""

import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import report

IMAGES, PER_IMAGE, LONGEST = 50, 5, 20


def captions(root: Path) -> tuple[list[list[str]], str]:
    """References of many images: Flickr30k's, else Flickr8k's, else made up."""
    flickr = root / "flickr30k"
    if flickr.is_dir():
        lines = [_lines(flickr / f"train.{i}.en.gz") for i in range(1, 6)]
        return [list(five) for five in zip(*lines, strict=True)], "Flickr30k training captions"
    small = root / "flickr8k" / "captions.json"
    if small.is_file():
        return [item["captions"] for item in json.loads(small.read_text("utf-8"))], "Flickr8k"
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(3000)]
    zipf = 1 / np.arange(1, 3001)
    drawn = rng.choice(3000, (4000, 5, 11), p=zipf / zipf.sum())
    return [[" ".join(words[w] for w in row) for row in five] for five in drawn], "made-up captions"


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def hypotheses(references: Sequence[Sequence[list[int]]], images: Any, rng: Any) -> list[list[int]]:
    """What a half-trained model says: references with words exchanged, ends cut, or another's."""
    vocabulary = max(max(r) for refs in references for r in refs if r) + 1
    found = []
    for image in np.repeat(images, PER_IMAGE):
        other = rng.integers(len(references)) if rng.random() < 0.3 else image
        row = list(references[other][rng.integers(len(references[other]))])[:LONGEST]
        for place in range(len(row)):
            if rng.random() < 0.2:
                row[place] = int(rng.integers(vocabulary))
        found.append(row[: max(1, len(row) - int(rng.integers(3)))])
    return found


def cpu_seconds(call: Callable[[], Any], runs: int) -> float:
    """Median CPU time of a call in this process."""
    times = []
    for _ in range(runs):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return report.median(times)


def measure(found: report.Report, runs: int) -> None:
    """One batch of a self-critical step: 50 images, five candidates each."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    from precap import allocator, text
    from precap.train import ciderd

    allocator.retain()  # as in training

    corpus, name = captions(report.data_root())
    known: dict[str, int] = {}
    tokens = [[text.normalise(c).lower().split() for c in refs] for refs in corpus]
    numbered = [[[known.setdefault(w, len(known)) for w in row] for row in refs] for refs in tokens]
    begun = time.process_time()
    engine = ciderd.CiderD(numbered)
    found.row(name, "references prepared once", time.process_time() - begun, "CPU s")
    rng = np.random.default_rng(0)
    images = rng.choice(len(corpus), IMAGES, replace=False)
    said = hypotheses(numbered, images, rng)
    rows, table = np.repeat(images, PER_IMAGE), ciderd.as_table(said)
    words = list(known)
    spoken = [" ".join(words[n] for n in row) for row in said]
    texts = [[" ".join(row) for row in tokens[image]] for image in rows]

    def reference() -> Any:
        scorer = CiderScorer(n=4, sigma=6.0)
        for hypothesis, refs in zip(spoken, texts, strict=True):
            scorer += (hypothesis, refs)
        return scorer.compute_score()

    # The same corpus for both: the library counts documents over what it is given.
    batch = ciderd.CiderD([numbered[image] for image in rows])
    mine = batch(np.arange(len(rows)), table)
    difference = float(np.abs(mine - reference()[1]).max())
    found.row(name, "largest difference of a score", difference, "")
    found.at_most("scores equal pycocoevalcap's", difference, 1e-6)
    theirs = cpu_seconds(reference, max(3, runs // 4))
    ours = cpu_seconds(lambda: engine(rows, table), runs)
    found.row(
        name, "pycocoevalcap CIDEr", len(rows) / theirs, "hypotheses/CPU s", max(3, runs // 4)
    )
    found.row(name, "precap CIDEr-D", len(rows) / ours, "hypotheses/CPU s", runs)
    found.at_least("times the hypotheses per CPU-second", theirs / ours, 50)


def main() -> None:
    options = report.arguments(__doc__, runs={"type": int, "default": 21})
    found = report.Report("reward")
    measure(found, options.runs)
    found.finish(options.json)


if __name__ == "__main__":
    report.pin_threads(1)
    main()
