"""Scoring 5,000 published captions against pycocoevalcap, and a report of 5,000 pictures.

    python -m bench.evaluate                  one published system, speed and equality
    python -m bench.evaluate --published      all six, METEOR too: their published scores again

Speed: our tokeniser + BLEU + ROUGE-L + CIDEr-D against pycocoevalcap's Java tokeniser + the same,
in turns in one run, nothing cached. The bootstrap is timed apart. Report: Flickr8k's pictures.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import report

report.pin_threads(1)

FAST = ("bleu", "rouge", "cider")
TIMED = "show_edit_tell_rl"
#: Published figures are printed with five decimals; equality is held to a half of the last.
DIGIT = 0.5e-5
MEGABYTES, PICTURES = 40.0, 5000
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


def main() -> None:
    """Parse the options, measure, print, leave with the exit code."""
    options = report.arguments(
        __doc__,
        runs={"type": int, "default": 3, "help": "timed runs; medians are shown"},
        published={"action": "store_true", "help": "score all published outputs, with METEOR"},
    )
    root = report.data_root()
    if not (root / "coco" / "published_outputs").is_dir():
        sys.exit(f"bench.evaluate needs coco/published_outputs in {root}; set PRECAP_BENCH_DATA.")
    bench = report.Report("evaluate")
    _speed(bench, root / "coco", options.runs)
    _published(bench, root / "coco", options.published)
    _page(bench, root / "flickr8k")
    bench.finish(options.json)


def _load(coco: Path, name: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    from precap.evaluate import predictions

    references = predictions.read_references(coco / "captions" / "karpathy_test_refs.json")
    return predictions.read(coco / "published_outputs" / f"{name}.json"), references


def _speed(bench: report.Report, coco: Path, runs: int) -> None:
    from precap.evaluate import metrics, significance
    from precap.text import tokenize

    captions, references = _load(coco, TIMED)
    theirs: dict[str, float] = {}

    def ours() -> Any:
        metrics.words.cache_clear()
        return metrics.score(captions, references, FAST)

    times = report.side_by_side(
        {"pycocoevalcap": lambda: theirs.update(_reference(captions, references)), "precap": ours},
        runs,
        warm=0,
    )
    found = ours()
    case = "5,000 predictions, 25,010 references"
    for name, values in times.items():
        bench.row(
            case, f"{name}: tokeniser, BLEU, ROUGE-L, CIDEr-D", report.median(values), "s", runs
        )
    texts = [*captions.values(), *(r for refs in references.values() for r in refs)]
    alone = report.seconds(lambda: [tokenize(text) for text in texts])
    bench.row(case, "precap's tokeniser alone", alone, "s")
    bench.row(
        case,
        "bootstrap intervals, 1,000 resamples",
        report.seconds(lambda: significance.intervals(found)),
        "s",
    )
    ratios = [b / a for a, b in zip(times["pycocoevalcap"], times["precap"], strict=True)]
    bench.at_most("time of precap / pycocoevalcap", report.median(ratios), 1.2)
    gap = max(abs(found.corpus[name] - value) for name, value in theirs.items())
    bench.at_most("largest difference from pycocoevalcap's values", gap, DIGIT)


def _reference(captions: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """pycocoevalcap as its own example runs it."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    with contextlib.redirect_stdout(io.StringIO()):
        gts = tokenizer.tokenize({i: [{"caption": c} for c in references[i]] for i in captions})
        res = tokenizer.tokenize({i: [{"caption": c}] for i, c in captions.items()})
        bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
        rouge, _ = Rouge().compute_score(gts, res)
        cider, _ = Cider().compute_score(gts, res)
    return {**{f"BLEU-{n + 1}": bleu[n] for n in range(4)}, "ROUGE-L": rouge, "CIDEr": cider}


def _published(bench: report.Report, coco: Path, everything: bool) -> None:
    """Scores of published captions against the scores the reference evaluation gave them."""
    from precap.evaluate import metrics

    truth = json.loads((coco / "published_outputs" / "scores.json").read_text("utf-8"))
    names = list(truth) if everything else [TIMED]
    chosen = (*FAST, "meteor") if everything else FAST
    worst = 0.0
    for name in names:
        found = metrics.score(*_load(coco, name), chosen)
        for metric, value in found.corpus.items():
            expected = truth[name][metric.replace("BLEU-", "Bleu_").replace("-", "_")]
            worst = max(worst, abs(value - expected))
            bench.row(name, metric, value, f"(published {expected:.5f})")
        for metric, why in found.unavailable.items():
            bench.at_most(f"{name}: {metric} unavailable ({why})", 1, 0)
    bench.at_most(f"largest difference from {len(names)} published systems' scores", worst, DIGIT)


def _page(bench: report.Report, flickr: Path) -> None:
    """A report of 5,000 pictures, two runs, 200 attention maps."""
    import numpy as np

    from precap.evaluate import metrics
    from precap.evaluate import report as page
    from precap.evaluate.heatmaps import Attention

    if not flickr.is_dir():
        return
    rows = json.loads((flickr / "captions.json").read_text("utf-8"))[:PICTURES]
    references = {row["file"]: row["captions"][:4] for row in rows}
    images = {row["file"]: flickr / "images" / row["file"] for row in rows}
    draw = np.random.default_rng(0)
    runs = []
    for number in range(2):
        captions = {row["file"]: row["captions"][4 - number] for row in rows}
        looks = {
            i: Attention(c.split(), draw.random((len(c.split()), 144)), grid=(12, 12))
            for i, c in list(captions.items())[: page.HEATMAPS]
        }
        scores = metrics.score(captions, references, FAST)
        runs.append(page.RunPage(f"run {number}", captions, scores, attention=looks))
    with tempfile.TemporaryDirectory(prefix="precap-bench-") as folder:
        begun = time.perf_counter()
        path = page.write(Path(folder) / "report.html", runs, references, images)
        bench.row("report of 5,000 pictures", "writing", time.perf_counter() - begun, "s")
        size = path.stat().st_size / 1e6
        bench.row("report of 5,000 pictures", "size", size, "MB")
        bench.at_most("size of a report of 5,000 pictures, MB", size, MEGABYTES)
        if (opening := _opening(path)) is not None:
            bench.row("report of 5,000 pictures", "opening in Chromium", opening, "s")
            bench.at_most("seconds until a report of 5,000 pictures is open", opening, 3.0)


def _opening(path: Path) -> float | None:
    """Seconds from navigation to the drawn gallery in a headless Chromium; None without one."""
    import shutil

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(prefix="precap-bench-") as profile:
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            chromium.get("about:blank")
            begun = time.perf_counter()
            chromium.get(path.as_uri())
            chromium.find_element("css selector", ".card img")
            return time.perf_counter() - begun
        finally:
            chromium.quit()


if __name__ == "__main__":
    main()
