"""Extraction against the bare loop it cannot beat: decode, resize, normalise, forward.

The whole pipeline (reading, hashing, decoding, preprocessing, forward, casting, shards, ledger,
fsync) may cost at most 1.15 times the CPU seconds of that loop, at the same batch and threads, in
the same run, and its peak memory may not depend on the number of images.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import report

MODELS = {
    "MobileNetV2": ("grid:mobilenetv2_100", {"pad_type": "same", "mean": 0.5, "std": 0.5}),
    "ViT-B/32": ("clip:ViT-B-32", {}),
}
#: Gives features as large as MobileNetV2's for a third of the arithmetic.
LIGHT = "grid:mobilenetv2_035"
BATCH, WORKERS, SHARD = 32, 1, 256


def main() -> None:
    """Parse the options, measure, print, leave with the exit code."""
    options = report.arguments(
        __doc__,
        images={"type": int, "default": 160, "help": "pictures per timed run"},
        runs={"type": int, "default": 3, "help": "timed runs; medians are shown"},
        large={"type": int, "default": 8000, "help": "pictures of the large memory run; 0 = none"},
        threads={"type": int, "default": 1, "help": "compute threads"},
        child={"default": "", "help": "used by the bench itself"},
    )
    report.pin_threads(options.threads)
    if options.child:
        _extract_and_print_peak(json.loads(options.child))
        return
    photos = _photos(options.images)
    bench = report.Report("extract")
    with tempfile.TemporaryDirectory(prefix="precap-bench-") as folder:
        for model in MODELS:
            _speed(bench, model, photos, options.runs, Path(folder))
        if options.large:
            _memory(bench, photos, options.large, Path(folder))
    bench.finish(options.json)


def _photos(count: int) -> list[Path]:
    """Real photographs at original size, repeated as different files when there are too few."""
    root = report.data_root()
    found = sorted((root / "flickr8k" / "originals").glob("*.jpg"))
    found += sorted((root / "coco" / "images" / "train2017").glob("*.jpg"))
    if not found:
        sys.exit(f"bench.extract needs photographs in {root}; set PRECAP_BENCH_DATA.")
    return [found[number % len(found)] for number in range(count)]


def _copies(photos: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """``count`` files, no two alike: trailing bytes do not change the picture."""
    folder.mkdir(exist_ok=True)
    made = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if not path.exists():
            path.write_bytes(photos[number % len(photos)].read_bytes() + b"%08d" % number)
        made.append(path)
    return made


def _speed(
    bench: report.Report, model: str, photos: Sequence[Path], runs: int, folder: Path
) -> None:
    import statistics

    from precap.allocator import retain

    retain()  # for both contenders: the bare loop gains as much from it
    name, settings = MODELS[model]
    paths = _copies(photos, len(photos), folder / "photos")
    bare = _bare_loop(model, paths)
    bare()  # warm up
    ratios, alone, whole = [], [], []
    for run in range(runs):
        alone.append(_cpu(bare))
        whole.append(_pipeline(name, settings, paths, folder / f"{model[:3]}-{run}"))
        ratios.append(whole[-1] / alone[-1])
    case = f"{model} at 224, batch {BATCH}"
    bench.row(
        case, "bare loop, CPU per image", 1e3 * statistics.median(alone) / len(paths), "ms", runs
    )
    bench.row(
        case, "precap, CPU per image", 1e3 * statistics.median(whole) / len(paths), "ms", runs
    )
    ratio = statistics.median(ratios)
    bench.at_most(f"{model}: CPU seconds of the pipeline over the bare loop", ratio, 1.15)


def _bare_loop(model: str, paths: Sequence[Path]) -> Callable[[], None]:
    """What anybody would write: torchvision transforms and the model, nothing stored."""
    import open_clip
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms

    if model == "ViT-B/32":
        network: Any = open_clip.create_model("ViT-B-32", pretrained=None).visual.eval()
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        side = 224
    else:
        network = timm.create_model("mobilenetv2_100", pad_type="same").eval()
        network.forward = network.forward_features
        mean, std, side = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 256
    bicubic = transforms.InterpolationMode.BICUBIC
    prepare = transforms.Compose(
        [
            transforms.Resize(side, bicubic),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )

    def loop() -> None:
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH):
                pictures = [
                    Image.open(path).convert("RGB") for path in paths[start : start + BATCH]
                ]
                network(torch.stack([prepare(picture) for picture in pictures]))

    return loop


def _pipeline(name: str, settings: dict[str, Any], paths: Sequence[Path], out: Path) -> float:
    """CPU seconds of everything after the extractor is built, planning included."""
    from precap.extract import runner
    from precap.extract.recipe import Recipe
    from precap.types import ImageRef

    refs = [ImageRef(path.stem, path) for path in paths]
    built: list[float] = []
    real = Recipe.build

    def timed(self: Recipe, **options: Any) -> Any:
        begun = time.process_time()
        made = real(self, **options)
        built.append(time.process_time() - begun)
        return made

    Recipe.build = timed  # type: ignore[method-assign]
    try:
        spent = _cpu(
            lambda: runner.extract(
                refs, out, name, weights="random:0", device="cpu", batch_size=BATCH,
                workers=WORKERS, shard_size=SHARD, settings=settings,
            )
        )  # fmt: skip
    finally:
        Recipe.build = real  # type: ignore[method-assign]
    return spent - sum(built)


def _cpu(call: Callable[[], Any]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def _memory(bench: report.Report, photos: Sequence[Path], large: int, folder: Path) -> None:
    """Peak resident memory of a fresh process over few and over many images."""
    small = min(photos, key=lambda path: path.stat().st_size)
    paths = _copies([small], large, folder / "many")
    peaks = {}
    for count in (80, large):
        job = {"paths": [str(path) for path in paths[:count]], "out": str(folder / f"n{count}")}
        peaks[count] = _child(job, folder)
        bench.row(f"peak memory, {LIGHT}", f"{count:,} images", peaks[count] / 2**20, "MiB")
    bench.at_most(f"peak memory at {large:,} images over that at 80", peaks[large] / peaks[80], 1.1)


def _child(job: dict[str, Any], folder: Path) -> float:
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "bench.extract", "--child", json.dumps({"job": str(file)})]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return float(done.stdout.strip().splitlines()[-1])


def _extract_and_print_peak(child: dict[str, Any]) -> None:
    from precap import allocator
    from precap.extract import runner
    from precap.types import ImageRef

    job = json.loads(Path(child["job"]).read_text())
    refs = [ImageRef(Path(path).stem, Path(path)) for path in job["paths"]]
    runner.extract(
        refs, Path(job["out"]), LIGHT, weights="random:0", device="cpu", batch_size=BATCH,
        workers=WORKERS,
    )  # fmt: skip
    print(allocator.peak())


if __name__ == "__main__":
    main()
