"""Import of a bottom-up TSV of 10 to 100 boxes per image: speed, and memory that does not grow."""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import report

report.pin_threads(1)

import numpy as np  # noqa: E402

#: The released file of 10 to 100 boxes weighs 22 GB and has so many images.
RELEASED_IMAGES = 123_287

PRECAP = """
from pathlib import Path
from precap.store.importers.run import import_store
import_store(Path(source), Path(out))
"""

#: What self-critical's scripts/make_bu_data.py does: csv, base64, one compressed .npz per image.
NPZ = """
import base64, csv, os
import numpy as np
csv.field_size_limit(1 << 30)
os.makedirs(out)
names = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
for row in csv.DictReader(open(source), names, delimiter="\\t"):
    features = np.frombuffer(base64.b64decode(row["features"]), np.float32)
    features = features.reshape(int(row["num_boxes"]), -1)
    np.savez_compressed(os.path.join(out, row["image_id"]), feat=features)
"""

#: The limit: every row split and decoded, nothing kept.
DECODE = """
import base64
import numpy as np
for line in open(source, "rb"):
    cells = line.split(b"\\t")
    np.frombuffer(base64.b64decode(cells[5]), np.float32).sum()
"""


def write(path: Path, megabytes: int) -> int:
    """A TSV of about this size, 2048 numbers per box; how many images it has."""
    random = np.random.default_rng(0)
    images = 0
    with path.open("wb") as file:
        while file.tell() < megabytes << 20:
            boxes = int(random.integers(10, 101))
            arrays = [random.random((boxes, width), np.float32) for width in (4, 2048)]
            cells = [b"%d" % images, b"640", b"480", b"%d" % boxes]
            cells += [base64.b64encode(array.tobytes()) for array in arrays]
            file.write(b"\t".join(cells) + b"\r\n")
            images += 1
    return images


def write_small(path: Path, images: int) -> int:
    """A TSV of so many images with one box of two numbers: what an import keeps per image."""
    box, features = (base64.b64encode(np.ones((1, width), "f4").tobytes()) for width in (4, 2))
    with path.open("wb") as file:
        for image in range(images):
            name = b"COCO_train2014_%012d" % image
            file.write(b"\t".join([name, b"640", b"480", b"1", box, features]) + b"\r\n")
    return images


def measure(program: str, source: Path, out: Path) -> tuple[float, float]:
    """Wall seconds and peak memory (MB) of a program in a process of its own."""
    after = "import json, resource\nprint(json.dumps(resource.getrusage(resource.RUSAGE_SELF)[2]))"
    code = f"source, out = {str(source)!r}, {str(out)!r}\n{program}\n{after}"
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    took = time.perf_counter() - begun
    return took, json.loads(done.stdout.splitlines()[-1]) / 1024  # Linux counts kilobytes


def main() -> None:
    options = report.arguments(
        __doc__, megabytes={"type": int, "default": 768, "help": "size of the larger file"}
    )
    out = report.Report("import_tsv")
    folder = Path(tempfile.mkdtemp(prefix="precap-bench-"))
    try:
        run(out, folder, options.megabytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out.finish(options.json)


def run(out: report.Report, folder: Path, megabytes: int) -> None:
    peaks = []
    for size in (megabytes // 4, megabytes):
        source = folder / f"{size}.tsv"
        images = write(source, size)
        case = f"TSV of {size} MB, {images} images"
        peaks.append(_import(out, case, source))
    again, _ = measure(PRECAP, source, source.with_suffix(".store"))
    out.row(case, "precap import again, nothing left to do", again, "s")
    actual = source.stat().st_size / 2**20
    took, _ = measure(DECODE, source, folder / "none")
    out.row(case, "decode only (the limit)", actual / took, "MB/s")
    took, _ = measure(NPZ, source, folder / "npz")
    out.row(case, "one compressed .npz per image (self-critical)", actual / took, "MB/s")
    small = folder / "small.tsv"
    images = write_small(small, RELEASED_IMAGES)
    index = _import(out, f"TSV of {images} images of one small box", small)
    # A 22 GB file needs the working set of the larger file and the index of the small one. Both
    # peaks hold the interpreter and its libraries, so that their sum is more than it can be.
    out.at_most("peak memory for a 22 GB file (sum of both peaks), MB", peaks[1] + index, 1000)
    out.at_most("growth of peak memory over a file four times as large", peaks[1] / peaks[0], 1.5)


def _import(out: report.Report, case: str, source: Path) -> float:
    """Peak memory of an import, in MB."""
    took, peak = measure(PRECAP, source, source.with_suffix(".store"))
    out.row(case, "precap import", source.stat().st_size / 2**20 / took, "MB/s")
    out.row(case, "precap import, peak memory", peak, "MB")
    return peak


if __name__ == "__main__":
    main()
